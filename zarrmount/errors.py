"""The one table from errors to ``errno``, and the deadline that each store call has."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from stores import errors as store_errors
from stores.errors import StoreError, Unavailable

__all__ = ["deadline", "errno_of", "is_expected", "os_error", "patiently"]

Result = TypeVar("Result")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0

_ERRNO_OF_STORE_ERROR: dict[type[StoreError], int] = {
    store_errors.NotFound: errno.ENOENT,
    store_errors.AlreadyExists: errno.EEXIST,
    store_errors.Precondition: errno.ESTALE,
    store_errors.ReadOnly: errno.EROFS,
    store_errors.Denied: errno.EACCES,
    store_errors.Unsupported: errno.ENOTSUP,
    store_errors.InvalidKey: errno.EINVAL,
    store_errors.NoSpace: errno.ENOSPC,
    store_errors.Unavailable: errno.EIO,
    store_errors.Corrupt: errno.EIO,
    store_errors.BadLocation: errno.EINVAL,
}

# What a caller may meet in daily life; anything else is worth a line in the log.
_EXPECTED = frozenset(
    {
        errno.EACCES,
        errno.EBUSY,
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENODATA,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.ENOTSUP,
        errno.EPERM,
        errno.EROFS,
    }
)


def os_error(number: int) -> OSError:
    """Make the ``OSError`` of an errno, with the system's text for it."""
    return OSError(number, os.strerror(number))


def errno_of(error: BaseException) -> int:
    """Return the errno that a caller gets for `error`; total: never raises.

    What the operating system said to a store (``os_errno``) is handed on unchanged.  What is
    neither a store's error nor an ``OSError`` is a fault of ours and gives EIO.
    """
    if isinstance(error, StoreError):
        if error.os_errno:
            return error.os_errno
        kinds = (_ERRNO_OF_STORE_ERROR.get(kind) for kind in type(error).__mro__)
        return next((number for number in kinds if number is not None), errno.EIO)
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return errno.EIO


def is_expected(number: int) -> bool:
    """Tell whether an errno is an everyday answer rather than a failure to be logged."""
    return number in _EXPECTED


@contextmanager
def deadline(seconds: float, key: str) -> Iterator[None]:
    """Bound what a store call may take.

    Raises
    ------
    Unavailable
        If `seconds` have passed.
    """
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise Unavailable(f"the store did not answer within {seconds:g} s", key=key) from error


async def patiently(seconds: float, key: str, call: Callable[[], Awaitable[Result]]) -> Result:
    """Read from a store; ask again as long as it does not answer and there is time.

    Parameters
    ----------
    seconds : float
        How long to go on.
    key : str
        For the message.
    call : callable
        Asks once; asking again must do no harm.

    Raises
    ------
    Unavailable
        If there was no answer within `seconds`, or if it was this machine's own disk that failed.
    """
    pause = _FIRST_PAUSE
    last: Unavailable | None = None
    with trio.move_on_after(seconds):
        while True:
            try:
                return await call()
            except Unavailable as error:
                if error.os_errno is not None:
                    raise
                last = error
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    reason = f": {last.message}" if last is not None else ""
    raise Unavailable(f"the store did not answer within {round(seconds, 2):g} s{reason}", key=key) from last
