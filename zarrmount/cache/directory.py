"""Entries in a directory of the local disk, bounded, shared by processes, trusted by none.

1. The file system is the index.  An entry is one file, in one of 256 shards,
   under a name that is a hash of what it is: nothing is held in memory, and
   nothing is read at the start, however many entries there are.
2. A file is written beside the others and renamed, and is checked when it is
   read (`zarrmount.cache.entries`).  One that is damaged goes, as if it had not
   been there.  Nothing is synced: what a power loss leaves is checked, too.
3. A file's time of modification says when it was last used, to the minute.
   When room is needed some shards are looked through and the oldest in them
   go: since hashes spread evenly that is about who is the oldest of all.
4. What there is together stands in shared counters (`zarrmount.cache.usage`).
5. It must never make anything fail.  If the disk refuses, that is told in the
   log once, and the cache is as if it were empty.

Why not diskcache, which is well kept: it has no checksums, and hands out what
was damaged; it knows no free space to leave; every put and, with eviction by
use, every get is a transaction of SQLite that waits for those of the other
processes (256 KiB values: 990 puts/s, 400 each for two writers at once, where
files are written at 4,300/s; reads are equal), and its limit leaves out its own
database.
"""

from __future__ import annotations

import io
import logging
import os
import random
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zarrmount.cache.entries import DamagedError, Entry, encode_head, read_entry
from zarrmount.cache.usage import SHARDS, Usage

__all__ = ["CacheDirectory"]

log = logging.getLogger(__name__)

_ROOT = "zarrmount-cache-1"
_INCOMING = "incoming"
_PAGE = 4096
_TOUCH_AFTER = 60.0
_ABANDONED_AFTER = 600.0
_SAMPLE = 4096
"""Entries among which the oldest are looked for."""
_MOST_AT_ONCE = 16 << 20
"""Bytes that go at once, and not one entry after the other: some disks take long to remove files."""
_TRIES = 4
"""How often room is made that others may take before we do."""
_REST = 10.0
"""Seconds for which nothing is written after there was no room."""


