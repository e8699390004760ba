"""What an open file or an open directory holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from zarrmount.dirstream import DirStream
    from zarrmount.inodes import Inode
    from zarrmount.objects.reader import Reader

__all__ = ["DirHandle", "FileHandle", "HandleTable"]


class FileHandle:
    """One ``open(2)`` of a file.

    Attributes
    ----------
    number : int
        The file handle number that the kernel was given.
    inode : Inode
        The file.
    append : bool
        Opened with O_APPEND: writes go to the end, wherever that is by then.
    readable, writable : bool
        From the access mode.
    reader : Reader or None
        The version that it reads, once it has read; replaced, never changed.
    opening : trio.Lock
        Held while `reader` is being opened.
    """

    __slots__ = ("_opening", "append", "inode", "number", "readable", "reader", "writable")

    def __init__(self, number: int, inode: Inode, *, readable: bool, writable: bool, append: bool) -> None:
        self.number = number
        self.inode = inode
        self.readable = readable
        self.writable = writable
        self.append = append
        self.reader: Reader | None = None
        self._opening: trio.Lock | None = None

    @property
    def opening(self) -> trio.Lock:
        """See above; made when it is first asked for."""
        if self._opening is None:
            self._opening = trio.Lock()
        return self._opening

    @property
    def is_opening(self) -> bool:
        """Whether `reader` is being opened."""
        return self._opening is not None and self._opening.locked()


class DirHandle:
    """One ``opendir(3)``: the stream of entries that it walks."""

    __slots__ = ("inode", "lock", "number", "stream")

    def __init__(self, number: int, inode: Inode) -> None:
        self.number = number
        self.inode = inode
        self.stream: DirStream | None = None
        self.lock = trio.Lock()


class HandleTable:
    """All open handles; numbers are never used again."""

    def __init__(self) -> None:
        self._files: dict[int, FileHandle] = {}
        self._dirs: dict[int, DirHandle] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._files) + len(self._dirs)

    def __iter__(self) -> Iterator[FileHandle]:
        return iter(list(self._files.values()))

    def add_file(self, inode: Inode, *, readable: bool, writable: bool, append: bool) -> FileHandle:
        """Open a file: the handle keeps the inode alive."""
        handle = FileHandle(self._number(), inode, readable=readable, writable=writable, append=append)
        self._files[handle.number] = handle
        inode.add_handle(handle)
        return handle

    def add_dir(self, inode: Inode) -> DirHandle:
        """Open a directory."""
        handle = DirHandle(self._number(), inode)
        self._dirs[handle.number] = handle
        return handle

    def file(self, number: int) -> FileHandle:
        """Return an open file's handle; KeyError if it is none."""
        return self._files[number]

    def dir(self, number: int) -> DirHandle:
        """Return an open directory's handle; KeyError if it is none."""
        return self._dirs[number]

    def remove_file(self, number: int) -> FileHandle:
        """Close a file's handle."""
        handle = self._files.pop(number)
        handle.inode.remove_handle(handle)
        return handle

    def remove_dir(self, number: int) -> DirHandle:
        """Close a directory's handle."""
        return self._dirs.pop(number)

    def check_invariants(self) -> None:
        """Assert what must hold between any two steps (used by tests)."""
        for number, handle in self._files.items():
            assert number == handle.number < self._next
            assert handle in handle.inode.handles

    def _number(self) -> int:
        number = self._next
        self._next += 1
        return number
