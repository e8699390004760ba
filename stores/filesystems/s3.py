"""The one thing that s3fs can do and has no method for: a get on condition, that tells what it got."""

from __future__ import annotations

from typing import Any

__all__ = ["get_object"]


async def get_object(
    fs: Any, path: str, start: int | None, stop: int | None, if_version: str | None
) -> tuple[bytes, dict[str, Any]]:
    """Get an object, or its bytes ``[start, stop)``, in one request.

    Parameters
    ----------
    fs : s3fs.S3FileSystem
        The file system; call it on its loop.
    path : str
        Bucket and key.
    start, stop : int, optional
        The range; both or neither.
    if_version : str, optional
        The ETag that it must have.

    Returns
    -------
    data : bytes
    info : dict
        With ``ETag`` and ``LastModified``, of the very bytes that came.
    """
    bucket, key, _ = fs.split_path(path)
    options: dict[str, str] = {}
    if start is not None and stop is not None:
        options["Range"] = f"bytes={start}-{stop - 1}"
    if if_version is not None:
        options["IfMatch"] = if_version
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **options)
    async with answer["Body"] as body:
        data: bytes = await body.read()
    if start is not None and "ContentRange" not in answer:
        data = data[start:stop]  # a server that knows no ranges sends the whole
    return data, answer
