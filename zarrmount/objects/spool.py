"""Spool files, and contents that are files or bytes: what staging does with descriptors, in threads."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar, TypeVarTuple

import trio

from stores.meta import Body

__all__ = [
    "close_body",
    "copy_start",
    "digest_of",
    "give_name",
    "in_thread",
    "open_again",
    "read_fully",
    "save_body",
    "write_fully",
    "write_or_trim",
]

_SMALL = 64 * 1024
_STEP = 1 << 20

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


async def digest_of(body: Body) -> bytes:
    """Return what tells a content from any other."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        if len(body) <= _SMALL:
            return hashlib.sha256(body).digest()
        return await in_thread(lambda: hashlib.sha256(body).digest())
    return await in_thread(_digest_of_file, body)


def close_body(body: Body) -> None:
    """Close a content if it is a file."""
    if not isinstance(body, (bytes, bytearray, memoryview)):
        body.close()


def _digest_of_file(file: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while part := file.read(8 * _STEP):
        digest.update(part)
    file.seek(0)
    return digest.digest()


async def in_thread(function: Callable[[*Args], Result], *arguments: *Args) -> Result:
    """Call a function in a thread."""
    return await trio.to_thread.run_sync(function, *arguments)


def open_again(fd: int) -> BinaryIO:
    """Open a file once more, by its descriptor: with an offset of its own."""
    return Path(f"/proc/self/fd/{fd}").open("rb")


def read_fully(fd: int, offset: int, size: int) -> bytes:
    """Read bytes, fewer only at the end of the file."""
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def write_fully(fd: int, offset: int, data: bytes | bytearray) -> None:
    """Write all of `data`; OSError as the disk says, when some of it may be written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def write_or_trim(fd: int, offset: int, data: bytes, size: int) -> None:
    """Write all of `data`, or leave the file `size` bytes long: what did not fit is no content."""
    try:
        write_fully(fd, offset, data)
    except BaseException:
        if offset + len(data) > size:
            os.ftruncate(fd, size)
        raise


def give_name(fd: int, path: Path) -> bool:
    """Give a nameless file a name and fsync it; False where that cannot be done."""
    try:
        os.link(f"/proc/self/fd/{fd}", path, follow_symlinks=True)
    except OSError:  # another file system, or one without such files: a copy must do
        return False
    os.fsync(fd)
    return True


def copy_start(source: int, target: int, size: int) -> None:
    """Copy the first `size` bytes from one file to the start of another."""
    offset = 0
    while offset < size and (part := os.pread(source, min(_STEP, size - offset), offset)):
        write_fully(target, offset, part)
        offset += len(part)


def save_body(path: Path, body: Body) -> None:
    """Write a content to a new file of the caller's own (0600), and fsync it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        if isinstance(body, (bytes, bytearray, memoryview)):
            target.write(body)
        else:
            shutil.copyfileobj(body, target)
        target.flush()
        os.fsync(target.fileno())
