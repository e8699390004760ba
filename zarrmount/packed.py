"""What a store said of a file, in a fraction of the room: for tables of a million inodes."""

from __future__ import annotations

import struct

from stores.meta import ObjectMeta, PosixAttributes

__all__ = ["pack", "unpack"]

_PLAIN = struct.Struct("<Qq")
_POSIX = struct.Struct("<QqIIIIqqI")


def pack(meta: ObjectMeta) -> bytes | ObjectMeta:
    """Return a meta without its key as bytes, or as it is if that cannot be done."""
    version, mtime, posix = meta.version, meta.mtime_ns, meta.posix
    if version is None or mtime is None or (posix is not None and posix.rdev):
        return meta
    try:
        if posix is None:
            return b"." + _PLAIN.pack(meta.size, mtime) + version.encode()
        known = (posix.mode, posix.uid, posix.gid, posix.nlink, posix.atime_ns, posix.ctime_ns)
        return b"p" + _POSIX.pack(meta.size, mtime, *known, posix.blocks) + version.encode()
    except (struct.error, UnicodeEncodeError):  # out of bounds: two terabytes on disk, the year 2262
        return meta


def unpack(data: bytes, key: str) -> ObjectMeta:
    """Return what `pack` made bytes of; `key` is the object's."""
    if data[:1] == b".":
        size, mtime = _PLAIN.unpack_from(data, 1)
        return ObjectMeta(key, size, mtime, data[1 + _PLAIN.size :].decode())
    size, mtime, *known = _POSIX.unpack_from(data, 1)
    return ObjectMeta(key, size, mtime, data[1 + _POSIX.size :].decode(), PosixAttributes(*known))
