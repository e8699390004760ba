"""What is asked of a store's files: what they are, and their bytes.

What takes a `CachedRoot`, too, can be answered on the thread that asks; everything else blocks.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio.lowlevel
import anyio.to_thread

from stores.base import ObjectReader
from stores.errors import Denied, NotFound, Precondition, Unavailable
from stores.local import files
from stores.local.beneath import (
    MOST_AT_ONCE,
    CachedRoot,
    Root,
    is_on_this_machine,
    read_exactly,
    read_from_memory,
)
from stores.meta import Lookup, ObjectMeta, PrefixMeta, Usage

__all__ = [
    "READ",
    "get",
    "get_range",
    "lookup",
    "open_reader",
    "opened_file",
    "read_link",
    "root_meta",
    "usage",
]

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # never waits for the writer of a FIFO

_LONGEST_SPIN = 200e-6
"""Seconds to look again whether the disk has answered: what it takes to wake a thread and be woken."""


def lookup(root: Root | CachedRoot, path: str) -> Lookup:
    """Tell what stands under a path."""
    fd = root.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        found = files.look_into(fd)
    finally:
        os.close(fd)
    if found.is_directory:
        return Lookup(prefix=files.prefix_meta(path, found.stat))
    return Lookup(object=files.object_meta(path, found))


def root_meta(root: Root | CachedRoot, path: str) -> PrefixMeta:
    """Return the meta of the root itself."""
    return files.prefix_meta(path, os.fstat(root.fd))


def usage(root: Root, path: str) -> Usage:  # noqa: ARG001 - called as the others
    """Tell the room in the file system that the root lies on."""
    room = os.fstatvfs(root.fd)
    return Usage(
        total_bytes=room.f_blocks * room.f_frsize,
        free_bytes=room.f_bfree * room.f_frsize,
        available_bytes=room.f_bavail * room.f_frsize,
        total_files=room.f_files,
        free_files=room.f_ffree,
    )


def read_link(root: Root, key: str) -> str:
    """Return the text that a symbolic link holds."""
    with root.parent(key) as (directory, name):
        return os.readlink(name, dir_fd=directory).decode("utf-8", "surrogateescape")


@contextmanager
def opened_file(
    root: Root | CachedRoot, key: str, if_version: str | None
) -> Iterator[tuple[int, files.File]]:
    """Open a file for reading, for the length of a ``with`` block; give its number and what it is."""
    fd, found = _open_file(root, key, if_version)
    try:
        yield fd, found
    finally:
        os.close(fd)


def get(root: Root | CachedRoot, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
    """Return a whole file and its meta."""
    for _ in range(10):
        with opened_file(root, key, if_version) as (fd, found):
            data = root.read(fd, 0, found.stat.st_size)
            if len(data) == found.stat.st_size and not files.changed(found.stat, os.fstat(fd)):
                return data, files.object_meta(key, found)
    raise Unavailable("another program is writing to it", key=key)


def get_range(root: Root | CachedRoot, key: str, start: int, stop: int, if_version: str | None) -> bytes:
    """Return the bytes ``[start, stop)`` of a file, fewer only at its end."""
    with opened_file(root, key, if_version) as (fd, _):
        data = root.read(fd, start, stop - start)
        files.check_version(key, files.look_into(fd), if_version)
        return data


def _open_file(root: Root | CachedRoot, key: str, if_version: str | None) -> tuple[int, files.File]:
    fd = root.open(key, READ)
    try:
        return fd, _check_file(key, files.look_into(fd), if_version)
    except BaseException:
        os.close(fd)
        raise


def _check_file(key: str, found: files.File, if_version: str | None) -> files.File:
    if found.is_directory:
        raise NotFound("it is a directory", key=key, os_errno=errno.EISDIR)
    if not stat.S_ISREG(found.stat.st_mode):
        raise Denied("a FIFO, socket or device is not read", key=key, os_errno=errno.ENXIO)
    files.check_version(key, found, if_version)
    return found


def open_reader(root: Root | CachedRoot, key: str, if_version: str | None) -> ObjectReader:
    """Open one version of a file for many reads."""
    fd, found = _open_file(root, key, if_version)
    if isinstance(root, CachedRoot):
        return _FileReader(fd, found, key, on_this_machine=True, always_in_memory=root.is_memory)
    return _FileReader(fd, found, key, on_this_machine=is_on_this_machine(fd), always_in_memory=False)


class _FileReader(ObjectReader):
    """Reads one open file, which a put or a delete of its key does not touch."""

    def __init__(
        self, fd: int, found: files.File, key: str, *, on_this_machine: bool, always_in_memory: bool
    ) -> None:
        self.meta = files.object_meta(key, found)
        self._fd = fd
        self._may_be_in_memory = on_this_machine
        self._always_in_memory = always_in_memory
        self._opened = found.stat
        self._reading = 0
        self._closed = False

    async def read(self, start: int, size: int) -> bytes:
        if self._closed:
            raise ValueError("the reader is closed")
        self._reading += 1
        try:
            data = await self._read_soon(start, size) if self._may_be_in_memory else None
            return data if data is not None else await anyio.to_thread.run_sync(self._read, start, size)
        finally:
            self._reading -= 1
            self._close_if_idle()

    def read_now(self, start: int, size: int) -> bytes | None:
        if self._closed:
            raise ValueError("the reader is closed")
        if not self._may_be_in_memory or size > MOST_AT_ONCE:
            return None
        return self._read_from_memory(start, size)

    async def _read_soon(self, start: int, size: int) -> bytes | None:
        """Return the bytes if the kernel has them, or gets them from the disk in no time, else None."""
        if size > MOST_AT_ONCE:
            return None
        given_up = time.perf_counter() + _LONGEST_SPIN
        while (data := self._read_from_memory(start, size)) is None:
            if time.perf_counter() > given_up or not self._may_be_in_memory:
                return None
            await anyio.lowlevel.checkpoint()  # having looked for them, the kernel has asked the disk
        return data

    def _read(self, start: int, size: int) -> bytes:
        with files.translated(self.meta.key):
            data = read_exactly(self._fd, start, size)
            self._check_unchanged()
            return data

    def _read_from_memory(self, start: int, size: int) -> bytes | None:
        try:
            data = read_from_memory(self._fd, start, size, always_there=self._always_in_memory)
            if data is not None:
                self._check_unchanged()
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise files.store_error(error, self.meta.key) from error
            self._may_be_in_memory = False  # the file system cannot tell: do not ask again
            return None
        return data

    def _check_unchanged(self) -> None:
        if files.changed(self._opened, os.fstat(self._fd)):
            raise Precondition("it was written to since it was opened", key=self.meta.key)

    async def aclose(self) -> None:
        self._closed = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closed and not self._reading and self._fd >= 0:  # else the last read closes it
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
