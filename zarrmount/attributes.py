"""The attributes that ``stat(2)`` shows of an inode."""

from __future__ import annotations

import dataclasses
import stat

from zarrmount.inodes import Inode, Kind
from zarrmount.settings import TreeSettings

__all__ = ["Attributes", "attributes_of"]

BLOCK = 512
PREFERRED_IO = 128 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Attributes:
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
    posix, size = inode.posix, inode.size
    mtime = inode.mtime_ns
    if mtime is None:
        found = inode.prefix if inode.is_dir else inode.meta
        mtime = found.mtime_ns if found is not None else None
    if mtime is None:
        mtime = started_ns
    atime = inode.atime_ns if inode.atime_ns is not None else (posix.atime_ns if posix else mtime)
    uid, gid = settings.owner
    if posix is not None:
        uid = posix.uid if settings.uid is None else uid
        gid = posix.gid if settings.gid is None else gid
    if inode.uid is not None and settings.uid is None:
        uid = inode.uid
    if inode.gid is not None and settings.gid is None:
        gid = inode.gid
    blocks = -(-size // BLOCK)
    if posix is not None and inode.staged is None:
        blocks = posix.blocks
    nlink = posix.nlink if posix is not None else 1
    return Attributes(
        inode=inode.number,
        mode=_mode(inode, settings),
        nlink=0 if inode.unlinked else nlink,
        uid=uid,
        gid=gid,
        rdev=posix.rdev if posix is not None else 0,
        size=size,
        blocks=blocks,
        atime_ns=atime,
        mtime_ns=mtime,
        ctime_ns=posix.ctime_ns if posix is not None and inode.staged is None else inode.ctime_ns,
    )


def _mode(inode: Inode, settings: TreeSettings) -> int:
    asked, default = (settings.dir_mode, 0o755) if inode.is_dir else (settings.file_mode, 0o644)
    posix = inode.posix
    if inode.mode is not None:
        bits = inode.mode
    elif asked is not None and inode.kind in (Kind.DIRECTORY, Kind.FILE):
        bits = asked
    elif posix is not None:
        bits = stat.S_IMODE(posix.mode)
    else:
        bits = default
    if inode.kind in (Kind.DIRECTORY, Kind.FILE):
        bits &= ~settings.umask
    kind = stat.S_IFMT(posix.mode) if posix is not None else 0
    return (kind or (stat.S_IFDIR if inode.is_dir else stat.S_IFREG)) | bits
