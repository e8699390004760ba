"""One entry of the disk cache: what its file looks like, and how it shows that it is whole.

A file is a short binary prefix, a head in JSON, and the bytes.  The prefix has
the head's length and checksum, the head the bytes' length and checksum and the
name of the entry; so a file that is torn, damaged, or under a wrong name is
never taken for what it was to be.
"""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import zlib
from typing import Any

__all__ = ["DamagedError", "Entry", "encode_head", "read_entry"]

_PREFIX = struct.Struct("<4sII")
_MAGIC = b"zmc1"
_LONGEST_HEAD = 1 << 16


class DamagedError(Exception):
    """A file is not, or not any more, what was written as this entry."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under one name.

    Attributes
    ----------
    about : dict
        What was told of it, as JSON has it.
    length : int
        Of the bytes that are kept.
    data : bytes or None
        They themselves; None if only the head was read.
    """

    about: dict[str, Any]
    length: int
    data: bytes | None = None


def encode_head(name: str, about: dict[str, Any], data: bytes) -> bytes:
    """Return what comes before the bytes in the file of an entry."""
    head = json.dumps([name, about, len(data), zlib.crc32(data)], separators=(",", ":")).encode()
    return _PREFIX.pack(_MAGIC, len(head), zlib.crc32(head)) + head


def read_entry(file: io.RawIOBase, name: str, *, with_data: bool) -> Entry:
    """Read the entry of a name.

    Raises
    ------
    DamagedError
        If the file is not that entry, or not whole.
    """
    prefix = _read(file, _PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise DamagedError("it is cut off")
    magic, head_length, head_sum = _PREFIX.unpack(prefix)
    if magic != _MAGIC or head_length > _LONGEST_HEAD:
        raise DamagedError("it is no entry")
    head = _read(file, head_length)
    if len(head) < head_length or zlib.crc32(head) != head_sum:
        raise DamagedError("its head is damaged")
    named, about, length, data_sum = json.loads(head)
    if named != name:
        raise DamagedError("it is another entry")
    if not with_data:
        return Entry(about, length)
    data = _read(file, length)
    if len(data) < length or zlib.crc32(data) != data_sum:
        raise DamagedError("its bytes are damaged")
    return Entry(about, length, data)


def _read(file: io.RawIOBase, size: int) -> bytes:
    """Read so many bytes, fewer only at the end; a raw file may give a part of what is there."""
    data = file.read(size) or b""
    if len(data) == size or not data:
        return data
    parts = [data]
    while (missing := size - sum(map(len, parts))) and (more := file.read(missing)):
        parts.append(more)
    return b"".join(parts)
