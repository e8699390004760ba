"""The disk cache of one store: between the blocks in memory and the store.

1. Like those in memory, blocks are keyed by (key, version, index), and by the
   store; so nothing is ever invalidated.  But of an object that was read whole
   only the version that was seen last is kept, under its key alone, together
   with what the store told of it: after a restart it is not known what version
   a key has, and a ``head`` then tells whether the one that is here still holds.
2. A store that is promised not to change is not even asked: what it told of the
   keys that were read is kept and told again, for ever.  That something is *not*
   there is not kept: whoever stores it must not need to know of a cache.
3. The disk never delays anybody.  It is read by threads; one that does not
   answer in time is left alone for a while.  What is to be written waits in a
   queue, and what it has no room for is not kept.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import trio

from stores.base import Store
from stores.meta import Lookup, ObjectMeta, PrefixMeta
from stores.opening import local_path
from zarrmount.cache.directory import CacheDirectory
from zarrmount.cache.entries import Entry
from zarrmount.cache.memory import WHOLE

__all__ = ["DiskCache", "why_useless"]

log = logging.getLogger(__name__)

_MOST_WAITING = 32 << 20
"""Bytes that may wait to be written."""
_OVERHEAD = 512
_MOST_READERS = 16
_MOST_NOTED = 10_000
_PATIENCE = 2.0
_REST = 30.0
"""Seconds after which the disk is too slow, and for which it is left alone then."""
_TEND_EVERY = 30.0
_LAST_WRITES = 5.0

Result = TypeVar("Result")


def why_useless(location: str, store: Store) -> str | None:
    """Return why a disk cache is of no use for a store, None if it is."""
    can = store.capabilities
    if store.near or can.posix or local_path(location) is not None:
        return "the store is on this machine"
    if not can.versions:
        return "the store does not tell versions"
    if re.match(r"(.*::)?(memory|python):", location):
        return "the versions of such a store are only of this process"
    return None


class DiskCache:
    """What one mount keeps on disk of its store.

    Parameters
    ----------
    directory : CacheDirectory
        Where; other mounts may use it, too.
    store : str
        The identity of the store.
    immutable : bool
        Whether the store is promised not to change.
    """

    def __init__(self, directory: CacheDirectory, store: str, *, immutable: bool = False) -> None:
        self.immutable = immutable
        self._directory = directory
        self._hash = hashlib.blake2b(store.encode(errors="surrogateescape") + b"\0", digest_size=16)
        self._readers = trio.CapacityLimiter(_MOST_READERS)
        self._writer = trio.CapacityLimiter(1)
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._bytes_taken = self._bytes_done = 0  # each is changed by one thread only
        self._noted: set[ObjectMeta | str] = set()
        self._wake = trio.Event()
        self._rests_until = 0.0
        self._was_slow = False

    # -- reading -------------------------------------------------------------------------------

    async def object(self, key: str) -> tuple[bytes, ObjectMeta] | None:
        """Return the version of an object that was seen last, if it is here as a whole."""
        entry = await self._in_thread(partial(self._directory.read, self._name(key)))
        if entry is None or entry.data is None or not _is_whole(entry):
            return None
        return entry.data, _meta_of(key, entry)

    async def blocks(self, meta: ObjectMeta, indices: Iterable[int]) -> dict[int, bytes]:
        """Return those of some blocks of a version that are here."""
        return await self._in_thread(partial(self._read_blocks, meta, indices)) or {}

    async def told(self, key: str) -> Lookup | None:
        """Return what a store that does not change told of a key; None: ask it."""
        return await self._in_thread(partial(self._read_told, key)) if self.immutable else None

    def _read_blocks(self, meta: ObjectMeta, indices: Iterable[int]) -> dict[int, bytes]:
        found = {}
        for index in indices:
            entry = self._directory.read(self._block_name(meta, index))
            if entry is None or entry.data is None:
                continue
            if index != WHOLE or (_is_whole(entry) and entry.about["version"] == meta.version):
                found[index] = entry.data
        return found

    def _read_told(self, key: str) -> Lookup | None:
        prefix = self._directory.read(self._name(key, "prefix"))
        if prefix is not None:
            return Lookup(prefix=PrefixMeta(key))
        entry = self._directory.read(self._name(key), with_data=False)
        return None if entry is None else Lookup(object=_meta_of(key, entry))

    async def _in_thread(self, read: Callable[[], Result]) -> Result | None:
        """Let a thread read something; None if that takes too long."""
        if trio.current_time() < self._rests_until:
            return None
        with trio.move_on_after(_PATIENCE):
            return await trio.to_thread.run_sync(read, limiter=self._readers, abandon_on_cancel=True)
        self._rests_until = trio.current_time() + _REST
        if not self._was_slow:
            self._was_slow = True
            log.warning("the disk of the cache does not answer; going without for a while")
        return None

    # -- writing -------------------------------------------------------------------------------

    def keep(self, meta: ObjectMeta, blocks: Mapping[int, bytes]) -> None:
        """Keep blocks of a version, a moment later, if there is room for them to wait."""
        for index, data in blocks.items():
            self._later(len(data), partial(self._write_block, meta, index, data))

    def forget(self, key: str) -> None:
        """Do not keep what was told of a key: it was wrong."""
        self._later(0, partial(self._directory.remove, self._name(key)))

    def _later(self, size: int, write: Callable[[], None]) -> None:
        size += _OVERHEAD
        if self._bytes_taken - self._bytes_done + size <= _MOST_WAITING:
            self._bytes_taken += size
            self._waiting.append((size, write))
            self._wake.set()

    def _write_block(self, meta: ObjectMeta, index: int, data: bytes) -> None:
        name = self._block_name(meta, index)
        about = _about(meta) if index == WHOLE else {}
        there = self._directory.read(name, with_data=False)
        if there is None or there.length != len(data) or (index == WHOLE and not _says(there, meta)):
            self._directory.write(name, about, data)
        if self.immutable:
            self._write_told(meta, is_kept=index == WHOLE)

    def _write_told(self, meta: ObjectMeta, *, is_kept: bool) -> None:
        """Keep what was told of an object of which there are blocks, and that there is something above it."""
        if not is_kept and meta not in self._noted:
            there = self._directory.read(self._name(meta.key), with_data=False)
            if there is None or not _says(there, meta):
                self._directory.write(self._name(meta.key), _about(meta), b"")
            self._noted.add(meta)
        prefix = meta.key
        while (prefix := prefix.rpartition("/")[0]) and prefix not in self._noted:
            name = self._name(prefix, "prefix")
            if self._directory.read(name) is None:
                self._directory.write(name, {}, b"")
            self._noted.add(prefix)
        if len(self._noted) > _MOST_NOTED:
            self._noted.clear()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what waits, until cancelled; then what is left, if that does not take long."""
        task_status.started()
        tend_at = trio.current_time() + _TEND_EVERY
        try:
            while True:
                with trio.move_on_at(tend_at):
                    await self._wake.wait()
                await self._write_waiting()
                if trio.current_time() >= tend_at:
                    await self._by_writer(self._directory.tend)
                    tend_at = trio.current_time() + _TEND_EVERY
        finally:
            with trio.move_on_after(_LAST_WRITES, shield=True):
                await self._write_waiting()

    async def _write_waiting(self) -> None:
        self._wake = trio.Event()
        await self._by_writer(self._do_what_waits)

    def _do_what_waits(self) -> None:
        for _ in range(len(self._waiting)):
            size, write = self._waiting.popleft()
            try:
                write()
            except Exception as error:  # a cache must not take the mount with it
                log.error("a fault in zarrmount: %r", error, exc_info=error)
            finally:
                self._bytes_done += size

    async def _by_writer(self, work: Callable[[], None]) -> None:
        # One that is abandoned goes on in its thread, and the next one waits for it.
        await trio.to_thread.run_sync(work, limiter=self._writer, abandon_on_cancel=True)

    # -- names ---------------------------------------------------------------------------------

    def _name(self, *what: str | int | None) -> str:
        hashed = self._hash.copy()
        hashed.update(repr(what).encode())
        return hashed.hexdigest()

    def _block_name(self, meta: ObjectMeta, index: int) -> str:
        return self._name(meta.key) if index == WHOLE else self._name(meta.key, meta.version, index)


def _about(meta: ObjectMeta) -> dict[str, Any]:
    return {"version": meta.version, "size": meta.size, "mtime_ns": meta.mtime_ns}


def _meta_of(key: str, entry: Entry) -> ObjectMeta:
    return ObjectMeta(key, **entry.about)


def _says(entry: Entry, meta: ObjectMeta) -> bool:
    """Whether an entry is of this version of an object."""
    return (entry.about["version"], entry.about["size"]) == (meta.version, meta.size)


def _is_whole(entry: Entry) -> bool:
    """Whether an entry has the bytes of its object, not only what was told of it."""
    return bool(entry.length == entry.about["size"])
