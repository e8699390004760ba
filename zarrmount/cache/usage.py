"""How much each part of a cache directory holds, counted by all who use it together.

One small file of counters, changed under a lock: so nobody needs to look
through a million entries to know how large they are together.  A process that
is killed may leave a counter a little wrong, and a power loss any of them:
measuring a shard, which happens now and then, puts it right.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stores.files import FileHandle

__all__ = ["SHARDS", "Usage"]

SHARDS = 256
"""Parts of a cache directory."""

_COUNTER = struct.Struct("<qq")
_SIZE = SHARDS * _COUNTER.size
_UNKNOWN = _COUNTER.pack(-1, -1)


class Usage:
    """The counters of one cache directory: of each shard its bytes and entries.

    Parameters
    ----------
    path : Path
        The file; if it is missing, or no such file, all counters are unknown.
    """

    def __init__(self, path: Path) -> None:
        self._file = FileHandle.open(path, os.O_RDWR | os.O_CREAT)
        self._threads = threading.Lock()  # the file's lock is between processes
        with self._locked():
            if self._file.size != _SIZE:
                os.ftruncate(self._file.fd, 0)
                self._file.write(0, _UNKNOWN * SHARDS)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._threads:
            fcntl.flock(self._file.fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file.fd, fcntl.LOCK_UN)

    def _counters(self) -> list[tuple[int, int]]:
        raw = self._file.read(0, _SIZE)
        return list(_COUNTER.iter_unpack(raw.ljust(_SIZE, b"\xff")))

    def total(self) -> tuple[int, int]:
        """Return the bytes and the entries of all shards that are known."""
        counters = self._counters()
        return sum(max(0, size) for size, _ in counters), sum(max(0, count) for _, count in counters)

    def unknown(self) -> list[int]:
        """Return the shards that nobody has measured yet."""
        return [shard for shard, (size, count) in enumerate(self._counters()) if size < 0 or count < 0]

    def add(self, shard: int, size: int, count: int) -> None:
        """Add bytes and entries to a shard that is known."""
        with self._locked():
            old_size, old_count = self._counters()[shard]
            if old_size >= 0 and old_count >= 0:
                self._write(shard, max(0, old_size + size), max(0, old_count + count))

    def set(self, shard: int, size: int, count: int) -> None:
        """Note what was measured of a shard."""
        with self._locked():
            self._write(shard, size, count)

    def _write(self, shard: int, size: int, count: int) -> None:
        self._file.write(shard * _COUNTER.size, _COUNTER.pack(size, count))
