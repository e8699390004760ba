"""The inode table: what the kernel holds a number for.

1. The kernel counts its references (lookup count) and we must keep an inode
   for as long as it holds one, or it is open, dirty, or has children here.
2. A number is never used again, so that a late request cannot hit a stranger.
3. Everything here is synchronous: between two ``await`` of anybody the table
   is consistent (see `InodeTable.check_invariants`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zarrmount.inodes import NO_CHILDREN, Inode, Kind

__all__ = ["ROOT_INODE", "InodeTable"]

ROOT_INODE = 1
_PAGE = 64
_LARGE = 20_000


class _Numbers:
    """The inodes by number: of numbers that are used once, and mostly given out in a row."""

    def __init__(self) -> None:
        self._pages: dict[int, list[Inode | None]] = {}
        self._used: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Inode]:
        for page in self._pages.values():
            yield from (inode for inode in page if inode is not None)

    def get(self, number: int) -> Inode | None:
        page = self._pages.get(number // _PAGE)
        return None if page is None else page[number % _PAGE]

    def __setitem__(self, number: int, inode: Inode) -> None:
        at = number // _PAGE
        page = self._pages.get(at)
        if page is None:
            page = self._pages[at] = [None] * _PAGE
            self._used[at] = 0
        page[number % _PAGE] = inode
        self._used[at] += 1
        self._count += 1

    def pop(self, number: int) -> Inode | None:
        inode = self.get(number)
        if inode is not None:
            at = number // _PAGE
            self._pages[at][number % _PAGE] = None
            self._used[at] -= 1
            self._count -= 1
            if not self._used[at]:
                del self._pages[at], self._used[at]
        return inode


class InodeTable:
    """All live inodes, by number and by name.

    Attributes
    ----------
    on_drop : callable or None
        Called with the number of each inode that is dropped.
    """

    def __init__(self) -> None:
        self.root = Inode(ROOT_INODE, None, "", Kind.DIRECTORY)
        self.root.kept = True
        self._by_number = _Numbers()
        self._by_number[ROOT_INODE] = self.root
        self._next = ROOT_INODE + 1
        self.on_drop: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._by_number))

    @property
    def is_large(self) -> bool:
        """Whether there are so many that what is known of those that nobody uses is better packed."""
        return len(self._by_number) > _LARGE

    def find(self, number: int) -> Inode | None:
        """Return the inode of a number, or None when it is gone."""
        return self._by_number.get(number)

    def add(self, parent: Inode, name: str, kind: Kind) -> Inode:
        """Make the inode of a name, in place of what had the name until now."""
        assert parent.is_dir
        old = parent.children.get(name)
        if old is not None:
            self.detach(old)
        inode = Inode(self._next, parent, name, kind)
        self._next += 1
        self._by_number[inode.number] = inode
        parent.children[name] = inode
        return inode

    def plant(self, key: str) -> Inode:
        """Make the inode of a file, and those of the directories above it that have none yet."""
        *above, name = key.split("/")
        directory = self.root
        for part in above:
            below = directory.children.get(part)
            directory = (
                below if below is not None and below.is_dir else self.add(directory, part, Kind.DIRECTORY)
            )
        return self.add(directory, name, Kind.FILE)

    def detach(self, inode: Inode) -> None:
        """Take an inode off its name; it lives on for whoever holds it.  What is below goes with it."""
        parent = inode.parent
        inode.unpack()
        for child in list(inode.children.values()):
            self.detach(child)
        if parent is not None and parent.children.get(inode.name) is inode:
            del parent.children[inode.name]
        inode.unlinked = True
        inode.kept = False
        inode.parent = None
        self.collect(inode)
        if parent is not None:
            self.collect(parent)

    def move(self, inode: Inode, parent: Inode, name: str) -> None:
        """Hang an inode elsewhere, in place of what had the name until now."""
        old = parent.children.get(name)
        if old is inode:
            return
        if old is not None:
            self.detach(old)
        inode.unpack()
        before = inode.parent
        if before is not None:
            del before.children[inode.name]
        inode.parent = parent
        inode.name = name
        parent.children[name] = inode
        if before is not None:
            self.collect(before)

    def exchange(self, one: Inode, other: Inode) -> None:
        """Let two inodes change places."""
        assert one.parent is not None
        assert other.parent is not None
        one.unpack()
        other.unpack()
        one.parent, other.parent = other.parent, one.parent
        one.name, other.name = other.name, one.name
        one.parent.children[one.name] = one
        other.parent.children[other.name] = other

    def forget(self, inode: Inode, count: int) -> None:
        """Take back `count` references of the kernel's."""
        if count > inode.lookups:
            raise ValueError(f"{inode!r}: {count} references taken back of {inode.lookups}")
        inode.lookups -= count
        self.collect(inode)

    @contextmanager
    def hold(self, inode: Inode) -> Iterator[Inode]:
        """Keep an inode for the time of a call, whoever forgets it meanwhile."""
        inode.pins += 1
        try:
            yield inode
        finally:
            inode.pins -= 1
            self.collect(inode)

    def collect(self, inode: Inode | None) -> None:
        """Drop an inode that nothing holds, and then the directories above that held only it."""
        while inode is not None and inode.number != ROOT_INODE and not _is_held(inode):
            parent = inode.parent
            if parent is not None and parent.children.get(inode.name) is inode:
                del parent.children[inode.name]
            if inode.staged is not None:
                inode.staged.close()
                inode.staged = None
            inode.parent = None
            dropped = self._by_number.pop(inode.number)
            if dropped is not None and self.on_drop is not None:
                self.on_drop(inode.number)
            inode = parent

    def dirty(self) -> list[Inode]:
        """Return the inodes that hold bytes which the store has not acknowledged."""
        return [inode for inode in self if inode.dirty and not inode.unlinked]

    def check_invariants(self) -> None:
        """Assert what must hold between any two steps (used by tests)."""
        assert not NO_CHILDREN
        for inode in self._by_number:
            assert inode is self._by_number.get(inode.number)
            assert inode.number < self._next
            assert inode.lookups >= 0
            assert inode.number == ROOT_INODE or _is_held(inode), inode
            if inode.parent is None:
                assert inode.number == ROOT_INODE or inode.unlinked
            else:
                assert inode.parent.children[inode.name] is inode
                assert self._by_number.get(inode.parent.number) is inode.parent
            for name, child in inode.children.items():
                assert child.name == name
                assert child.parent is inode
                assert self._by_number.get(child.number) is child


def _is_held(inode: Inode) -> bool:
    return bool(
        inode.lookups
        or inode.pins
        or inode.handles
        or inode.children
        or inode.kept
        or (inode.dirty and not inode.unlinked)
    )
