"""Decompression, bounded: no member grows beyond its declared size, whatever its bytes say."""

from __future__ import annotations

import bz2
import lzma
import sys
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import anyio.to_thread

from stores.errors import Corrupt, Unsupported
from stores.files import FileHandle
from stores.zipped.format import ENCRYPTED, Member
from stores.zipped.source import Source, from_os_error

__all__ = ["STORED", "Inflated", "InflatedCache", "check_readable", "inflate"]

STORED, DEFLATED, _BZIP2, _LZMA, _ZSTD = 0, 8, 12, 14, 93
_METHODS = {
    1: "Shrunk",
    6: "Imploded",
    9: "Deflate64",
    95: "XZ",
    96: "JPEG",
    98: "PPMd",
    99: "AES encryption",
}

_STEP = 1 << 20
"""Compressed bytes that are read and decompressed at once."""
_OUTPUT = 1 << 18
"""Most bytes that a decompressor may give at once."""
IN_MEMORY = 4 << 20
"""Decompressed members up to this size are kept in memory, larger ones in temporary files."""

_BROKEN = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)  # bz2 raises OSError


def check_readable(member: Member, key: str) -> None:
    """Raise Unsupported for what cannot be read: encryption, and rare ways of compression."""
    if member.flags & ENCRYPTED:
        raise Unsupported("this member of the zip archive is encrypted", key=key)
    known = [STORED, DEFLATED, _BZIP2, _LZMA] + ([_ZSTD] if sys.version_info >= (3, 14) else [])
    if member.method not in known:
        name = _METHODS.get(member.method, f"method {member.method}")
        raise Unsupported(
            f"this member of the zip archive is compressed in a way not known here ({name})", key=key
        )


class _Pump(Protocol):
    def feed(self, data: bytes, room: int) -> Iterator[bytes]:
        """Give what `data` decompresses to, a bounded piece at a time, about `room` bytes at most."""


class _Deflate:
    def __init__(self) -> None:
        self._engine = zlib.decompressobj(-zlib.MAX_WBITS)

    def feed(self, data: bytes, room: int) -> Iterator[bytes]:
        limit = min(_OUTPUT, room + 1)
        while True:
            out = self._engine.decompress(data, limit)
            yield out
            data = self._engine.unconsumed_tail
            if self._engine.eof or (not data and len(out) < limit):
                return


