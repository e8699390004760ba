"""The inode table: what the kernel holds a number for.

1. The kernel counts its references (lookup count) and we must keep an inode
   for as long as it holds one, or it is open, dirty, or has children here.
2. A number is never used again, so that a late request cannot hit a stranger.
3. An inode does not store its key: the key follows from the chain of parents,
   so that renaming a directory of a million files is one step.
4. Everything here is synchronous: between two ``await`` of anybody the table
   is consistent (see `InodeTable.check_invariants`).
"""

from __future__ import annotations

import enum
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from stores.meta import ObjectMeta, PosixAttributes, PrefixMeta

if TYPE_CHECKING:
    from zarrmount.handles import FileHandle
    from zarrmount.objects.staging import StagedObject

__all__ = ["NO_VERSION", "ROOT_INODE", "Inode", "InodeTable", "Kind"]

ROOT_INODE = 1
NO_VERSION = ""
_NO_CHILDREN: dict[str, Inode] = {}
"""Of everything that is no directory."""
_NO_HANDLES: frozenset[FileHandle] = frozenset()


class Kind(enum.Enum):
    """The kinds of inode that the VFS tells apart."""

    FILE = enum.auto()
    DIRECTORY = enum.auto()
    SYMLINK = enum.auto()
    SPECIAL = enum.auto()

    @classmethod
    def of_mode(cls, mode: int) -> Kind:
        """Return the kind that an ``st_mode`` says."""
        if stat.S_ISREG(mode):
            return cls.FILE
        if stat.S_ISDIR(mode):
            return cls.DIRECTORY
        return cls.SYMLINK if stat.S_ISLNK(mode) else cls.SPECIAL


