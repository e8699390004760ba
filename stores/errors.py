"""The closed family of errors that a store raises.

Every backend translates what its library raises into one of these, with the
key that was asked for and the cause.  Callers never see a botocore, fsspec or
obstore exception, and never have to guess from the text of a message.

Three of them must not be mixed up:

* :class:`NotFound` says that the store *answered* and the key is not there;
* :class:`Unavailable` says that the store did not answer, or not sensibly:
  nothing is known about the key (unreachable is never "deleted");
* :class:`Denied` says that the store answered and refuses.
"""

from __future__ import annotations

__all__ = [
    "AlreadyExists",
    "BadLocation",
    "Corrupt",
    "Denied",
    "InvalidKey",
    "NoSpace",
    "NotFound",
    "Precondition",
    "ReadOnly",
    "StoreError",
    "Unavailable",
    "Unsupported",
]


class StoreError(Exception):
    """Base of everything that a store raises.

    Parameters
    ----------
    message : str
        What happened, without the key: the key is added when printed.
    key : str, optional
        The key, prefix or option that it happened to.
    os_errno : int, optional
        The exact ``errno`` where the operating system gave one (local stores),
        so that a mount can hand it on unchanged.

    Notes
    -----
    Raise with ``from cause`` so that ``__cause__`` keeps the library's error.
    """

    def __init__(self, message: str, *, key: str | None = None, os_errno: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.key = key
        self.os_errno = os_errno

    def __str__(self) -> str:
        return self.message if self.key is None else f"{self.key!r}: {self.message}"


class NotFound(StoreError):
    """The store answered: there is no such key (or bucket, or archive)."""


class AlreadyExists(StoreError):
    """A conditional create found the key taken."""


class Precondition(StoreError):
    """The object is not (any more) of the version that the caller named."""


class ReadOnly(StoreError):
    """The store was opened read-only, or cannot be written at all."""


class Denied(StoreError):
    """The store answered and refuses: credentials, rights, or a path out of the root."""


class Unsupported(StoreError):
    """A kind of store that lacks the operation; see ``Store.capabilities``."""


class InvalidKey(StoreError):
    """The key is no key: empty, absolute, with ``..`` or NUL or a name too long."""


class NoSpace(StoreError):
    """The store, or the disk below it, is full or over its quota."""


class Unavailable(StoreError):
    """The store did not answer, or answered that it could not: try again later."""


class Corrupt(StoreError):
    """The bytes are there and are not what they claim to be."""


class BadLocation(StoreError):
    """The string or the options that name a store cannot be used; says what to type instead."""