class _Engine(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Standard:
    """What bz2, lzma and zstd have in common."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    def feed(self, data: bytes, room: int) -> Iterator[bytes]:
        limit = min(_OUTPUT, room + 1)
        while not self._engine.eof:
            yield self._engine.decompress(data, limit)
            data = b""
            if self._engine.needs_input:
                return


class _Lzma:
    """LZMA as zip has it: four bytes of header and the properties come first."""

    def __init__(self, size: int, *, marked: bool) -> None:
        self._left = size
        self._marked = marked
        self._head = b""
        self._pump: _Standard | None = None

    def feed(self, data: bytes, room: int) -> Iterator[bytes]:
        if self._pump is None:
            self._head += data
            if len(self._head) < 9:
                return
            props_size = int.from_bytes(self._head[2:4], "little")
            if props_size != 5:
                raise ValueError("unknown LZMA properties")
            data = self._head[9:]
            self._pump = _Standard(self._decompressor(self._head[4:9]))
        for out in self._pump.feed(data, room):
            # without a marker at the end of the data only the size tells where it ends
            piece = out if self._marked else out[: self._left]
            self._left -= len(piece)
            yield piece
            if not self._marked and not self._left:
                return

    def _decompressor(self, props: bytes) -> lzma.LZMADecompressor:
        rest, lc = divmod(props[0], 9)
        pb, lp = divmod(rest, 5)
        # more dictionary than output is of no use, and would be memory at the archive's demand
        dictionary = max(min(int.from_bytes(props[1:5], "little"), self._left), 1 << 12)
        spec = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[spec])


def _pump_for(member: Member) -> _Pump:
    if member.method == DEFLATED:
        return _Deflate()
    if member.method == _BZIP2:
        return _Standard(bz2.BZ2Decompressor())
    if member.method == _LZMA:
        return _Lzma(member.size, marked=bool(member.flags & 2))
    if sys.version_info >= (3, 14):
        from compression import zstd

        return _Standard(zstd.ZstdDecompressor())
    raise AssertionError("check_readable comes first")


class Inflated:
    """The decompressed bytes of a member: in memory, or in a file without a name."""

    __slots__ = ("_crc", "_data", "_file", "size")

    def __init__(self, size: int) -> None:
        self.size = 0
        self._crc = 0
        self._data = bytearray()
        self._file: FileHandle | None = None
        if size > IN_MEMORY:
            with tempfile.TemporaryFile() as file:
                self._file = FileHandle.of(file)

    @property
    def on_disk(self) -> bool:
        """Whether it is a file."""
        return self._file is not None

    def add(self, data: bytes) -> None:
        """Add decompressed bytes."""
        self._crc = zlib.crc32(data, self._crc)
        if self._file is not None:
            self._file.write(self.size, data)
        else:
            self._data += data
        self.size += len(data)

    def check(self, member: Member, key: str) -> None:
        """Raise Corrupt unless it is what the directory of the archive says."""
        if self.size != member.size:
            raise Corrupt(f"decompresses to {self.size} bytes, not to {member.size}", key=key)
        if self._crc != member.crc:
            raise Corrupt("is damaged: its CRC is another", key=key)

    async def read(self, start: int, size: int) -> bytes:
        """Return ``[start, start + size)``."""
        if self._file is None:
            return bytes(self._data[start : start + size])
        try:
            return await anyio.to_thread.run_sync(self._file.read, start, size)
        except OSError as error:
            raise from_os_error(error, "the decompressed member cannot be read") from error


async def inflate(source: Source, start: int, member: Member, key: str) -> Inflated:
    """Decompress a member whose packed bytes begin at `start`.

    Raises
    ------
    Corrupt
        If it does not decompress, or to something else than its size and CRC say.
    """
    pump = _pump_for(member)

    def work(data: bytes) -> None:
        try:
            for piece in pump.feed(data, member.size - result.size):
                if result.size + len(piece) > member.size:
                    raise Corrupt(f"decompresses to more than its {member.size} bytes", key=key)
                _store(piece)
        except _BROKEN as error:
            raise Corrupt("is damaged: it cannot be decompressed", key=key) from error

    def _store(piece: bytes) -> None:
        try:
            result.add(piece)
        except OSError as error:
            raise from_os_error(error, "no temporary file for the decompressed member", key) from error

    try:
        result = Inflated(member.size)
    except OSError as error:
        raise from_os_error(error, "no temporary file for the decompressed member", key) from error
    done = 0
    while done < member.packed:
        data = await source.read(start + done, min(_STEP, member.packed - done))
        await anyio.to_thread.run_sync(work, data)
        done += len(data)
    result.check(member, key)
    return result


class InflatedCache:
    """Decompressed members, least recently used out first, each decompressed by one task at a time.

    Parameters
    ----------
    memory, disk : int
        Most bytes to keep in memory and in temporary files.
    """

    def __init__(self, memory: int = 64 << 20, disk: int = 1 << 30) -> None:
        self._limits = {False: memory, True: disk}
        self._used = {False: 0, True: 0}
        self._kept: OrderedDict[int, Inflated] = OrderedDict()
        self._busy: dict[int, anyio.Lock] = {}

    async def get(self, at: int, make: Callable[[], Awaitable[Inflated]]) -> Inflated:
        """Return what is kept for the member whose record is at `at`, else `make` it."""
        async with self._busy.setdefault(at, anyio.Lock()) as _:
            try:
                found = self._kept.get(at)
                if found is None:
                    found = await make()
                    self._keep(at, found)
                else:
                    self._kept.move_to_end(at)
                return found
            finally:
                if not self._busy[at].statistics().tasks_waiting:
                    del self._busy[at]

    def _keep(self, at: int, new: Inflated) -> None:
        self._kept[at] = new
        self._used[new.on_disk] += new.size
        while self._used[new.on_disk] > self._limits[new.on_disk]:
            oldest = next(at for at, kept in self._kept.items() if kept.on_disk == new.on_disk)
            self._used[new.on_disk] -= self._kept.pop(oldest).size
