"""Names resolved beneath one directory, and never out of it.

A path that was checked and then opened can lead elsewhere when a directory on
its way is exchanged for a symbolic link in between.  So nothing here takes a
path twice: a key is opened in one ``openat2(2)`` that the kernel keeps beneath
the root, or (kernels before 5.6, some sandboxes) by a walk that opens one name
after the other without following links, and reads links itself.  What is then
done to the last name is done relative to the directory that was opened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "Root",
    "encode",
    "rename_at",
    "sync_file_system",
]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_SYS_OPENAT2 = 437  # on all architectures
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "ppc64le": 357, "s390x": 347}
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_AT_EMPTY_PATH = 0x1000
_MAX_LINKS = 40  # as the kernel's own MAXSYMLINKS
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def encode(text: str) -> bytes:
    """Return the bytes of a name or path, whatever the locale."""
    return text.encode("utf-8", "surrogateescape")


def _check(result: int, path: bytes) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _open_by_kernel(root: int, path: bytes, flags: int) -> int:
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    while True:
        with suppress(BlockingIOError):  # something was renamed during the walk: the kernel asks to repeat
            return _check(
                _libc.syscall(
                    ctypes.c_long(_SYS_OPENAT2),
                    ctypes.c_int(root),
                    ctypes.c_char_p(path),
                    ctypes.byref(how),
                    ctypes.c_size_t(ctypes.sizeof(how)),
                ),
                path,
            )


def _open_by_walking(root: int, path: bytes, flags: int) -> int:
    """Do the same without openat2: ``..`` goes back along the directories that were walked."""
    todo = path.split(b"/")[::-1]
    links = 0
    with ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        walked = [root]
        while todo:
            name = todo.pop()
            if name == b"..":
                walked.pop()
                if not walked:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
                name = b"."
            elif name == b"":
                name = b"."
            there = keep(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=walked[-1]))
            link = _link_text(there)
            if link is not None and (todo or not flags & os.O_NOFOLLOW):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if link.startswith(b"/"):
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
                todo += link.split(b"/")[::-1]
            elif todo:
                if name != b".":
                    walked.append(there)
            else:
                return os.open(name, flags | os.O_NOFOLLOW, dir_fd=walked[-1])
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _link_text(fd: int) -> bytes | None:
    """Return what a symbolic link that was opened with O_PATH holds, None for any other file."""
    try:
        return os.readlink(b"", dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):  # the latter for what is no link
            return None
        raise


def _kernel_has_openat2(root: int) -> bool:
    try:
        os.close(_open_by_kernel(root, b".", _DIRECTORY))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return False
        raise
    return True


def rename_at(source_dir: int, source: bytes, target_dir: int, target: bytes, flags: int) -> None:
    """Call ``renameat2(2)``; EINVAL where the file system lacks a flag."""
    if not flags:
        os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        return
    arguments = (
        ctypes.c_int(source_dir),
        ctypes.c_char_p(source),
        ctypes.c_int(target_dir),
        ctypes.c_char_p(target),
        ctypes.c_uint(flags),
    )
    if hasattr(_libc, "renameat2"):
        _check(_libc.renameat2(*arguments), source)
        return
    number = _SYS_RENAMEAT2.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), source)
    _check(_libc.syscall(ctypes.c_long(number), *arguments), source)


def sync_file_system(fd: int) -> None:
    """Call ``syncfs(2)``: write out the whole file system that `fd` lies on."""
    _check(_libc.syncfs(ctypes.c_int(fd)), b"")


class _FileHandle(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128))


def file_handle(directory: int, name: bytes) -> str:
    """Return the handle of a file, which unlike its inode number is never used again.

    Parameters
    ----------
    directory : int
        An open directory; or the file itself, if `name` is empty.
    name : bytes
        A name in it.

    Returns
    -------
    str
        Empty where the file system has no handles (overlayfs) or a sandbox forbids to ask.
    """
    handle = _FileHandle(128)
    mount = ctypes.c_int()
    flags = 0 if name else _AT_EMPTY_PATH
    if _libc.name_to_handle_at(directory, name, ctypes.byref(handle), ctypes.byref(mount), flags) < 0:
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.EOVERFLOW):
            return ""
        raise OSError(number, os.strerror(number), name)
    return bytes(handle.data[: handle.size]).hex()


class Root:
    """An open directory, and everything beneath it.

    Parameters
    ----------
    fd : int
        The directory, opened with O_PATH; it belongs to this object from now on.
    """

    has_openat2: bool | None = None

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._users = 0
        self._closing = False
        self._lock = threading.Lock()
        if Root.has_openat2 is None:
            Root.has_openat2 = _kernel_has_openat2(fd)

    @classmethod
    def at(cls, path: Path) -> Self:
        """Open a directory."""
        return cls(os.open(path, _DIRECTORY))

    def duplicate(self) -> Self:
        """Return the same directory, to be closed by itself."""
        return type(self)(os.dup(self.fd))

    @contextmanager
    def in_use(self) -> Iterator[Self]:
        """Keep it open for the length of a ``with`` block.

        Else its number could be closed, and given to another file, under the hands of a thread.
        """
        with self._lock:
            self._users += 1
        try:
            yield self
        finally:
            with self._lock:
                self._users -= 1
                self._close_if_idle()

    def close(self) -> None:
        """Close it, as soon as nobody uses it."""
        with self._lock:
            self._closing = True
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closing and not self._users and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()

    def open(self, key: str, flags: int) -> int:
        """Open what is there under a key (the root for ``""``); EXDEV if that leads out of the root."""
        path = encode(key) or b"."
        flags |= os.O_CLOEXEC
        return (_open_by_kernel if self.has_openat2 else _open_by_walking)(self.fd, path, flags)

    @contextmanager
    def opened(self, key: str, flags: int) -> Iterator[int]:
        """Open as `open` does, for the length of a ``with`` block."""
        fd = self.open(key, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def parent(self, key: str, *, create: bool = False) -> Iterator[tuple[int, bytes]]:
        """Open the directory that holds `key`; give its number and the last name.

        Parameters
        ----------
        key : str
            A key; ``""`` means the root itself, as the name ``.`` in it.
        create : bool
            Make the directories that are missing.
        """
        prefix, _, name = key.rpartition("/")
        try:
            fd = self.open(prefix, _DIRECTORY)
        except FileNotFoundError:
            if not create:
                raise
            fd = self._make_dirs(prefix)
        try:
            yield fd, encode(name) or b"."
        finally:
            os.close(fd)

    def _make_dirs(self, prefix: str) -> int:
        names = prefix.split("/")
        above = self.open("", _DIRECTORY)
        for depth, name in enumerate(names, 1):
            path = "/".join(names[:depth])
            try:
                try:
                    below = self.open(path, _DIRECTORY)
                except FileNotFoundError:
                    with suppress(FileExistsError):  # another task made it first
                        os.mkdir(encode(name), dir_fd=above)
                    below = self.open(path, _DIRECTORY)
            finally:
                os.close(above)
            above = below
        return above
