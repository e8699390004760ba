"""The attributes that ``stat(2)`` shows of an inode."""

from __future__ import annotations

import stat
from typing import NamedTuple

from stores.meta import PosixAttributes
from zarrmount.inodes import Inode, Kind
from zarrmount.settings import TreeSettings

__all__ = ["Attributes", "attributes_of"]

BLOCK = 512
PREFERRED_IO = 128 * 1024


class Attributes(NamedTuple):
    """As in ``stat(2)``; times in nanoseconds since 1970, `blocks` in units of 512 bytes."""

    inode: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


def attributes_of(inode: Inode, settings: TreeSettings, started_ns: int) -> Attributes:
    """Return what ``stat(2)`` shows.

    What was set here and the store was not told yet comes first, then what the mount was asked to
    show, then what the store says, then the defaults.

    Parameters
    ----------
    inode : Inode
        What to look at.
    settings : TreeSettings
        For the owner and the modes that the mount was asked to show.
    started_ns : int
        The time of what has no time of its own.
    """
    is_dir, staged = inode.is_dir, inode.staged
    found = inode.prefix if is_dir else inode.meta
    posix = found.posix if found is not None else None
    size = inode.size
    mtime = inode.mtime_ns
    if mtime is None:
        mtime = found.mtime_ns if found is not None else None
    if mtime is None:
        mtime = started_ns
    atime, ctime = inode.atime_ns, inode.ctime_ns
    if posix is None:
        nlink, rdev = 1, 0
        uid, gid = settings.owner
    else:
        nlink, rdev = posix.nlink, posix.rdev
        uid = posix.uid if settings.uid is None else settings.uid
        gid = posix.gid if settings.gid is None else settings.gid
        atime = posix.atime_ns if atime is None else atime
        ctime = posix.ctime_ns if staged is None else ctime
    if inode.uid is not None and settings.uid is None:
        uid = inode.uid
    if inode.gid is not None and settings.gid is None:
        gid = inode.gid
    return Attributes(
        inode=inode.number,
        mode=_mode(inode, is_dir, posix, settings),
        nlink=0 if inode.unlinked else nlink,
        uid=uid,
        gid=gid,
        rdev=rdev,
        size=size,
        blocks=posix.blocks if posix is not None and staged is None else -(-size // BLOCK),
        atime_ns=mtime if atime is None else atime,
        mtime_ns=mtime,
        ctime_ns=mtime if ctime is None else ctime,
    )


def _mode(inode: Inode, is_dir: bool, posix: PosixAttributes | None, settings: TreeSettings) -> int:
    ours = is_dir or inode.kind is Kind.FILE
    asked, default = (settings.dir_mode, 0o755) if is_dir else (settings.file_mode, 0o644)
    if inode.mode is not None:
        bits = inode.mode
    elif asked is not None and ours:
        bits = asked
    elif posix is not None:
        bits = posix.mode & 0o7777
    else:
        bits = default
    if ours:
        bits &= ~settings.umask
    kind = posix.mode & ~0o7777 if posix is not None else 0
    return (kind or (stat.S_IFDIR if is_dir else stat.S_IFREG)) | bits