class CacheDirectory:
    """A bounded set of entries on disk; every method may be called from any thread.

    Parameters
    ----------
    directory : Path
        Where to make a directory of our own.
    limit : int
        Bytes that all entries together may take.
    min_free : int
        Bytes of the disk to leave free.
    """

    def __init__(self, directory: Path, limit: int, min_free: int) -> None:
        self.root = directory / _ROOT
        self.limit = limit
        self.min_free = min_free
        self._trusted = False
        self._usage: Usage | None = None
        self._full_until = 0.0
        self._next_measured = random.randrange(SHARDS)  # noqa: S311 (two mounts need not begin alike)
        self._told: set[str] = set()

    # -- entries -------------------------------------------------------------------------------

    def read(self, name: str, *, with_data: bool = True) -> Entry | None:
        """Return what is kept under a name, None if nothing is that is whole; it counts as a use."""
        try:
            if not self._is_trusted():
                return None
            with io.FileIO(self._path(name)) as file:
                entry = read_entry(file, name, with_data=with_data)
                if time.time() - os.fstat(file.fileno()).st_mtime > _TOUCH_AFTER:
                    os.utime(file.fileno())
                return entry
        except FileNotFoundError:
            return None
        except DamagedError as error:
            self._tell("damaged", "an entry of the cache is dropped: %s: %s", self._path(name), error)
            self.remove(name)
        except OSError as error:
            self._tell("read", "the cache cannot be read: %s", error)
        return None

    def write(self, name: str, about: dict[str, Any], data: bytes) -> bool:
        """Keep something under a name, in place of what is there; return whether it is kept."""
        try:
            for again in (True, False):
                try:
                    return self._write(name, about, data)
                except FileNotFoundError:  # there never was such a directory, or somebody removed it
                    if not again:
                        raise
                    self._prepare()
        except OSError as error:
            self._full_until = time.monotonic() + _REST
            self._tell("write", "the cache cannot be written: %s", error)
        return False

    def remove(self, name: str) -> None:
        """Keep nothing under a name."""
        path, shard = self._path(name), _shard(name)
        try:
            size = _cost(path.stat().st_size)
            path.unlink()
            self._counters().add(shard, -size, -1)
        except FileNotFoundError:
            return
        except OSError as error:
            self._tell("remove", "the cache cannot be cleaned: %s", error)

    def _write(self, name: str, about: dict[str, Any], data: bytes) -> bool:
        usage = self._counters()
        head = encode_head(name, about, data)
        path, cost = self._path(name), _cost(len(head) + len(data))
        if cost > self.limit // 4 or not self._make_room(cost):
            return False
        temporary = self.root / _INCOMING / secrets.token_hex(12)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(head)
                file.write(data)
            try:
                replaced = _cost(path.stat().st_size)
            except FileNotFoundError:
                replaced = 0
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        usage.add(_shard(name), cost - replaced, 0 if replaced else 1)
        return True

    def _path(self, name: str) -> Path:
        return self.root / name[:2] / name[2:]

    # -- the directory -------------------------------------------------------------------------

    def _is_trusted(self) -> bool:
        """Whether the directory is there, and nobody else can write to it or read it.

        Raises
        ------
        PermissionError
            If somebody else can.
        """
        if self._trusted:
            return True
        try:
            found = self.root.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(f"{self.root} is not a directory of yours alone (mode 0700)")
        self._trusted = True
        return True

    def _prepare(self) -> None:
        """Make what is missing, and know how much there is."""
        self._trusted = False
        self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.mkdir(mode=0o700, exist_ok=True)
        self._is_trusted()
        for name in (_INCOMING, *(f"{shard:02x}" for shard in range(SHARDS))):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        self._usage = Usage(self.root / "usage")
        for shard in self._usage.unknown():
            self._measure(shard)

    def _counters(self) -> Usage:
        if self._usage is None:
            self._prepare()
        assert self._usage is not None
        return self._usage

    def _measure(self, shard: int) -> list[tuple[float, int, str]]:
        """Look through a shard, set its counters right, and return (last use, bytes, name) of each."""
        found = []
        with os.scandir(self.root / f"{shard:02x}") as files:
            for file in files:
                try:
                    status = file.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # somebody else evicted it
                found.append((status.st_mtime, _cost(status.st_size), f"{shard:02x}{file.name}"))
        self._counters().set(shard, sum(size for _, size, _ in found), len(found))
        return found

    # -- room ----------------------------------------------------------------------------------

    def _lacking(self, size: int) -> int:
        """Return how many bytes must go before there is room for so many."""
        status = os.statvfs(self.root)
        over = self._counters().total()[0] + size - self.limit
        return max(over, self.min_free + size - status.f_bavail * status.f_frsize)

    def _make_room(self, size: int) -> bool:
        """Let others go until there is room for so many bytes; return False if there is none."""
        if time.monotonic() < self._full_until:
            return False
        for _ in range(_TRIES):
            lacking = self._lacking(size)
            if lacking <= 0:
                return True
            if not self._evict(lacking + min(self.limit // 32, _MOST_AT_ONCE)):
                self._tell("full", "nothing more is kept in %s: the disk is too full", self.root)
                break
        self._full_until = time.monotonic() + _REST
        return False

    def _evict(self, wanted: int) -> int:
        """Let what was not used for long go, until it makes up so many bytes; return how many it did."""
        freed, going_on = 0, True
        while going_on and freed < wanted:
            going_on = False
            for oldest in self._oldest():
                removed = self._remove_first(oldest, wanted - freed)
                freed += removed
                going_on = going_on or removed > 0
                if freed >= wanted:
                    break
        return freed

    def _oldest(self) -> Iterator[list[tuple[float, int, str]]]:
        """Iterate over parts of the cache, by chance; give of each what was not used for longest."""
        start = random.randrange(SHARDS)  # noqa: S311 (no secret)
        shards = [(start + step) % SHARDS for step in range(SHARDS)]
        while shards:
            sample: list[tuple[float, int, str]] = []
            is_all = len(shards) == SHARDS
            while shards and len(sample) < _SAMPLE:
                sample += self._measure(shards.pop())
            sample.sort()
            # The rest of a part may have been used later than the oldest of the next one.
            yield sample if is_all and not shards else sample[: -(-len(sample) // 4)]

    def _remove_first(self, entries: list[tuple[float, int, str]], wanted: int) -> int:
        """Remove the first of some entries until they make up so many bytes; return how many they did."""
        freed = 0
        for _, size, name in entries:
            if freed >= wanted:
                break
            try:
                self._path(name).unlink()
            except FileNotFoundError:
                continue
            self._counters().add(_shard(name), -size, -1)
            freed += size
        return freed

    def tend(self) -> None:
        """Do what is due now and then: leave the disk the room it needs, and set counters right."""
        try:
            if not self._is_trusted():
                return
            lacking = self._lacking(0)
            if lacking > 0:
                self._evict(lacking)
            self._next_measured = (self._next_measured + 1) % SHARDS
            self._measure(self._next_measured)
            self._remove_abandoned()
        except FileNotFoundError:
            return  # it is being removed
        except OSError as error:
            self._tell("tend", "the cache cannot be cleaned: %s", error)

    def _remove_abandoned(self) -> None:
        """Remove what a process that was killed had begun to write."""
        with os.scandir(self.root / _INCOMING) as files:
            for file in files:
                if time.time() - file.stat(follow_symlinks=False).st_mtime > _ABANDONED_AFTER:
                    Path(file.path).unlink(missing_ok=True)

    # -- the whole -----------------------------------------------------------------------------

    def measure(self) -> tuple[int, int]:
        """Look through everything and return how many bytes and entries there are.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        if self._is_trusted():
            for shard in range(SHARDS):
                self._measure(shard)
            return self._counters().total()
        return 0, 0

    def clear(self) -> None:
        """Remove every entry, also while mounts use them.

        Raises
        ------
        OSError
            If something cannot be removed.
        """
        if self._is_trusted():
            for shard in range(SHARDS):
                entries = self._measure(shard)
                self._remove_first(entries, 1 + sum(size for _, size, _ in entries))

    # -- the log -------------------------------------------------------------------------------

    def _tell(self, what: str, message: str, *args: object) -> None:
        """Tell something that is wrong in the log, each kind of it once."""
        if what not in self._told:
            self._told.add(what)
            log.warning(message, *args)


def _shard(name: str) -> int:
    return int(name[:2], 16)


def _cost(size: int) -> int:
    """Return what a file of so many bytes takes on a disk."""
    return -(-size // _PAGE) * _PAGE
