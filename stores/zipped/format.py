"""The zip format: its records as bytes and as Python values.  No input or output happens here.

The standard library's :mod:`zipfile` is not used for this, for three reasons: it keeps about half
a kilobyte for every member, where the raw central directory and one dictionary do; it cannot carry
a member over to another archive without compressing it anew; and it changes archives in place.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress

from stores.errors import Corrupt

__all__ = [
    "END_SIZE",
    "LOCAL",
    "LOCAL_SIGN",
    "TAIL_SIZE",
    "End",
    "Member",
    "descriptors",
    "encode_central",
    "encode_end",
    "encode_local",
    "find_end",
    "parse_member",
    "scan_directory",
    "time_extra",
]

LOCAL = struct.Struct("<4s5H3L2H")
"""Signature, version, flags, method, time, date, CRC, two sizes, two lengths."""

_CENTRAL = struct.Struct("<4s6H3L5H2L")
_SCAN = struct.Struct("<4sxB2xH18xHHH12x")  # signature, system, flags, lengths of name, extra, comment
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")

LOCAL_SIGN = b"PK\x03\x04"
_CENTRAL_SIGN = b"PK\x01\x02"
_END_SIGN = b"PK\x05\x06"
_END64_SIGN = b"PK\x06\x06"
_LOCATOR_SIGN = b"PK\x06\x07"
_SIGNATURE_SIGN = b"PK\x05\x05"  # a digital signature may follow the last record

END_SIZE = _END.size
TAIL_SIZE = (1 << 16) + _END.size + _LOCATOR.size + _END64.size
"""The records at the end of an archive, with the longest comment, fit into so many bytes."""

MAX32 = 0xFFFF_FFFF
"""Stands in a field of 32 bits whose value is in a zip64 field."""
MAX16 = 0xFFFF
WIDE_FROM = MAX32
"""Sizes and offsets from here on are kept in zip64 fields."""

ENCRYPTED = 0x0001 | 0x0040 | 0x2000
HAS_DESCRIPTOR = 0x0008
UTF8 = 0x0800

_UNIX_SYSTEMS = (3, 19)  # 19 is macOS

_ZIP64, _NTFS, _UNIX_TIME, _UNICODE_PATH = 0x0001, 0x000A, 0x5455, 0x7075
_FILETIME_1970 = 116_444_736_000_000_000  # 1970 in units of 100 ns since 1601
_TICKS = 10_000_000  # a tick is 100 ns, the finest time that zip keeps


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """Where the central directory is.

    Attributes
    ----------
    start, size : int
        Of the directory, in the file as it is.
    count : int
        Number of members, as far as 16 bits of it.
    shift : int
        What to add to offsets that the directory tells: not 0 where something (the program of a
        self-extracting archive) was put in front of the archive.
    comment : bytes
        The comment of the archive.
    """

    start: int
    size: int
    count: int
    shift: int
    comment: bytes


@dataclasses.dataclass(slots=True)
class Member:
    """One record of the central directory, with zip64 fields put in their places.

    It is not to be changed; that it is not frozen makes a million of them three times as fast.
    """

    name: bytes
    made_by: int
    needed: int
    flags: int
    method: int
    dos_time: int
    dos_date: int
    crc: int
    packed: int
    size: int
    internal: int
    external: int
    offset: int
    extra: bytes
    comment: bytes

    @property
    def mtime_ns(self) -> int | None:
        """Last modification: from the NTFS field, the Unix field or, as local time, the DOS field."""
        fields = dict(_fields(self.extra)) if self.extra else {}
        ntfs, unix = fields.get(_NTFS, b""), fields.get(_UNIX_TIME, b"")
        if len(ntfs) >= 32 and ntfs[4:8] == b"\x01\x00\x18\x00":
            filetime: int = struct.unpack_from("<Q", ntfs, 8)[0]
            if filetime:
                return (filetime - _FILETIME_1970) * 100
        if len(unix) >= 5 and unix[0] & 1:
            seconds: int = struct.unpack_from("<l", unix, 1)[0]
            return seconds * 1_000_000_000
        return _dos_time_ns(self.dos_date, self.dos_time)

    def renamed(self, name: str) -> Member:
        """Return the same member under another name."""
        raw = name.encode("utf-8", "surrogateescape")
        flags = self.flags if raw.isascii() else self.flags | UTF8
        return dataclasses.replace(self, name=raw, flags=flags, extra=_without(self.extra, _UNICODE_PATH))

    def touched(self, tick: int) -> Member:
        """Return the same member, modified at `tick` (units of 100 ns since 1970)."""
        dos_date, dos_time = dos_stamp(tick)
        extra = _without(self.extra, _NTFS, _UNIX_TIME) + time_extra(tick, central=True)
        return dataclasses.replace(self, dos_date=dos_date, dos_time=dos_time, extra=extra)


@functools.lru_cache(1 << 12)
def _dos_time_ns(dos_date: int, dos_time: int) -> int | None:
    day, month = dos_date & 31, dos_date >> 5 & 15
    clock = (dos_time >> 11, dos_time >> 5 & 63, (dos_time & 31) * 2)
    if not day or not 1 <= month <= 12:
        return None
    try:
        seconds = time.mktime((1980 + (dos_date >> 9), month, day, *clock, 0, 0, -1))
    except (OverflowError, ValueError):
        return None
    return int(seconds) * 1_000_000_000


# -- extra fields ------------------------------------------------------------------------------


def _fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        yield kind, extra[at + 4 : at + 4 + size]
        at += 4 + size


def _without(extra: bytes, *kinds: int) -> bytes:
    kept = bytearray()
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind not in kinds:
            kept += extra[at : at + 4 + size]
        at += 4 + size
    return bytes(kept + extra[at:])


def without_path(extra: bytes) -> bytes:
    """Return the extra field of a member that is renamed."""
    return _without(extra, _UNICODE_PATH)


def time_extra(tick: int, *, central: bool) -> bytes:
    """Return the extra fields that keep `tick`: for unzip in seconds, in the directory exactly."""
    extra = b""
    if 0 <= tick // _TICKS < 1 << 31:
        extra = struct.pack("<HHBl", _UNIX_TIME, 5, 1, tick // _TICKS)
    if central:
        stamp = tick + _FILETIME_1970
        extra += struct.pack("<HHLHHQQQ", _NTFS, 32, 0, 1, 24, stamp, stamp, stamp)
    return extra


def dos_stamp(tick: int) -> tuple[int, int]:
    """Return the DOS date and the DOS time of `tick`."""
    now = time.localtime(tick // _TICKS)
    if now.tm_year < 1980:
        return 1 << 5 | 1, 0
    year = min(now.tm_year, 2107) - 1980
    clock = now.tm_hour << 11 | now.tm_min << 5 | min(now.tm_sec, 59) // 2
    return year << 9 | now.tm_mon << 5 | now.tm_mday, clock


# -- reading -----------------------------------------------------------------------------------


def find_end(tail: bytes, size: int) -> End:
    """Find the central directory in the last bytes (at most TAIL_SIZE) of an archive of `size` bytes.

    Raises
    ------
    Corrupt
        If this is no zip archive, or not all of one.
    """
    at = _find_end_record(tail)
    _, disk, first_disk, _, count, length, offset, comment_size = _END.unpack_from(tail, at)
    comment = tail[at + _END.size : at + _END.size + comment_size]
    directory_end = size - len(tail) + at
    locator = at - _LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == _LOCATOR_SIGN:
        at = _find_end64(tail, locator, size)
        _, _, _, _, disk, first_disk, _, count, length, offset = _END64.unpack_from(tail, at)
        directory_end = size - len(tail) + at
    if disk or first_disk:
        raise Corrupt("one of several parts of a zip archive: join them first (zip -s 0)")
    start = directory_end - length
    if start < 0 or start < offset:
        raise Corrupt("the zip archive is damaged: its central directory is not where it should be")
    return End(start, length, count & MAX16, start - offset, comment)


def _find_end_record(tail: bytes) -> int:
    """Prefer a record whose comment ends exactly with the file, else take one with bytes after it."""
    fallback = -1
    at = len(tail)
    while (at := tail.rfind(_END_SIGN, 0, at + 3)) >= 0:
        if at + _END.size <= len(tail):
            end = at + _END.size + int.from_bytes(tail[at + 20 : at + 22], "little")
            if end == len(tail):
                return at
            if end < len(tail) and fallback < 0:
                fallback = at
    if fallback < 0:
        raise Corrupt("not a zip archive, or its end is missing")
    return fallback


def _find_end64(tail: bytes, locator: int, size: int) -> int:
    told = _LOCATOR.unpack_from(tail, locator)[2] - (size - len(tail))
    for at in (locator - _END64.size, told):
        if 0 <= at <= locator - _END64.size and tail[at : at + 4] == _END64_SIGN:
            return int(at)
    raise Corrupt("the zip archive is damaged: its zip64 end record is missing")


def scan_directory(directory: bytes, count: int) -> Iterator[tuple[str, int]]:
    """Iterate over the names in a central directory and where in it their records are.

    Raises
    ------
    Corrupt
        If it is not a run of whole records, `count` of them.
    """
    at = found = 0
    try:
        while at < len(directory):
            sign, system, flags, name_size, extra_size, comment_size = _SCAN.unpack_from(directory, at)
            if sign != _CENTRAL_SIGN:
                if sign == _SIGNATURE_SIGN:
                    break
                raise Corrupt(f"the zip archive is damaged: member {found} of its directory is no record")
            name_end = at + _CENTRAL.size + name_size
            end = name_end + extra_size + comment_size
            if end > len(directory):
                raise Corrupt("the zip archive is damaged: its central directory is cut short")
            raw = directory[at + _CENTRAL.size : name_end]
            if raw.isascii():
                yield raw.decode("ascii"), at
            else:
                yield _decode_name(raw, system, flags, directory[name_end : name_end + extra_size]), at
            found += 1
            at = end
    except struct.error as error:
        raise Corrupt("the zip archive is damaged: its central directory is cut short") from error
    if found & MAX16 != count:
        raise Corrupt(
            f"the zip archive is damaged: its directory has {found} members, its end another number"
        )


def _decode_name(raw: bytes, system: int, flags: int, extra: bytes) -> str:
    if flags & UTF8:
        return raw.decode("utf-8", "surrogateescape")
    for kind, data in _fields(extra):
        if kind == _UNICODE_PATH and data[:1] == b"\x01" and data[1:5] == struct.pack("<L", zlib.crc32(raw)):
            return data[5:].decode("utf-8", "surrogateescape")
    if system in _UNIX_SYSTEMS:  # zip writes UTF-8 there and does not say so, outside of a UTF-8 locale
        with suppress(UnicodeDecodeError):
            return raw.decode("utf-8")
    return raw.decode("cp437")


def parse_member(directory: bytes, at: int) -> Member:
    """Parse the record at `at` of a central directory that `scan_directory` went through."""
    (
        _, made_by, needed, flags, method, dos_time, dos_date, crc, packed, size,
        name_size, extra_size, comment_size, _, internal, external, offset,
    ) = _CENTRAL.unpack_from(directory, at)  # fmt: skip
    at += _CENTRAL.size
    name = directory[at : at + name_size]
    extra = directory[at + name_size : at + name_size + extra_size]
    comment = directory[at + name_size + extra_size : at + name_size + extra_size + comment_size]
    if MAX32 in (size, packed, offset):
        wide = next((data for kind, data in _fields(extra) if kind == _ZIP64), b"")
        values = iter(struct.unpack_from(f"<{len(wide) // 8}Q", wide))
        # a saturated field without its zip64 field is taken as it stands, as unzip does
        size = next(values, size) if size == MAX32 else size
        packed = next(values, packed) if packed == MAX32 else packed
        offset = next(values, offset) if offset == MAX32 else offset
    return Member(
        name, made_by, needed, flags, method, dos_time, dos_date, crc, packed, size,
        internal, external, offset, extra, comment,
    )  # fmt: skip


def record_size(directory: bytes, at: int) -> int:
    """Return the size of the record at `at` of a central directory."""
    _, _, _, name_size, extra_size, comment_size = _SCAN.unpack_from(directory, at)
    return _CENTRAL.size + int(name_size) + int(extra_size) + int(comment_size)


# -- writing -----------------------------------------------------------------------------------


def encode_central(member: Member) -> bytes:
    """Return the record of the central directory for `member`."""
    values = (member.size, member.packed, member.offset)
    wide = [value for value in values if value >= WIDE_FROM]
    size, packed, offset = (MAX32 if value >= WIDE_FROM else value for value in values)
    extra = _without(member.extra, _ZIP64)
    if wide:
        extra = struct.pack(f"<HH{len(wide)}Q", _ZIP64, 8 * len(wide), *wide) + extra
    head = _CENTRAL.pack(
        _CENTRAL_SIGN, member.made_by, max(member.needed, 45) if wide else member.needed, member.flags,
        member.method, member.dos_time, member.dos_date, member.crc, packed, size,
        len(member.name), len(extra), len(member.comment), 0, member.internal, member.external, offset,
    )  # fmt: skip
    return head + member.name + extra + member.comment


def encode_local(member: Member, extra: bytes, *, wide: bool) -> bytes:
    """Return the local header for `member`; `wide` keeps its sizes in a zip64 field."""
    size, packed = member.size, member.packed
    if wide:
        extra = struct.pack("<HHQQ", _ZIP64, 16, size, packed) + extra
        size = packed = MAX32
    head = LOCAL.pack(
        LOCAL_SIGN, max(member.needed, 45) if wide else member.needed, member.flags, member.method,
        member.dos_time, member.dos_date, member.crc, packed, size, len(member.name), len(extra),
    )  # fmt: skip
    return head + member.name + extra


def is_wide(size: int) -> bool:
    """Whether a member of `size` bytes, which may grow a little when packed, needs zip64 fields."""
    return size + (size >> 6) >= WIDE_FROM


def encode_end(count: int, start: int, size: int, comment: bytes) -> bytes:
    """Return the records after a central directory of `size` bytes at the (shifted) offset `start`."""
    records = b""
    if count >= MAX16 or start >= WIDE_FROM or size >= WIDE_FROM:
        records = _END64.pack(_END64_SIGN, _END64.size - 12, 45, 45, 0, 0, count, count, size, start)
        records += _LOCATOR.pack(_LOCATOR_SIGN, 0, start + size, 1)
    short = min(count, MAX16)
    end = _END.pack(
        _END_SIGN, 0, 0, short, short, min(size, MAX32), MAX32 if start >= WIDE_FROM else start, len(comment)
    )
    return records + end + comment


def local_lengths(header: bytes, member: Member) -> tuple[int, int]:
    """Return the lengths of name and extra field that the local header `header` tells.

    Raises
    ------
    Corrupt
        If it is not the local header of `member`.
    """
    if len(header) < LOCAL.size or header[:4] != LOCAL_SIGN:
        raise Corrupt("the zip archive is damaged: the member is not where its directory says")
    name_size, extra_size = struct.unpack_from("<HH", header, LOCAL.size - 4)
    name = header[LOCAL.size : LOCAL.size + name_size]
    if not (member.name.startswith(name) and (len(name) < name_size or name_size == len(member.name))):
        raise Corrupt("the zip archive is damaged: another member is where its directory says")
    return name_size, extra_size


def descriptors(member: Member) -> list[bytes]:
    """Return what the data descriptor behind the data of `member` may look like, longest first."""
    wide = struct.pack("<LQQ", member.crc, member.packed, member.size)
    forms = [b"PK\x07\x08" + wide, wide]
    if max(member.packed, member.size) <= MAX32:
        narrow = struct.pack("<LLL", member.crc, member.packed, member.size)
        forms += [b"PK\x07\x08" + narrow, narrow]
    return sorted(forms, key=len, reverse=True)
