"""Names resolved beneath one directory, and never out of it.

A path that was checked and then opened can lead elsewhere when a directory on
its way is exchanged for a symbolic link in between.  So nothing here takes a
path twice: a key is opened in one ``openat2(2)`` that the kernel keeps beneath
the root, or (kernels before 5.6, some sandboxes) by a walk that opens one name
after the other without following links, and reads links itself.  What is then
done to the last name is done relative to the directory that was opened.

What the kernel has in memory is told in microseconds, a thousandth of what a disk may take; asking a
thread for it costs a hundred times the answer.  So `Root.cached` opens and reads only what needs no
waiting, on the thread that asks, and says so where a thread is needed after all.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Self

__all__ = [
    "MOST_AT_ONCE",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "CachedRoot",
    "Root",
    "encode",
    "is_on_this_machine",
    "read_exactly",
    "read_from_memory",
    "rename_at",
    "sync_file_system",
]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_SYS_OPENAT2 = 437  # on all architectures
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "ppc64le": 357, "s390x": 347}
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_RESOLVE_CACHED = 0x20
_AT_EMPTY_PATH = 0x1000
MOST_AT_ONCE = 1 << 20
_MAX_LINKS = 40  # as the kernel's own MAXSYMLINKS
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_ON_THIS_MACHINE = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0xF2F52010,  # f2fs
        0xCA451A4E,  # bcachefs
        0x2FC12FC1,  # zfs
        0x794C7630,  # overlayfs
        0x01021994,  # tmpfs
        0x858458F6,  # ramfs
    }
)
"""Types of file systems (``f_type`` of ``statfs(2)``) that never ask a network or another process."""
_MEMORY = frozenset({0x01021994, 0x858458F6})
"""Those whose bytes are in memory always, and which know no RWF_NOWAIT for that reason."""

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@lru_cache(maxsize=64)
def _open_how(flags: int, resolve: int) -> tuple[int, _OpenHow]:
    """Return the address of an ``open_how``, and itself, which must live as long as that is used."""
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | resolve)
    return ctypes.addressof(how), how


_OPEN_HOW_SIZE = ctypes.sizeof(_OpenHow)


def encode(text: str) -> bytes:
    """Return the bytes of a name or path, whatever the locale."""
    return text.encode("utf-8", "surrogateescape")


def _check(result: int, path: bytes) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _openat2(root: int, path: bytes, flags: int, resolve: int = 0) -> int:
    address, _how = _open_how(flags, resolve)
    return _check(_syscall(_SYS_OPENAT2, root, path, address, _OPEN_HOW_SIZE), path)


def _open_by_kernel(root: int, path: bytes, flags: int) -> int:
    while True:
        with suppress(BlockingIOError):  # something was renamed during the walk: the kernel asks to repeat
            return _openat2(root, path, flags)


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
            link = (
                _link_text(there) if todo or not flags & os.O_NOFOLLOW else None
            )  # reading one sets its atime
            if link is not None:
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


def _kernel_opens_from_memory(root: int) -> bool:
    """Tell whether the kernel knows RESOLVE_CACHED (5.12)."""
    try:
        os.close(_openat2(root, b".", _DIRECTORY, _RESOLVE_CACHED))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


class _FileSystem(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_ulong), ("rest", ctypes.c_ubyte * 248))


def _file_system(fd: int) -> int:
    found = _FileSystem()
    _check(_libc.fstatfs(ctypes.c_int(fd), ctypes.byref(found)), b"")
    return int(found.kind) & 0xFFFFFFFF


def is_on_this_machine(fd: int) -> bool:
    """Tell whether a file lies on a disk (or in the memory) of this machine, and not on a network."""
    return _file_system(fd) in _ON_THIS_MACHINE


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
    _check(_libc["syscall"](ctypes.c_long(number), *arguments), source)  # another signature than _syscall


def sync_file_system(fd: int) -> None:
    """Call ``syncfs(2)``: write out the whole file system that `fd` lies on."""
    _check(_libc.syncfs(ctypes.c_int(fd)), b"")


class _FileHandle(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_char * 128))


_HANDLE_DATA = _FileHandle.data.offset
_MOST_HANDLE_DATA = _FileHandle.data.size
_name_to_handle_at = _libc.name_to_handle_at
_name_to_handle_at.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int,
)


class _Scratch(threading.local):
    """What calls write their answers to; each thread has its own."""

    def __init__(self) -> None:
        self.handle = _FileHandle()
        self.handle_address = ctypes.addressof(self.handle)
        self.handle_bytes = memoryview(self.handle).cast("B")
        self.mount = ctypes.c_int()
        self.mount_address = ctypes.addressof(self.mount)


_scratch = _Scratch()
_buffers = threading.local()


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
    scratch = _scratch
    handle = scratch.handle
    handle.size = _MOST_HANDLE_DATA
    flags = 0 if name else _AT_EMPTY_PATH
    if _name_to_handle_at(directory, name, scratch.handle_address, scratch.mount_address, flags) < 0:
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.EOVERFLOW):
            return ""
        raise OSError(number, os.strerror(number), name)
    return scratch.handle_bytes[_HANDLE_DATA : _HANDLE_DATA + handle.size].hex()


def read_exactly(fd: int, start: int, size: int) -> bytes:
    """Return ``[start, start + size)`` of a file, fewer bytes only at its end."""
    size = min(size, max(0, os.fstat(fd).st_size - start))
    parts: list[bytes] = []
    while size > 0:
        part = os.pread(fd, size, start)
        if not part:
            break
        if len(part) == size and not parts:
            return part
        parts.append(part)
        start += len(part)
        size -= len(part)
    return b"".join(parts)


def read_from_memory(fd: int, start: int, size: int, *, always_there: bool = False) -> bytes | None:
    """Return the same, at most `MOST_AT_ONCE` bytes, if the kernel has all of it in memory, else None.

    Parameters
    ----------
    always_there : bool
        Whether the file system has all of its bytes in memory, always.

    Raises
    ------
    OSError
        EOPNOTSUPP where the file system cannot tell.
    """
    buffer: memoryview | None = getattr(_buffers, "buffer", None)
    if buffer is None:
        buffer = _buffers.buffer = memoryview(bytearray(MOST_AT_ONCE))
    try:
        count = os.preadv(fd, [buffer[:size]], start, 0 if always_there else os.RWF_NOWAIT)
    except BlockingIOError:
        return None
    if count < size and start + count < os.fstat(fd).st_size:
        return None
    return bytes(buffer[:count])


class CachedRoot:
    """What of a directory the kernel can tell at once, having it in memory.

    Everything raises BlockingIOError where that is not so, or where the way leads to another file
    system, which may be one on a network: a thread then has to ask the `Root` itself.

    Parameters
    ----------
    fd : int
        The directory, opened with O_PATH; it belongs to the `Root`.

    Attributes
    ----------
    is_memory : bool
        Whether the file system has all of its bytes in memory, always.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.is_memory = _file_system(fd) in _MEMORY

    def open(self, key: str, flags: int) -> int:
        """Open what is there under a key, as `Root.open` does."""
        resolve = _RESOLVE_CACHED | _RESOLVE_NO_XDEV
        try:
            return _openat2(self.fd, encode(key) or b".", flags | os.O_CLOEXEC, resolve)
        except OSError as error:
            if error.errno == errno.EXDEV:  # a mount on the way, or out of the root: `Root` tells
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            raise

    def read(self, fd: int, start: int, size: int) -> bytes:
        """Return ``[start, start + size)`` of an open file, fewer bytes only at its end."""
        try:
            few = size <= MOST_AT_ONCE
            data = read_from_memory(fd, start, size, always_there=self.is_memory) if few else None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            data = None
        if data is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return data


