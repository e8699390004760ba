"""What stores tell and take: the meta of objects, pages of listings, capabilities."""

from __future__ import annotations

import dataclasses
from typing import BinaryIO

__all__ = [
    "AttributeChange",
    "Body",
    "Capabilities",
    "ListPage",
    "Lookup",
    "ObjectMeta",
    "PosixAttributes",
    "PrefixMeta",
    "Usage",
    "read_body",
]

Body = bytes | bytearray | memoryview | BinaryIO
"""What ``put`` stores: bytes, or a seekable binary file taken from its start to its end."""


@dataclasses.dataclass(frozen=True, slots=True)
class PosixAttributes:
    """What only a real file system knows of a file; other stores leave it out.

    Attributes
    ----------
    mode : int
        ``st_mode``: the kind of file and its permission bits.
    uid, gid, nlink : int
        As in ``stat(2)``.
    atime_ns, ctime_ns : int
        Nanoseconds since 1970 (the time of modification is in the meta itself).
    blocks : int
        Allocated units of 512 bytes.
    rdev : int
        Device number of a device node, else 0.
    """

    mode: int
    uid: int
    gid: int
    nlink: int
    atime_ns: int
    ctime_ns: int
    blocks: int
    rdev: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What a store tells of one object.

    Attributes
    ----------
    key : str
        Its whole key.
    size : int
        Bytes; exact.
    mtime_ns : int or None
        Last modification, nanoseconds since 1970; None where the store keeps no times.
    version : str or None
        Changes whenever the bytes do; None where the store has nothing of the sort.
    posix : PosixAttributes or None
        Where the store has ``Capabilities.posix``.  Symbolic links and device nodes are objects
        whose ``posix.mode`` says so.
    """

    key: str
    size: int
    mtime_ns: int | None = None
    version: str | None = None
    posix: PosixAttributes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PrefixMeta:
    """What a store tells of one prefix ("directory"); `prefix` has no slash at its end."""

    prefix: str
    mtime_ns: int | None = None
    posix: PosixAttributes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing, in no promised order.

    `objects` and `prefixes` may hold names that are no file names (empty, ``..``, not UTF-8): a
    listing tells what is there, and whoever shows it as a tree filters it.  A name may stand in
    both, and a prefix may come again in a later page.

    Attributes
    ----------
    objects, prefixes : tuple
        What is there.
    asked_alone : bool
        Whether the store was asked for this page when it was wanted, rather than for all pages when
        the first one was.
    first_index : int or None
        Where this page begins in a sequence of names of which ``Store.name_at`` tells any.
    """

    objects: tuple[ObjectMeta, ...] = ()
    prefixes: tuple[PrefixMeta, ...] = ()
    asked_alone: bool = False
    first_index: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Lookup:
    """What stands under one path: an object, a prefix, both, or (never returned) neither."""

    object: ObjectMeta | None = None
    prefix: PrefixMeta | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class AttributeChange:
    """What to change of a file's attributes; None leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Room in a store, in bytes and in files, as ``statvfs(3)`` counts them."""

    total_bytes: int
    free_bytes: int
    available_bytes: int
    total_files: int
    free_files: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store can do; each is False unless it says otherwise.

    Attributes
    ----------
    listable : bool
        ``list_dir`` and ``list_all`` work.
    ordered : bool
        ``list_after`` works: the store lists in the order of the keys, and from anywhere.
    ranges : bool
        ``get_range`` transfers about the bytes asked for, not the whole object.
    versions : bool
        ``ObjectMeta.version`` is never None, and ``if_version`` works for reads.
    create_if_absent : bool
        ``put(if_absent=True)`` is atomic (but see `ObjectStore` for large objects).
    replace_if_version : bool
        ``put(if_version=...)`` is atomic (but see `ObjectStore` for large objects).
    rename : bool
        ``rename`` is one atomic step (else callers copy and delete).
    server_copy : bool
        ``copy`` moves no bytes through this process.
    directories : bool
        Empty directories are kept, and ``make_dir``, ``remove_dir`` and ``rename_dir`` work.
    posix : bool
        Modes, owners, times, symbolic and hard links and device nodes are real.
    snapshot_reads : bool
        An open :class:`ObjectReader` goes on giving the same bytes after its object was deleted
        or replaced.
    """

    listable: bool = False
    ordered: bool = False
    ranges: bool = False
    versions: bool = False
    create_if_absent: bool = False
    replace_if_version: bool = False
    rename: bool = False
    server_copy: bool = False
    directories: bool = False
    posix: bool = False
    snapshot_reads: bool = False


def read_body(body: Body) -> bytes | bytearray | memoryview:
    """Return all of `body` as bytes; a file is read from its start."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        return body
    body.seek(0)
    return body.read()
