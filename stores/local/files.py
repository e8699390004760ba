"""Files and directories as a local store sees them: metas, versions, errors, bytes, walks.

Everything here blocks, and runs in worker threads.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stores.errors import (
    AlreadyExists,
    Denied,
    InvalidKey,
    NoSpace,
    NotFound,
    Precondition,
    ReadOnly,
    StoreError,
    Unavailable,
    Unsupported,
)
from stores.keys import join
from stores.local.beneath import Root, file_handle
from stores.meta import AttributeChange, Body, ObjectMeta, PosixAttributes, PrefixMeta

__all__ = [
    "TEMPORARY_END",
    "File",
    "changed",
    "check_version",
    "copy_bytes",
    "is_temporary",
    "look_at",
    "look_into",
    "object_meta",
    "prefix_meta",
    "scan",
    "set_attributes_at",
    "store_error",
    "sweep",
    "translated",
    "walk",
    "write_body",
]

_CHUNK = 1 << 20
_SCAN = os.O_RDONLY | os.O_DIRECTORY
_GONE_STALE = 3600.0
TEMPORARY_END = ".zarrmount-tmp"
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.zarrmount-tmp", re.DOTALL)

# -- errors ------------------------------------------------------------------------------------------

_ERRORS: dict[int | None, tuple[type[StoreError], str]] = {
    errno.ENOENT: (NotFound, "no such file or directory"),
    errno.ENOTDIR: (NotFound, "something above it is a file, not a directory"),
    errno.EEXIST: (AlreadyExists, "it is there already"),
    errno.ENOTEMPTY: (Denied, "the directory is not empty"),
    errno.EISDIR: (Denied, "a directory has this name"),
    errno.EACCES: (Denied, "permission denied"),
    errno.EPERM: (Denied, "operation not permitted"),
    errno.EXDEV: (Denied, "it leads out of the root, or to another file system"),
    errno.ELOOP: (Denied, "too many symbolic links, or one where none may be"),
    errno.ENXIO: (Denied, "not a file that can be read"),
    errno.EMLINK: (Denied, "too many links"),
    errno.EROFS: (ReadOnly, "the file system is read-only"),
    errno.ENOSPC: (NoSpace, "no space left on the disk"),
    errno.EDQUOT: (NoSpace, "the disk quota is used up"),
    errno.EFBIG: (NoSpace, "too large for the file system"),
    errno.ENAMETOOLONG: (InvalidKey, "the name is too long for the file system"),
    errno.EILSEQ: (InvalidKey, "the file system cannot hold such a name"),
    errno.EINVAL: (Unsupported, "the file system refuses this"),
    errno.ENOSYS: (Unsupported, "the kernel cannot do this"),
    errno.EOPNOTSUPP: (Unsupported, "the file system cannot do this"),
}


def store_error(error: OSError, key: str) -> StoreError:
    """Return the StoreError that says what `error` says, with its errno."""
    kind, message = _ERRORS.get(error.errno, (Unavailable, error.strerror or str(error)))
    return kind(message, key=key, os_errno=error.errno)


def os_error(number: int) -> OSError:
    """Return the OSError of an errno."""
    return OSError(number, os.strerror(number))


@contextmanager
def translated(key: str) -> Iterator[None]:
    """Raise the StoreErrors of the OSErrors that the context raises."""
    try:
        yield
    except OSError as error:
        raise store_error(error, key) from error


# -- metas -------------------------------------------------------------------------------------------


class File(NamedTuple):
    """What is known of one file: what ``stat(2)`` tells, and its handle."""

    stat: os.stat_result
    handle: str

    @property
    def version(self) -> str:
        """What changes when a file is replaced or written to, and not when its mode is.

        A put makes a new file, with another handle; the number of its inode may be that of an
        earlier one.  A writer in place sets the time of modification.  The time of the last *change*
        would also tell of a writer who sets back the former; but chmod, link and rename alter it
        too, and would make a file that is open for writing look like another's.
        """
        return f"{self.handle or hex(self.stat.st_ino)}-{self.stat.st_size:x}-{self.stat.st_mtime_ns:x}"

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.stat.st_mode)


def look_at(directory: int, name: bytes) -> File:
    """Return what `name` itself is, be it a link."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    # Was the file replaced in between, then the two make a version that no file ever has: as it should be.
    return File(found, file_handle(directory, name))


def look_into(fd: int) -> File:
    """Return what an open file is."""
    return File(os.fstat(fd), file_handle(fd, b""))


def changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Tell whether an open file was written to between two looks."""
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


def check_version(key: str, found: File | None, version: str | None) -> None:
    """Raise Precondition unless `found` is of `version`; None is any version."""
    if version is None:
        return
    if found is None:
        raise Precondition("it was deleted since it was looked up", key=key)
    if found.version != version:
        raise Precondition("it has changed since it was looked up", key=key)


def _attributes(found: os.stat_result) -> PosixAttributes:
    return PosixAttributes(
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        nlink=found.st_nlink,
        atime_ns=found.st_atime_ns,
        ctime_ns=found.st_ctime_ns,
        blocks=found.st_blocks,
        rdev=found.st_rdev if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else 0,
    )


def object_meta(key: str, found: File) -> ObjectMeta:
    """Return the meta of anything but a directory."""
    return ObjectMeta(key, found.stat.st_size, found.stat.st_mtime_ns, found.version, _attributes(found.stat))


def prefix_meta(prefix: str, found: os.stat_result) -> PrefixMeta:
    """Return the meta of a directory."""
    return PrefixMeta(prefix, found.st_mtime_ns, _attributes(found))


def set_attributes_at(directory: int, name: bytes, change: AttributeChange) -> None:
    """Change mode, owner and times of `name` itself, not of what a link points to."""
    if change.uid is not None or change.gid is not None:
        uid = -1 if change.uid is None else change.uid
        gid = -1 if change.gid is None else change.gid
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
    if change.mode is not None:  # after chown, which takes away set-user-ID bits
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if stat.S_ISLNK(os.fstat(pinned).st_mode):
                raise os_error(errno.EOPNOTSUPP)  # on Linux, links have no mode of their own
            Path(f"/proc/self/fd/{pinned}").chmod(stat.S_IMODE(change.mode))
        finally:
            os.close(pinned)
    if change.atime_ns is not None or change.mtime_ns is not None:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        atime = found.st_atime_ns if change.atime_ns is None else change.atime_ns
        mtime = found.st_mtime_ns if change.mtime_ns is None else change.mtime_ns
        os.utime(name, ns=(atime, mtime), dir_fd=directory, follow_symlinks=False)


# -- bytes -------------------------------------------------------------------------------------------


def write_body(fd: int, body: Body) -> None:
    """Write all of a body, in pieces if it is a file."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        view = memoryview(body)
        _write(fd, view.cast("B") if view.c_contiguous else memoryview(view.tobytes()))
        return
    body.seek(0)
    while piece := body.read(_CHUNK):
        _write(fd, memoryview(piece))


def _write(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view) :]


def copy_bytes(source: int, fd: int) -> None:
    """Copy a whole open file into another without taking its bytes into the process."""
    position = 0
    try:
        while count := os.copy_file_range(source, fd, 1 << 30, position):
            position += count
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    # Some file systems cannot, and /proc-like ones say 0; the rest goes by the older call.
    while count := os.sendfile(fd, source, position, 1 << 30):
        position += count


# -- directories, and what is unfinished in them ------------------------------------------------------


def is_temporary(name: str) -> bool:
    """Tell whether a name is one that puts give to unfinished files."""
    return name.endswith(TEMPORARY_END) and _TEMPORARY.fullmatch(name) is not None


def sweep(directory: int) -> bool:
    """Remove unfinished files of dead writers from a directory that holds nothing else."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries]
    old = time.time() - _GONE_STALE
    stale = [name for name in names if is_temporary(name)]
    if len(stale) < len(names):
        return False
    for name in stale:
        if os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime > old:
            return False
    for name in stale:
        os.unlink(name, dir_fd=directory)
    return True


def scan(root: Root, prefix: str) -> Generator[ObjectMeta | PrefixMeta, None, None]:
    """Yield what is directly in a directory; nothing if there is no such directory."""
    try:
        fd = root.open(prefix, _SCAN)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                raw = os.fsencode(entry.name)
                name = raw.decode("utf-8", "surrogateescape")
                if is_temporary(name):
                    continue
                key = join(prefix, name)
                try:
                    if entry.is_dir(follow_symlinks=False):
                        yield prefix_meta(key, entry.stat(follow_symlinks=False))
                    else:
                        yield object_meta(key, look_at(fd, raw))
                except FileNotFoundError:
                    continue  # deleted since its name was read
    finally:
        os.close(fd)


def walk(root: Root, prefix: str) -> Generator[ObjectMeta, None, None]:
    """Yield all objects beneath a directory; links to directories are objects and not entered."""
    todo = [prefix]
    while todo:
        for found in scan(root, todo.pop()):
            if isinstance(found, PrefixMeta):
                todo.append(found.prefix)
            else:
                yield found
