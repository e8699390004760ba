"""One file or directory that is known here.

1. An inode does not store its key: the key follows from the chain of parents,
   so that renaming a directory of a million files is one step.
2. There may be a million: what few of them have takes no room in the others,
   and what the store said of those that nobody uses can be packed.
"""

from __future__ import annotations

import enum
import stat
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import trio

from stores.meta import ObjectMeta, PosixAttributes, PrefixMeta
from zarrmount.packed import pack, unpack

if TYPE_CHECKING:
    from zarrmount.handles import FileHandle
    from zarrmount.objects.staging import StagedObject

__all__ = ["NO_CHILDREN", "NO_VERSION", "Inode", "Kind"]

NO_VERSION = ""
NO_CHILDREN: dict[str, Inode] = {}
"""Of everything that is no directory."""
_NO_HANDLES: frozenset[FileHandle] = frozenset()

Value = TypeVar("Value")


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


class _Rare(Generic[Value]):
    """An attribute of which most inodes have the usual value."""

    def __init__(self, usual: Value) -> None:
        self._usual = usual

    def __set_name__(self, owner: type[Inode], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, inode: None, owner: type[Inode]) -> _Rare[Value]: ...
    @overload
    def __get__(self, inode: Inode, owner: type[Inode]) -> Value: ...
    def __get__(self, inode: Inode | None, owner: type[Inode]) -> Value | _Rare[Value]:
        if inode is None:
            return self
        rare = inode._rare
        value: Value = self._usual if rare is None else rare.get(self._name, self._usual)
        return value

    def __set__(self, inode: Inode, value: Value) -> None:
        rare = inode._rare
        if value is not self._usual:
            if rare is None:
                rare = inode._rare = {}
            rare[self._name] = value
        elif rare is not None:
            rare.pop(self._name, None)
            if not rare:
                inode._rare = None


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
        "_found",
        "_rare",
        "children",
        "expires",
        "handles",
        "kind",
        "lookups",
        "name",
        "number",
        "pages_version",
        "parent",
        "pins",
        "staged",
        "unlinked",
    )

    kept = _Rare[bool](usual=False)
    exclusive = _Rare[bool](usual=False)
    explicit_times = _Rare[bool](usual=False)
    replaced = _Rare[bool](usual=False)
    upload_error = _Rare[BaseException | None](None)
    going = _Rare[trio.Event | None](None)
    _lock = _Rare[trio.Lock | None](None)
    _changes = _Rare[trio.Lock | None](None)
    # What the store cannot hold, or has not been told yet; None: as the store or the mount says.
    mode = _Rare[int | None](None)
    uid = _Rare[int | None](None)
    gid = _Rare[int | None](None)
    atime_ns = _Rare[int | None](None)
    mtime_ns = _Rare[int | None](None)
    ctime_ns = _Rare[int | None](None)

    def __init__(self, number: int, parent: Inode | None, name: str, kind: Kind) -> None:
        self.number = number
        self.parent = parent
        self.name = name
        self.kind = kind
        self.lookups = 0
        self.pins = 0
        self.children: dict[str, Inode] = {} if kind is Kind.DIRECTORY else NO_CHILDREN
        self.expires = 0.0
        self.staged: StagedObject | None = None
        self.unlinked = False
        self.handles: set[FileHandle] | frozenset[FileHandle] = _NO_HANDLES
        self.pages_version: str | None = None
        self._found: ObjectMeta | PrefixMeta | bytes | None = None
        self._rare: dict[str, Any] | None = None

    @property
    def meta(self) -> ObjectMeta | None:
        """See above."""
        found = self._found
        if isinstance(found, bytes):
            return unpack(found, self.key)
        return found if isinstance(found, ObjectMeta) else None

    @meta.setter
    def meta(self, meta: ObjectMeta | None) -> None:
        self._found = meta

    @property
    def prefix(self) -> PrefixMeta | None:
        """See above."""
        return self._found if isinstance(self._found, PrefixMeta) else None

    @prefix.setter
    def prefix(self, prefix: PrefixMeta | None) -> None:
        self._found = prefix

    def pack(self) -> None:
        """Let what the store said of a file take less room, and more time to look at."""
        if isinstance(self._found, ObjectMeta) and self._found.key == self.key:
            self._found = pack(self._found)

    def unpack(self) -> None:
        """Undo that, also because its key is going to change."""
        self._found = self.meta or self.prefix

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
            self.unpack()
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