class Inode:
    """One file or directory that the kernel, or a handle of ours, knows.

    Attributes
    ----------
    number : int
        Its inode number.
    parent, name
        Where it hangs; `parent` is None for the root and after it was unlinked.
    lookups : int
        References that the kernel holds.
    pins : int
        Calls that are at work on it; see `InodeTable.hold`.
    children : dict
        The live inodes below a directory, by name.
    meta : ObjectMeta or None
        What the store last said of a file; None for one that was never stored.
    prefix : PrefixMeta or None
        What the store last said of a directory.
    expires : float
        Until when (``trio.current_time()``) what is known may be told without asking the store.
    staged : StagedObject or None
        Written bytes that the store does not have yet: the file is *dirty*.
    exclusive : bool
        Made with O_EXCL, and not stored yet.
    explicit_times : bool
        `mtime_ns` was set with ``utimensat(2)``, rather than by writing.
    upload_error : BaseException or None
        Why its bytes could not be stored, the last time.
    pages_version : str or None
        The version whose pages the kernel may still hold; `NO_VERSION` for pages that were written;
        None: it has none.
    kept : bool
        A directory that lives here although the store has no key below it.
    replaced : bool
        Somebody else stored another file under its name while it was being read: what is written to
        it has no place to go.
    handles : set of FileHandle
        Open handles.
    going : trio.Event or None
        Set when a removal (or a replacement by a rename) that is under way has ended.
    lock : trio.Lock
        Held while staged bytes are made, changed in size, or uploaded.
    changes : trio.Lock
        Held while entries of a directory are added or removed.
    """

    __slots__ = (
        "__weakref__",
        "_changes",
        "_lock",
        "atime_ns",
        "children",
        "ctime_ns",
        "exclusive",
        "expires",
        "explicit_times",
        "gid",
        "going",
        "handles",
        "kept",
        "kind",
        "lookups",
        "meta",
        "mode",
        "mtime_ns",
        "name",
        "number",
        "pages_version",
        "parent",
        "pins",
        "prefix",
        "replaced",
        "staged",
        "uid",
        "unlinked",
        "upload_error",
    )

    def __init__(self, number: int, parent: Inode | None, name: str, kind: Kind) -> None:
        self.number = number
        self.parent = parent
        self.name = name
        self.kind = kind
        self.lookups = 0
        self.pins = 0
        self.children: dict[str, Inode] = {} if kind is Kind.DIRECTORY else _NO_CHILDREN
        self.meta: ObjectMeta | None = None
        self.prefix: PrefixMeta | None = None
        self.expires = 0.0
        self.staged: StagedObject | None = None
        self.exclusive = False
        self.explicit_times = False
        self.kept = False
        self.unlinked = False
        self.replaced = False
        self.upload_error: BaseException | None = None
        self.handles: set[FileHandle] | frozenset[FileHandle] = _NO_HANDLES
        self.pages_version: str | None = None
        self.going: trio.Event | None = None
        self._lock: trio.Lock | None = None
        self._changes: trio.Lock | None = None
        # What the store cannot hold, or has not been told yet; None: as the store or the mount says.
        self.mode: int | None = None
        self.uid: int | None = None
        self.gid: int | None = None
        self.atime_ns: int | None = None
        self.mtime_ns: int | None = None
        self.ctime_ns: int = time.time_ns()

    @property
    def key(self) -> str:
        """The key (or prefix) in the store; empty for the root."""
        names = []
        node: Inode = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return "/".join(reversed(names))

    @property
    def depth(self) -> int:
        """How many directories are above it."""
        depth, node = 0, self
        while node.parent is not None:
            depth, node = depth + 1, node.parent
        return depth

    @property
    def lock(self) -> trio.Lock:
        """See above.  Like `changes` it is made when it is first asked for: few inodes need one."""
        if self._lock is None:
            self._lock = trio.Lock()
        return self._lock

    @property
    def changes(self) -> trio.Lock:
        """See above."""
        if self._changes is None:
            self._changes = trio.Lock()
        return self._changes

    @property
    def is_locked(self) -> bool:
        """Whether somebody holds one of its locks."""
        return any(lock is not None and lock.locked() for lock in (self._lock, self._changes))

    def add_handle(self, handle: FileHandle) -> None:
        """Take note that it is open through a handle."""
        if isinstance(self.handles, set):
            self.handles.add(handle)
        else:
            self.handles = {handle}

    def remove_handle(self, handle: FileHandle) -> None:
        """Take note that a handle was closed."""
        if isinstance(self.handles, set):
            self.handles.discard(handle)
            self.handles = self.handles or _NO_HANDLES

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.kind is Kind.DIRECTORY

    @property
    def posix(self) -> PosixAttributes | None:
        """What a store that is a file system said of it."""
        found = self.prefix if self.is_dir else self.meta
        return found.posix if found is not None else None

    @property
    def dirty(self) -> bool:
        """Whether it holds written bytes that the store has not acknowledged."""
        return self.staged is not None and self.staged.modified

    @property
    def lives_here(self) -> bool:
        """Whether it, or anything below it, exists here and (yet) not in the store."""
        return self.dirty or self.kept or any(child.lives_here for child in self.children.values())

    @property
    def is_busy(self) -> bool:
        """Whether something is being done at this moment to it, or to what is below it.

        What the store says of it then may be half of a change of our own.
        """
        return self.is_locked or any(child.is_busy for child in self.children.values())

    @property
    def size(self) -> int:
        """Bytes in the file, written ones included."""
        if self.staged is not None:
            return self.staged.size
        return self.meta.size if self.meta is not None else 0

    def is_below(self, other: Inode) -> bool:
        """Tell whether `other` is this inode or one of the directories above it."""
        node: Inode | None = self
        while node is not None:
            if node is other:
                return True
            node = node.parent
        return False

    def forget_local_attributes(self) -> None:
        """Drop what was set here only, when the store has it, or another object took the name."""
        self.mode = self.uid = self.gid = self.atime_ns = self.mtime_ns = None
        self.explicit_times = False

    def __repr__(self) -> str:
        return f"<Inode {self.number} {self.kind.name.lower()} {self.key!r}>"


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
        self._by_number: dict[int, Inode] = {ROOT_INODE: self.root}
        self._next = ROOT_INODE + 1
        self.on_drop: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._by_number.values()))

    def get(self, number: int) -> Inode:
        """Return the inode of a number; KeyError for one that the kernel cannot know."""
        return self._by_number[number]

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
            dropped = self._by_number.pop(inode.number, None)
            if dropped is not None and self.on_drop is not None:
                self.on_drop(inode.number)
            inode = parent

    def dirty(self) -> list[Inode]:
        """Return the inodes that hold bytes which the store has not acknowledged."""
        return [inode for inode in self if inode.dirty and not inode.unlinked]

    def check_invariants(self) -> None:
        """Assert what must hold between any two steps (used by tests)."""
        assert not _NO_CHILDREN
        for number, inode in self._by_number.items():
            assert number == inode.number < self._next
            assert inode.lookups >= 0
            assert inode.number == ROOT_INODE or _is_held(inode), inode
            if inode.parent is None:
                assert inode.number == ROOT_INODE or inode.unlinked
            else:
                assert inode.parent.children[inode.name] is inode
                assert self._by_number[inode.parent.number] is inode.parent
            for name, child in inode.children.items():
                assert child.name == name
                assert child.parent is inode
                assert self._by_number[child.number] is child


def _is_held(inode: Inode) -> bool:
    return bool(
        inode.lookups
        or inode.pins
        or inode.handles
        or inode.children
        or inode.kept
        or (inode.dirty and not inode.unlinked)
    )
