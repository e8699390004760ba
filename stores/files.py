"""Open files of this machine, and names in its directories that last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Self

__all__ = ["FileHandle", "make_directory", "sync_directory"]


class FileHandle:
    """A file descriptor that is closed when nobody holds the handle any more.

    Readers of a file may outlive its owner's own use of it: the owner replaces the file under them.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    @classmethod
    def open(cls, path: Path, flags: int, mode: int = 0o600) -> Self:
        """Open `path` as ``os.open`` does."""
        return cls(os.open(path, flags | os.O_CLOEXEC, mode))

    @classmethod
    def of(cls, file: BinaryIO) -> Self:
        """Share an open file."""
        return cls(os.dup(file.fileno()))

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self.fd).st_size

    def read(self, start: int, size: int) -> bytes:
        """Return ``[start, start + size)``, fewer only at the end of the file."""
        data = os.pread(self.fd, size, start)
        if len(data) == size or not data:
            return data
        parts = [data]  # Linux reads at most 2 GiB at once
        start, size = start + len(data), size - len(data)
        while size and (data := os.pread(self.fd, size, start)):
            parts.append(data)
            start, size = start + len(data), size - len(data)
        return b"".join(parts)

    def write(self, start: int, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data` at `start` and return where it ends."""
        with memoryview(data) as flat, flat.cast("B") as view:
            done = 0
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], start + done)
            return start + done


def make_directory(path: Path) -> None:
    """Make a directory (0700), and those above it, so that their names last."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory last."""
    handle = FileHandle.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(handle.fd)
