"""Staged bytes: what was written and is not in the store yet.

1. Staged bytes live in memory while all of them together fit a limit, and in
   nameless spool files in the staging directory beyond it, so that
   memory does not grow with what is written.
2. Memory and spool files together have one budget.  Who would exceed it waits
   (see `Staging.room`) before taking any lock, so that what is stored meanwhile
   can make room; one file at a time may go past it when all the others wait.
3. A staged object is the whole new content of a file, sparse where nothing was
   written: whoever overwrites part of an object loads the rest first.
4. Staged bytes are only dropped when the store has acknowledged them, or the
   file was deleted.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import trio

from stores.errors import NoSpace
from stores.meta import Body, ObjectMeta
from zarrmount.objects.spool import (
    close_body,
    copy_start,
    digest_of,
    give_name,
    in_thread,
    open_again,
    read_fully,
    save_body,
    write_fully,
    write_or_trim,
)

if TYPE_CHECKING:
    from zarrmount.inodes import Inode

__all__ = ["DELETED", "StagedObject", "Staging"]

DELETED = b""
"""In place of a digest: what was sent was no content but a deletion."""

_SMALL = 64 * 1024
_STALLED = 1.0
"""Seconds without any room being made, after which one file may go past the budget."""


class Staging:
    """Where staged objects are kept, and how much they may take together.

    Parameters
    ----------
    directory : Path
        For spool files; made (0700) when first needed.
    memory_limit : int
        Bytes that all staged objects may hold in memory together.
    budget : int
        Bytes that they may hold together, in memory and in spool files.
    patience : float
        Seconds for which a writer waits for room while none is made.

    Attributes
    ----------
    used : int
        Bytes that they hold.
    relieve : callable
        Called when a writer has to wait, to let go of what need not be kept.
    """

    def __init__(
        self,
        directory: Path,
        memory_limit: int = 64 << 20,
        budget: int = 16 << 30,
        patience: float = 120.0,
    ) -> None:
        self.directory = directory
        self.memory_limit = memory_limit
        self.budget = budget
        self.patience = patience
        self.in_memory = 0
        self.used = 0
        self.relieve: Callable[[], None] = lambda: None
        self._reserved = 0
        self._exceeding: Inode | None = None
        self._freed = trio.Event()

    @asynccontextmanager
    async def room(self, file: Inode, growth: int) -> AsyncIterator[None]:
        """Wait until a file may grow; what it may grow by is reserved inside the context.

        One file at a time may go past the budget when nothing was let go of for a moment: files
        that are all half written would otherwise wait for each other for ever.

        Parameters
        ----------
        file : Inode
            Whose staged object grows, or is about to be made.
        growth : int
            By so many bytes.

        Raises
        ------
        NoSpace
            If nothing was let go of for `patience` seconds.
        """
        growth = max(0, growth)
        give_up = trio.current_time() + self.patience
        while growth and self.used + self._reserved + growth > self.budget and not self._exceeds(file):
            freed = self._freed
            self.relieve()
            with trio.move_on_after(_STALLED) as waiting:
                await freed.wait()
            if not waiting.cancelled_caught:
                give_up = trio.current_time() + self.patience
            elif not self._let_exceed(file) and trio.current_time() >= give_up:
                raise NoSpace(
                    f"{self.used:,} bytes wait to be stored, as many as may (--max-dirty),"
                    f" and none was within {self.patience:g} s",
                    key=file.key,
                )
        self._reserved += growth
        try:
            yield
        finally:
            self._reserved -= growth  # who waits is not told: room that was taken is none that was made

    def _exceeds(self, file: Inode) -> bool:
        return self._exceeding is file

    def _let_exceed(self, file: Inode) -> bool:
        """Let a file go past the budget, if none does that is still to be stored."""
        holder = self._exceeding
        if holder is None or holder.staged is None or not holder.staged.modified:
            self._exceeding = file
        return self._exceeds(file)

    def account(self, growth: int) -> None:
        """Take note that staged objects hold so many bytes more, or less."""
        self.used += growth
        if growth < 0:
            self._freed.set()
            self._freed = trio.Event()

    def new(self) -> StagedObject:
        """Return an empty staged object."""
        return StagedObject(self)

    def adopt(self, path: Path, size: int) -> StagedObject:
        """Return a staged object whose content is the first `size` bytes of a file that stays as it is.

        Raises
        ------
        OSError
            If the file cannot be opened.
        """
        staged = StagedObject(self)
        staged.adopt(path, size)
        return staged

    def open_spool(self) -> BinaryIO:
        """Open a new spool file, which has no name: it vanishes with its last user.

        Raises
        ------
        OSError
            As the disk says (ENOSPC, EACCES, ...).
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(OSError):  # where it works, the file can be given a name later: see `StagedObject.keep`
            return os.fdopen(os.open(self.directory, os.O_TMPFILE | os.O_RDWR, 0o600), "r+b", buffering=0)
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
    finished : bool
        Whether nothing was written since it was closed.
    sent : dict
        By key, the digests of what was sent there and not acknowledged: it may be in the store.
        `DELETED` among them: so may be the deletion of what was there.
    anyway : bool
        It replaces whatever is in the store, as a file does that was renamed onto a name.
    kept_as : Path or None
        The file that holds exactly this content, and survives this process (see `keep`).
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._memory: bytearray | None = bytearray()
        self._spool: BinaryIO | None = None
        self.size = 0
        self.base: ObjectMeta | None = None
        self.modified = False
        self.finished = False
        self.sent: dict[str, set[bytes]] = {}
        self.anyway = False
        self.kept_as: Path | None = None
        self._spool_is_kept = False
        self._retired: list[BinaryIO] = []
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
            return await in_thread(read_fully, spool.fileno(), offset, size)
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
            await self._stop_keeping(self.size)
            if self._memory is not None:
                self._grow(end)
                self._memory[offset:end] = data
            else:
                await in_thread(write_or_trim, self._the_spool().fileno(), offset, data, self.size)
            self._resize(max(self.size, end))
            self._touch()

    async def truncate(self, size: int) -> None:
        """Cut or extend (with zeros) to `size` bytes."""
        async with self._turn:
            await self._make_room(size)
            await self._stop_keeping(min(size, self.size))
            if self._memory is not None:
                if size < len(self._memory):
                    self._staging.in_memory -= len(self._memory) - size
                    del self._memory[size:]
                self._grow(size)
            else:
                await in_thread(os.ftruncate, self._the_spool().fileno(), size)
            self._resize(size)
            self._touch()

    async def body(self) -> Body:
        """Return the content in the form that ``Store.put`` takes; valid until the next change."""
        if self._memory is not None:
            return bytes(self._memory)
        spool = self._the_spool()
        return await in_thread(open_again, spool.fileno())

    async def digest(self) -> bytes:
        """Return what tells the content from any other."""
        body = await self.body()
        try:
            return await digest_of(body)
        finally:
            close_body(body)

    async def save(self, path: Path) -> None:
        """Write the content to a new file of the caller's own, readable by the owner only."""
        body = await self.body()
        try:
            await in_thread(save_body, path, body)
        finally:
            close_body(body)

    async def keep(self, path: Path) -> None:
        """Make the content last, as the new file `path`, until it is changed or dropped.

        The file is fsynced; its directory is not.

        Raises
        ------
        OSError
            As the disk says; nothing has changed then.
        """
        async with self._turn:
            named = False
            try:
                if self._spool is not None and not self._spool_is_kept:
                    named = await in_thread(give_name, self._spool.fileno(), path)
                if not named:
                    await self.save(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            self._spool_is_kept = self._spool_is_kept or named
            self.kept_as = path

    def adopt(self, path: Path, size: int) -> None:
        """Let the first `size` bytes of a file be the content of this, which must be new."""
        if path.stat().st_size < size:
            raise OSError(errno.EIO, "it is shorter than what was written", str(path))
        self._spool_is_kept = True
        self._memory = None
        self._resize(size)
        self.kept_as = path
        self.modified = True

    def hold(self) -> None:
        """Hold the content even if the file that survives this process is removed.

        Raises
        ------
        OSError
            If an adopted file, which nobody has read yet, cannot be opened.
        """
        if self._memory is None:
            self._the_spool()

    def close(self) -> None:
        """Drop the content."""
        if self._memory is not None:
            self._staging.in_memory -= len(self._memory)
            self._memory = bytearray()
        self._closed = True
        self._close_if_idle()
        self._resize(0)
        self.modified = False

    def _close_if_idle(self) -> None:
        if self._reading:  # the last of them closes it
            return
        for spool in self._retired:
            spool.close()
        self._retired.clear()
        if self._closed and self._spool is not None:
            self._spool.close()
            self._spool = None

    def _touch(self) -> None:
        self.modified = True
        self.finished = False

    def _resize(self, size: int) -> None:
        self._staging.account(size - self.size)
        self.size = size

    async def _stop_keeping(self, size: int) -> None:
        """Leave the file alone that holds the content (`size` bytes of it are wanted): it may be needed."""
        if self._spool_is_kept:
            spool = await in_thread(self._staging.open_spool)
            try:
                await in_thread(copy_start, self._the_spool().fileno(), spool.fileno(), size)
            except BaseException:
                spool.close()
                raise
            self._retired.append(self._the_spool())
            self._spool, self._spool_is_kept = spool, False
            self._close_if_idle()
        self.kept_as = None

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
        spool = await in_thread(self._staging.open_spool)
        try:
            await in_thread(write_fully, spool.fileno(), 0, memory)
        except BaseException:
            spool.close()
            raise
        self._staging.in_memory -= len(memory)
        self._spool, self._memory = spool, None

    def _the_spool(self) -> BinaryIO:
        if self._closed:
            raise RuntimeError("the staged bytes were dropped")
        if self._spool is None:  # it was adopted, and nobody looked at it yet
            assert self.kept_as is not None
            self._spool = self.kept_as.open("rb", buffering=0)
        return self._spool
