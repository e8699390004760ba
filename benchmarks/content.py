"""The bytes of every object: cheap to make, to check, and different in every place of every object."""

from __future__ import annotations

import functools
import random
import zlib

PERIOD = 1048573
"""A prime, so that no two blocks of an object that anybody would mistake for each other are equal."""


@functools.cache
def _pattern() -> memoryview:
    block = random.Random(20).randbytes(PERIOD)
    return memoryview(block * 18)


def content(key: str, size: int, offset: int = 0) -> memoryview:
    """Return what the object `key` has at `offset`; at most 16 MiB at once."""
    start = (zlib.crc32(key.encode()) + offset) % PERIOD
    part = _pattern()[start : start + size]
    if len(part) != size:
        raise ValueError(f"{size} bytes are more than the pattern has")
    return part


class WrongBytes(Exception):
    """What was read is not what was stored."""


def check(key: str, data: bytes | bytearray | memoryview, size: int, offset: int = 0) -> None:
    """Raise `WrongBytes` unless `data` is what the object has at `offset`."""
    if len(data) != size:
        raise WrongBytes(f"{key}: {len(data)} bytes at {offset}, not {size}")
    if data != content(key, size, offset):
        raise WrongBytes(f"{key}: other bytes at {offset} than were stored")
