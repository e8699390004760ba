"""What is changed of a store's files and directories, but for puts (:mod:`stores.local.replacing`).

Everything here blocks, and runs in worker threads.
"""

from __future__ import annotations

import errno
import os
import stat

from stores.errors import NotFound, Unavailable
from stores.local import files
from stores.local.beneath import RENAME_EXCHANGE, Root, encode, rename_at, sync_file_system
from stores.local.reading import READ, opened_file
from stores.local.replacing import locked, put_file
from stores.meta import AttributeChange, ObjectMeta, PrefixMeta

__all__ = [
    "copy",
    "delete",
    "link",
    "make_dir",
    "make_node",
    "remove_dir",
    "rename",
    "set_attributes",
    "symlink",
    "sync",
]

_SCAN = os.O_RDONLY | os.O_DIRECTORY


def delete(root: Root, key: str) -> None:
    """Delete a file of any kind."""
    with root.parent(key) as (directory, name), locked((directory, name)):
        if files.look_at(directory, name).is_directory:
            raise NotFound("it is a directory", key=key, os_errno=errno.EISDIR)
        os.unlink(name, dir_fd=directory)


def copy(root: Root, source: str, target: str, if_absent: bool) -> ObjectMeta:
    """Copy a file, without taking its bytes into the process where the kernel can."""
    with opened_file(root, source, None) as (opened, found):

        def write(fd: int) -> None:
            files.copy_bytes(opened, fd)
            if files.changed(found.stat, os.fstat(opened)):
                raise Unavailable("another program wrote to it while it was copied", key=source)

        with files.translated(target):
            return put_file(root, target, write, if_absent=if_absent)


def rename(root: Root, source: str, target: str, flags: int, *, directory: bool) -> None:
    """Rename a file, or a directory, in one step."""
    if f"{target}/".startswith(f"{source}/") and source != target:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # before anything is made for the target
    with root.parent(source) as old, root.parent(target, create=not flags & RENAME_EXCHANGE) as new:
        is_directory = files.look_at(*old).is_directory
        if is_directory != directory:
            wrong = errno.EISDIR if is_directory else errno.ENOTDIR
            raise NotFound(
                "no such directory" if directory else "it is a directory", key=source, os_errno=wrong
            )
        with files.translated(target), locked(old, new):
            rename_at(*old, *new, flags)


def sync(root: Root, path: str) -> None:
    """Return when what is under a path would survive a power loss."""
    with root.parent(path) as (directory, name):
        found = files.look_at(directory, name)
    if found.is_directory:
        with root.opened(path, _SCAN) as fd:
            sync_file_system(fd)
        return
    if stat.S_ISREG(found.stat.st_mode):
        with root.opened(path, READ | os.O_NOFOLLOW) as fd:
            os.fsync(fd)
    above = path
    while above:
        above = above.rpartition("/")[0]
        with root.opened(above, _SCAN) as fd:
            os.fsync(fd)


def make_dir(root: Root, path: str, mode: int) -> PrefixMeta:
    """Make an empty directory."""
    with root.parent(path, create=True) as (directory, name):
        os.mkdir(name, stat.S_IMODE(mode), dir_fd=directory)
        return files.prefix_meta(path, files.look_at(directory, name).stat)


def remove_dir(root: Root, path: str) -> None:
    """Remove a directory that holds nothing but what dead writers left."""
    with root.parent(path) as (directory, name):
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            with root.opened(path, _SCAN | os.O_NOFOLLOW) as fd:
                swept = files.sweep(fd)
            if not swept:
                raise
            os.rmdir(name, dir_fd=directory)


def set_attributes(root: Root, path: str, change: AttributeChange) -> None:
    """Change mode, owner or times."""
    with root.parent(path) as (directory, name):
        files.look_at(directory, name)  # a change of nothing also says NotFound
        files.set_attributes_at(directory, name, change)


def symlink(root: Root, key: str, target: str) -> ObjectMeta:
    """Make a symbolic link."""
    with root.parent(key, create=True) as (directory, name):
        os.symlink(encode(target), name, dir_fd=directory)
        return files.object_meta(key, files.look_at(directory, name))


def link(root: Root, source: str, target: str) -> ObjectMeta:
    """Make a hard link."""
    with root.parent(source) as old, root.parent(target, create=True) as new:
        files.look_at(*old)
        with files.translated(target), locked(new):
            os.link(old[1], new[1], src_dir_fd=old[0], dst_dir_fd=new[0], follow_symlinks=False)
        return files.object_meta(target, files.look_at(*new))


def make_node(root: Root, key: str, mode: int, rdev: int) -> ObjectMeta:
    """Make a FIFO, a socket or a device node."""
    with root.parent(key, create=True) as (directory, name):
        os.mknod(name, mode, rdev, dir_fd=directory)
        return files.object_meta(key, files.look_at(directory, name))
