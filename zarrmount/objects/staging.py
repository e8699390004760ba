"""Staged bytes: what was written and is not in the store yet.

1. Staged bytes live in memory while all of them together fit a budget, and in
   nameless spool files in the staging directory beyond it, so that
   memory does not grow with what is written.
2. A staged object is the whole new content of a file, sparse where nothing was
   written: whoever overwrites part of an object loads the rest first.
3. Staged bytes are only dropped when the store has acknowledged them, or the
   file was deleted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar, TypeVarTuple, cast

import trio

from stores.meta import Body, ObjectMeta

__all__ = ["DELETED", "StagedObject", "Staging"]

DELETED = b""
"""In place of a digest: what was sent was no content but a deletion."""

_SMALL = 64 * 1024

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


class Staging:
    """Where staged objects are kept, and how much memory they may take together.

    Parameters
    ----------
    directory : Path
        For spool files; made (0700) when first needed.
    memory_limit : int
        Bytes that all staged objects may hold in memory together.
    """

    def __init__(self, directory: Path, memory_limit: int = 64 << 20) -> None:
        self.directory = directory
        self.memory_limit = memory_limit
        self.in_memory = 0

    def new(self) -> StagedObject:
        """Return an empty staged object."""
        return StagedObject(self)

    def open_spool(self) -> BinaryIO:
        """Open a new spool file, unlinked at once: it vanishes with its last user.

        Raises
        ------
        OSError
            As the disk says (ENOSPC, EACCES, ...).
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cast("BinaryIO", tempfile.TemporaryFile(dir=self.directory, prefix="staged-", buffering=0))


class StagedObject:
    """The staged content of one file.

    Attributes
    ----------
    size : int
        Bytes.
    base : ObjectMeta or None
        The version in the store that it was made from; None for a new file.
    modified : bool
        Whether it differs from `base`.
    sent : dict
        By key, the digests of what was sent there and not acknowledged: it may be in the store.
        `DELETED` among them: so may be the deletion of what was there.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._memory: bytearray | None = bytearray()
        self._spool: BinaryIO | None = None
        self.size = 0
        self.base: ObjectMeta | None = None
        self.modified = False
        self.sent: dict[str, set[bytes]] = {}
        self._turn = trio.Lock()
        self._reading = 0
        self._closed = False

    async def read(self, offset: int, size: int) -> bytes:
        """Return the bytes ``[offset, offset + size)``, fewer only at the end."""
        if self._memory is not None:
            return bytes(self._memory[offset : offset + size])
        spool = self._the_spool()
        size = max(0, min(size, self.size - offset))
        self._reading += 1
        try:
            return await _in_thread(_read_fully, spool.fileno(), offset, size)
        finally:
            self._reading -= 1
            self._close_if_idle()

    async def write(self, offset: int, data: bytes) -> None:
        """Write `data` at `offset`; the gap after the old end, if any, reads as zeros.

        Raises
        ------
        OSError
            If the staging disk is full or broken: what was staged before is intact.
        """
        if not data:
            return
        end = offset + len(data)
        async with self._turn:
            await self._make_room(max(end, self.size))
            if self._memory is not None:
                self._grow(end)
                self._memory[offset:end] = data
            else:
                await _in_thread(_write_or_trim, self._the_spool().fileno(), offset, data, self.size)
            self.size = max(self.size, end)
            self.modified = True

    async def truncate(self, size: int) -> None:
        """Cut or extend (with zeros) to `size` bytes."""
        async with self._turn:
            await self._make_room(size)
            if self._memory is not None:
                if size < len(self._memory):
                    self._staging.in_memory -= len(self._memory) - size
                    del self._memory[size:]
                self._grow(size)
            else:
                await _in_thread(os.ftruncate, self._the_spool().fileno(), size)
            self.size = size
            self.modified = True

    async def body(self) -> Body:
        """Return the content in the form that ``Store.put`` takes; valid until the next change."""
        if self._memory is not None:
            return bytes(self._memory)
        spool = self._the_spool()
        reader = os.fdopen(os.dup(spool.fileno()), "rb")
        reader.seek(0)
        return reader

    async def save(self, path: Path) -> None:
        """Write the content to a new file of the caller's own, readable by the owner only."""
        body = await self.body()
        try:
            await _in_thread(_save, path, body)
        finally:
            if not isinstance(body, (bytes, bytearray, memoryview)):
                body.close()

    def close(self) -> None:
        """Drop the content."""
        if self._memory is not None:
            self._staging.in_memory -= len(self._memory)
            self._memory = bytearray()
        self._closed = True
        self._close_if_idle()
        self.size = 0
        self.modified = False

    def _close_if_idle(self) -> None:
        if self._closed and not self._reading and self._spool is not None:  # else the last read closes it
            self._spool.close()
            self._spool = None

    def _grow(self, size: int) -> None:
        assert self._memory is not None
        missing = size - len(self._memory)
        if missing > 0:
            self._memory.extend(bytes(missing))
            self._staging.in_memory += missing

    async def _make_room(self, size: int) -> None:
        """Move to a spool file when memory would hold too much."""
        if self._memory is None:
            return
        growth = size - len(self._memory)
        if growth <= 0 or size <= _SMALL or self._staging.in_memory + growth <= self._staging.memory_limit:
            return
        memory = self._memory
        spool = await _in_thread(self._staging.open_spool)
        try:
            await _in_thread(_write_fully, spool.fileno(), 0, memory)
        except BaseException:
            spool.close()
            raise
        self._staging.in_memory -= len(memory)
        self._spool, self._memory = spool, None

    def _the_spool(self) -> BinaryIO:
        if self._spool is None or self._closed:
            raise RuntimeError("the staged bytes were dropped")
        return self._spool


async def _in_thread(function: Callable[[*Args], Result], *arguments: *Args) -> Result:
    return await trio.to_thread.run_sync(function, *arguments)


def _read_fully(fd: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def _write_fully(fd: int, offset: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def _write_or_trim(fd: int, offset: int, data: bytes, size: int) -> None:
    """Write all of `data`, or leave the file `size` bytes long: what did not fit is no content."""
    try:
        _write_fully(fd, offset, data)
    except BaseException:
        if offset + len(data) > size:
            os.ftruncate(fd, size)
        raise


def _save(path: Path, body: Body) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        if isinstance(body, (bytes, bytearray, memoryview)):
            target.write(body)
        else:
            shutil.copyfileobj(body, target)
        target.flush()
        os.fsync(target.fileno())
