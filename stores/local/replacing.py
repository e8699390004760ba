"""Puts into a directory: a file is made whole beside its name, and then takes it, on a condition.

Everything here blocks, and runs in worker threads.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from stores.errors import Precondition
from stores.local.beneath import RENAME_NOREPLACE, Root, encode, rename_at
from stores.local.files import TEMPORARY_END, File, check_version, look_at, look_into, object_meta, os_error
from stores.meta import AttributeChange, ObjectMeta

__all__ = ["locked", "put_file"]

_LOCKS = tuple(threading.Lock() for _ in range(64))


@contextmanager
def locked(*names: tuple[int, bytes]) -> Iterator[None]:
    """Shut out all else in this process that sets or takes away these names, each in its directory.

    A lock of the process, not of a store: two stores may have one directory.
    """
    numbers = set()
    for directory, name in names:
        where = os.fstat(directory)
        numbers.add(hash((where.st_dev, where.st_ino, name)) % len(_LOCKS))
    with ExitStack() as stack:
        for number in sorted(numbers):  # always in this order, so that two never wait for one another
            stack.enter_context(_LOCKS[number])
        yield


def _temporary_name(name: bytes) -> bytes:
    short = name[:64].decode("utf-8", "ignore")  # whole characters: some file systems insist on UTF-8
    return encode(f".{short}.{secrets.token_hex(8)}{TEMPORARY_END}")


def put_file(
    root: Root,
    key: str,
    write: Callable[[int], None],
    *,
    if_absent: bool = False,
    if_version: str | None = None,
    attributes: AttributeChange | None = None,
) -> ObjectMeta:
    """Make a file whole and then give it its name; what was there is kept until then, or for good.

    Parameters
    ----------
    root : Root
        The store's directory.
    key : str
        The key.
    write : function
        Writes the bytes to the file descriptor that it is given.
    if_absent : bool
        Only create.
    if_version : str or None
        Only replace this version.
    attributes : AttributeChange or None
        What differs from the replaced file's attributes, or from those of any new file.
    """
    with _parent_of_target(root, key, if_version) as (directory, name):
        old = _check_target(key, _look_if_there(directory, name), if_absent, if_version)
        private = old is not None or (attributes is not None and attributes.mode is not None)
        temporary = _temporary_name(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        # What replaces nothing is made as any new file, so that the kernel applies umask and ACLs.
        fd = os.open(temporary, flags, 0o600 if private else 0o666, dir_fd=directory)
        try:
            write(fd)
            _finish(fd, directory, name, old, attributes or AttributeChange())
            with locked((directory, name)):
                _check_target(key, _look_if_there(directory, name), if_absent, if_version)
                _give_name(directory, temporary, name, if_absent)
                return object_meta(key, look_into(fd))  # now, since the renaming set its ctime
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            os.close(fd)


@contextmanager
def _parent_of_target(root: Root, key: str, if_version: str | None) -> Iterator[tuple[int, bytes]]:
    """Open, or make, the directory of a put; what replaces something makes none."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(root.parent(key, create=if_version is None))
        except (FileNotFoundError, NotADirectoryError) as error:
            if if_version is None:
                raise
            raise Precondition("it was deleted since it was looked up", key=key) from error
        yield found


def _look_if_there(directory: int, name: bytes) -> File | None:
    try:
        return look_at(directory, name)
    except FileNotFoundError:
        return None


def _check_target(
    key: str, found: File | None, if_absent: bool, if_version: str | None
) -> os.stat_result | None:
    """Check that `found` may be replaced; return it where it is a file whose attributes are kept."""
    if if_absent and found is not None:
        raise os_error(errno.EEXIST)
    if found is not None and found.is_directory:
        raise os_error(errno.EISDIR)
    check_version(key, found, if_version)
    return found.stat if found is not None and stat.S_ISREG(found.stat.st_mode) else None


def _give_name(directory: int, temporary: bytes, name: bytes, if_absent: bool) -> None:
    if not if_absent:
        rename_at(directory, temporary, directory, name, 0)
        return
    try:
        rename_at(directory, temporary, directory, name, RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        os.unlink(temporary, dir_fd=directory)


_last_time = 0
_time_lock = threading.Lock()


def _new_time() -> int:
    """Return the time, later than ever before, so that it tells two puts apart where there are no handles."""
    global _last_time  # noqa: PLW0603 - one clock for the process
    with _time_lock:
        _last_time = max(_last_time + 1, time.time_ns())
        return _last_time


def _finish(
    fd: int, directory: int, name: bytes, old: os.stat_result | None, change: AttributeChange
) -> None:
    """Give an unfinished file the attributes of the file that it replaces, and those asked for."""
    if old is not None:
        kept_owner = _keep_owner(fd, old)
        mode = stat.S_IMODE(old.st_mode) if kept_owner else stat.S_IMODE(old.st_mode) & 0o777
        os.fchmod(fd, mode)
        _keep_xattrs(fd, f"/proc/self/fd/{directory}/".encode() + name)
    if change.uid is not None or change.gid is not None:
        os.fchown(fd, -1 if change.uid is None else change.uid, -1 if change.gid is None else change.gid)
    if change.mode is not None:
        os.fchmod(fd, stat.S_IMODE(change.mode))
    now = _new_time()
    os.utime(
        fd,
        ns=(
            now if change.atime_ns is None else change.atime_ns,
            now if change.mtime_ns is None else change.mtime_ns,
        ),
    )


def _keep_owner(fd: int, old: os.stat_result) -> bool:
    """Hand the file to the old owner, as far as this process may; tell whether it is theirs."""
    made = os.fstat(fd)
    if (made.st_uid, made.st_gid) == (old.st_uid, old.st_gid):
        return True
    try:
        os.fchown(fd, old.st_uid, old.st_gid)
    except PermissionError:  # only root gives files away; a group of one's own can be kept
        with suppress(PermissionError):
            os.fchown(fd, -1, old.st_gid)
        return False
    return True


def _keep_xattrs(fd: int, path: bytes) -> None:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOENT):  # has none, or was deleted meanwhile
            return
        raise
    for name in names:
        try:
            os.setxattr(fd, name, os.getxattr(path, name, follow_symlinks=False))
        except OSError as error:
            # Labels that only security modules or root may set are not for us to copy.
            if error.errno == errno.ENODATA or not name.startswith("user."):
                continue
            raise
