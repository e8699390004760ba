"""What s3fs can do and has no method for.

A get on condition, that tells what it got; and a put of a file that leaves no parts when it is cancelled.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fsspec.callbacks import Callback

from stores.bodies import GivenUp

__all__ = ["get_object", "put_file"]


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


class _Progress(Callback):  # type: ignore[misc]  # fsspec is untyped
    """Fails the upload that tells of its progress, once it is given up."""

    given_up = False

    def relative_update(self, inc: int = 1) -> None:  # noqa: ARG002 - that there is progress is enough
        if self.given_up:
            raise GivenUp


async def put_file(fs: Any, source: str, path: str, **options: Any) -> None:
    """Put a file, and leave no parts when cancelled.

    s3fs aborts what fails and not what is cancelled: so it is made to fail, at its next part.

    Parameters
    ----------
    fs : s3fs.S3FileSystem
        The file system; call it on its loop.
    source : str
        Path of the file.
    path : str
        Bucket and key.
    **options
        Of ``_put_file``.
    """
    progress = _Progress()
    putting = asyncio.ensure_future(fs._put_file(source, path, callback=progress, **options))
    try:
        await asyncio.shield(putting)
    except asyncio.CancelledError:
        progress.given_up = True
        await asyncio.wait([putting])
        if not putting.cancelled():
            putting.exception()  # it is nobody's any more
        raise
