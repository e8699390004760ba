"""Where the bytes of an archive come from: a file of this machine, or an object of another store."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod

import anyio.to_thread

from stores.base import ObjectReader
from stores.errors import Corrupt, Denied, NoSpace, NotFound, Precondition, ReadOnly, StoreError, Unavailable
from stores.files import FileHandle

__all__ = ["FileSource", "ObjectSource", "Source", "from_os_error"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM)


def from_os_error(error: OSError, what: str, key: str | None = None) -> StoreError:
    """Return the store's error for one of the operating system; `what` says what was tried."""
    kind: type[StoreError] = Unavailable
    if error.errno in _FULL:
        kind = NoSpace
    elif error.errno in _REFUSED:
        kind = Denied
    elif error.errno == errno.EROFS:
        kind = ReadOnly
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        kind = NotFound
    return kind(f"{what}: {error.strerror or error}", key=key, os_errno=error.errno)


class Source(ABC):
    """Random access to the bytes of one version of an archive."""

    size: int
    label: str | None = None
    """Tells one version of the archive from another, where its place knows."""

    @abstractmethod
    async def read_some(self, start: int, size: int) -> bytes:
        """Return ``[start, start + size)``, fewer only at the end."""

    async def read(self, start: int, size: int) -> bytes:
        """Return exactly ``[start, start + size)``."""
        data = await self.read_some(start, size) if size else b""
        if len(data) != size:
            raise Corrupt("the zip archive was cut short")
        return data

    async def aclose(self) -> None:
        """Let go of it."""


class FileSource(Source):
    """An archive, or the data of pending changes, in a file."""

    def __init__(self, handle: FileHandle) -> None:
        self.handle = handle
        self.size = handle.size

    async def read_some(self, start: int, size: int) -> bytes:
        """Read in a worker thread."""
        try:
            return await anyio.to_thread.run_sync(self.handle.read, start, size)
        except OSError as error:
            raise from_os_error(error, "the archive cannot be read") from error


class ObjectSource(Source):
    """An archive that is an object of another store."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self.size = reader.meta.size
        self.label = reader.meta.version
        self.stale = False
        """Whether the other store has told that the archive is no longer what was opened."""

    async def read_some(self, start: int, size: int) -> bytes:
        """Ask the other store, once."""
        try:
            return await self._reader.read(start, size)
        except Precondition as error:
            self.stale = True
            raise Precondition("the archive was changed since it was opened") from error
        except NotFound as error:
            # that the archive is gone must not look as if only one of its members were
            self.stale = True
            raise Unavailable("the archive was deleted since it was opened") from error

    async def aclose(self) -> None:
        """Close the reader."""
        await self._reader.aclose()
