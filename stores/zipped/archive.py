"""An archive as it lies there: its central directory, and how its members are read."""

from __future__ import annotations

import hashlib
import zlib

from stores.errors import Corrupt
from stores.zipped.catalog import Entry
from stores.zipped.format import (
    LOCAL,
    TAIL_SIZE,
    End,
    Member,
    find_end,
    local_lengths,
    parse_member,
    scan_directory,
)
from stores.zipped.inflate import STORED, Inflated, InflatedCache, check_readable, inflate
from stores.zipped.source import FileSource, Source

__all__ = ["Archive"]

_TOGETHER = 1 << 18
"""Data that begin so few bytes behind the local header are read together with it."""
_SLACK = 64
"""Room for an extra field of the local header that is longer than that of the directory."""
_MOST_OFFSETS = 1 << 18


class Archive:
    """One version of an archive; it never changes.

    Parameters
    ----------
    source : Source
        Its bytes.
    tail : bytes
        The last of them, TAIL_SIZE or all.
    directory : bytes
        The central directory.

    Attributes
    ----------
    identity : str
        A digest of the directory, and thus of the names, sizes and CRCs of all members.
    """

    def __init__(self, source: Source, tail: bytes, end: End, directory: bytes) -> None:
        self.source = source
        self.end = end
        self.directory = directory
        digest = hashlib.blake2b(directory, digest_size=12)
        digest.update(tail[-(22 + len(end.comment)) :])
        digest.update((source.label or "").encode())
        self.identity = f"{digest.hexdigest()}{source.size:x}"
        self._starts: dict[int, int] = {}
        self._inflated = InflatedCache()

    @classmethod
    async def open(cls, source: Source) -> Archive:
        """Read the end and the directory of an archive: one request, or two.

        Raises
        ------
        Corrupt
            If it is no zip archive, or a damaged one.
        """
        tail = await source.read(max(0, source.size - TAIL_SIZE), min(TAIL_SIZE, source.size))
        end = find_end(tail, source.size)
        return cls(source, tail, end, _in_tail(tail, end, source) or await source.read(end.start, end.size))

    @classmethod
    def open_file(cls, source: FileSource) -> Archive:
        """Do the same for a file, in a thread that may block."""
        tail = source.handle.read(max(0, source.size - TAIL_SIZE), TAIL_SIZE)
        end = find_end(tail, source.size)
        return cls(source, tail, end, _in_tail(tail, end, source) or source.handle.read(end.start, end.size))

    def entries(self) -> dict[str, Entry]:
        """Return where in the directory the record of each name is; of equal names the last counts.

        Raises
        ------
        Corrupt
            If the directory is damaged.
        """
        return dict(scan_directory(self.directory, self.end.count))

    def member(self, at: int) -> Member:
        """Return the record at `at` of the directory."""
        return parse_member(self.directory, at)

    async def read(self, at: int, key: str, start: int, stop: int) -> bytes:
        """Return the bytes ``[start, stop)`` of a member, whole and right or not at all.

        Raises
        ------
        Corrupt
            If the member is damaged; its CRC is checked when all of it is read, and always for
            compressed members.
        Unsupported
            If it is encrypted, or compressed in an unknown way.
        """
        member = self.member(at)
        check_readable(member, key)
        stop = min(stop, member.size)
        if start >= stop:
            return b""
        try:
            if member.method == STORED:
                return await self._read_stored(at, member, start, stop)
            return await (await self._inflate(at, member, key)).read(start, stop - start)
        except Corrupt as error:
            error.key = key
            raise

    async def _read_stored(self, at: int, member: Member, start: int, stop: int) -> bytes:
        if member.packed != member.size:
            raise Corrupt("is damaged: stored as it is, with two different sizes")
        begin, ahead = await self._find_data(at, member, start, stop)
        data = ahead[start:stop]
        if len(data) < stop - start:
            data += await self.source.read(begin + start + len(data), stop - start - len(data))
        if (start, stop) == (0, member.size) and zlib.crc32(data) != member.crc:
            raise Corrupt("is damaged: its CRC is another")
        return data

    async def _inflate(self, at: int, member: Member, key: str) -> Inflated:
        async def make() -> Inflated:
            begin, _ = await self._find_data(at, member, 0, 0)
            return await inflate(self.source, begin, member, key)

        return await self._inflated.get(at, make)

    async def _find_data(self, at: int, member: Member, start: int, stop: int) -> tuple[int, bytes]:
        """Return where the data of a member begin, and what of them came along with its header."""
        if at in self._starts:
            return self._starts[at], b""
        head = member.offset + self.end.shift
        room = self.end.start - head
        if not LOCAL.size <= room:
            raise Corrupt("the zip archive is damaged: a member is where no member can be")
        wanted = LOCAL.size + len(member.name) + len(member.extra) + _SLACK
        if start <= _TOGETHER:
            wanted += stop
        header = await self.source.read(head, min(wanted, room))
        name_size, extra_size = local_lengths(header, member)
        skip = LOCAL.size + name_size + extra_size
        if skip + member.packed > room:
            raise Corrupt("the zip archive is damaged: the member is larger than its place")
        if len(self._starts) >= _MOST_OFFSETS:
            self._starts.clear()
        self._starts[at] = head + skip
        return head + skip, header[skip : skip + member.packed]


def _in_tail(tail: bytes, end: End, source: Source) -> bytes:
    """Return the directory where it lies in the tail; else nothing."""
    first = source.size - len(tail)
    return tail[end.start - first :][: end.size] if end.start >= first else b""