class Root:
    """An open directory, and everything beneath it.

    Parameters
    ----------
    fd : int
        The directory, opened with O_PATH; it belongs to this object from now on.

    Attributes
    ----------
    cached : CachedRoot or None
        For what can be told without waiting; None where the kernel or the file system cannot say.
    """

    has_openat2: bool | None = None
    opens_from_memory: bool | None = None

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._users = 0
        self._closing = False
        self._lock = threading.Lock()
        if Root.has_openat2 is None:
            Root.has_openat2 = _kernel_has_openat2(fd)
        if Root.opens_from_memory is None:
            Root.opens_from_memory = Root.has_openat2 and _kernel_opens_from_memory(fd)
        near = self.has_openat2 and self.opens_from_memory and is_on_this_machine(fd)
        self.cached = CachedRoot(fd) if near else None

    @classmethod
    def at(cls, path: Path) -> Self:
        """Open a directory."""
        return cls(os.open(path, _DIRECTORY))

    def duplicate(self) -> Self:
        """Return the same directory, to be closed by itself."""
        return type(self)(os.dup(self.fd))

    def __enter__(self) -> Self:
        """Keep it open for the length of a ``with`` block.

        Else its number could be closed, and given to another file, under the hands of a thread.
        """
        with self._lock:
            self._users += 1
        return self

    def __exit__(self, *exception: object) -> None:
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

    def read(self, fd: int, start: int, size: int) -> bytes:
        """Return ``[start, start + size)`` of an open file, fewer bytes only at its end."""
        return read_exactly(fd, start, size)

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
