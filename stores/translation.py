"""What other people's libraries raise, as errors of the family of :mod:`stores.errors`.

For backends whose library has no closed set of errors of its own: fsspec's
file systems raise ``OSError`` and what their transports raise (botocore,
aiohttp, azure, paramiko, requests ...), zarr-python's stores raise anything.
The transports are recognised by what they carry (an HTTP status, an errno),
not by class, so that none of them need be imported.
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from stores.errors import (
    AlreadyExists,
    BadLocation,
    Corrupt,
    Denied,
    InvalidKey,
    NoSpace,
    NotFound,
    Precondition,
    ReadOnly,
    StoreError,
    Unavailable,
    Unsupported,
)

__all__ = ["translate_error"]

_BY_STATUS: dict[int, type[StoreError]] = {
    401: Denied,
    403: Denied,
    404: NotFound,
    405: Unsupported,
    410: NotFound,
    412: Precondition,
    501: Unsupported,
    507: NoSpace,
}

_BY_ERRNO: dict[int, type[StoreError]] = {
    errno.ENOENT: NotFound,
    errno.ENOTDIR: NotFound,
    errno.EISDIR: NotFound,
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EEXIST: AlreadyExists,
    errno.ENAMETOOLONG: InvalidKey,
    errno.EROFS: ReadOnly,
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.ENOSYS: Unsupported,
    errno.ENOTSUP: Unsupported,
}

_BY_CLASS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], type[StoreError]], ...] = (
    ((TimeoutError, asyncio.TimeoutError, ConnectionError), Unavailable),
    ((FileNotFoundError, NotADirectoryError, IsADirectoryError), NotFound),
    (PermissionError, Denied),
    (FileExistsError, AlreadyExists),
    (NotImplementedError, Unsupported),
    ((zipfile.BadZipFile, tarfile.ReadError, zlib.error, json.JSONDecodeError, EOFError), Corrupt),
    (ImportError, BadLocation),
)

_BY_NAME: dict[str, type[StoreError]] = {
    "NoCredentialsError": Denied,  # botocore
    "PartialCredentialsError": Denied,
    "CredentialRetrievalError": Denied,
    "UnauthorizedSSOTokenError": Denied,
    "DefaultCredentialsError": Denied,  # google.auth
    "RefreshError": Denied,
    "ClientAuthenticationError": Denied,  # azure
    "AuthenticationException": Denied,  # paramiko
    "error_perm": Denied,  # ftplib
}

_MESSAGES: dict[type[StoreError], str] = {
    NotFound: "no such key",
    AlreadyExists: "the key is taken",
    Precondition: "it has changed since it was looked up",
    ReadOnly: "the file system is read-only",
    NoSpace: "no space left, or over quota",
}

_USERINFO = re.compile(r"(?<=://)[^/\s@]*@")
_QUERY = re.compile(r"(?<=\S)\?[^\s'\"<>)]*")
_INVALID_KEY = re.compile(r"\binvalid (?:zarr )?key\b", re.IGNORECASE)  # icechunk takes Zarr's keys only
_LONGEST = 300


def translate_error(error: BaseException, key: str | None = None, *, exact_errno: bool = False) -> StoreError:
    """Return the error of the family that `error` means; raise it ``from error``.

    Parameters
    ----------
    error : exception
        What a library raised.
    key : str, optional
        What it was asked for.
    exact_errno : bool
        Whether the ``errno`` is the operating system's own, to be handed on.

    Returns
    -------
    StoreError
        `error` itself where it is of the family.  What is not recognised is Unavailable, never
        NotFound: nothing is known about the key.
    """
    if isinstance(error, StoreError):
        return error
    kind = _kind(error)
    os_errno = error.errno if exact_errno and isinstance(error, OSError) else None
    return kind(_MESSAGES.get(kind) or _tell(error, kind), key=key, os_errno=os_errno)


def _kind(error: BaseException) -> type[StoreError]:
    for one in _chain(error):
        by_status = _BY_STATUS.get(_status(one) or 0)
        if by_status is not None:
            return by_status
        by_name = _BY_NAME.get(type(one).__name__)
        if by_name is not None:
            return by_name
    if any(_status(one) is not None for one in _chain(error)):
        return Unavailable
    if _INVALID_KEY.search(str(error)):
        return InvalidKey
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and not isinstance(cause, LookupError):
        return _kind(cause)  # fsspec says "not found" of web servers that it failed to reach
    for classes, kind in _BY_CLASS:
        if isinstance(error, classes):
            return kind
    if isinstance(error, OSError) and error.errno is not None:
        return _BY_ERRNO.get(error.errno, Unavailable)
    return Unavailable


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it was raised from; not what was merely being handled."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an exception carries, wherever its library keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for holder in (error, response):
        for name in ("status", "status_code", "code"):  # aiohttp; azure, requests, httpx; gcsfs
            status = getattr(holder, name, None)
            if isinstance(status, int) and 300 <= status <= 599:
                return status
    return None


def _tell(error: BaseException, kind: type[StoreError]) -> str:
    """Say in one line what a library said, without the parts of URLs that may be secret."""
    said = " ".join(str(error).split())
    said = _QUERY.sub("?...", _USERINFO.sub("", said))[:_LONGEST]
    what = "the store refuses" if kind is Denied else "the store failed"
    return f"{what}: {type(error).__name__}: {said}" if said else f"{what}: {type(error).__name__}"
