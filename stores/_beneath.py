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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "Descriptor",
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


class Descriptor:
    """An open file, closed with the last reference to it.

    Whoever uses it in a thread holds a reference, so that its number is not closed, and given to
    another file, under their hands.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Root:
    """An open directory, and everything beneath it.

    Parameters
    ----------
    path : Path
        The directory.
    """

    has_openat2: bool | None = None

    def __init__(self, path: Path) -> None:
        self._directory = Descriptor(os.open(path, _DIRECTORY))
        if Root.has_openat2 is None:
            Root.has_openat2 = _kernel_has_openat2(self.fd)

    @property
    def fd(self) -> int:
        """The number of the open directory (O_PATH), for as long as this object lives."""
        return self._directory.fd

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
