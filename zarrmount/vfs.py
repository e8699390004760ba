"""The file system itself: each system call, on inodes and handles, without any kernel.

`Vfs` is complete and can be used, and is tested, without FUSE.  Inode and
handle numbers are those that the kernel was given.  Methods raise ``OSError``
or a :class:`stores.errors.StoreError`; :func:`zarrmount.errors.errno_of` makes
an errno of either.

Lookup counts: `lookup`, `make_*`, `create`, `symlink` and `link` return an
inode with one more reference of the kernel's, and `remember` adds one for an
entry that ``readdirplus`` gave out; `forget` takes them back.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Collection
from pathlib import Path

import trio

from stores.base import Store
from stores.errors import InvalidKey, NotFound, ReadOnly, StoreError, Unavailable
from stores.keys import MAX_NAME_BYTES, join, unusable_name
from stores.meta import AttributeChange, Usage
from zarrmount.attribute_changes import AttributeChanges
from zarrmount.attributes import Attributes, attributes_of
from zarrmount.background import Background
from zarrmount.cache.disk import DiskCache
from zarrmount.cache.memory import BlockCache
from zarrmount.context import Context
from zarrmount.directories import Directories
from zarrmount.errors import deadline, os_error
from zarrmount.files import Files
from zarrmount.handles import FileHandle, HandleTable
from zarrmount.inode_table import InodeTable
from zarrmount.inodes import NO_VERSION, Inode, Kind
from zarrmount.locks import SharedLock
from zarrmount.lookups import Lookups
from zarrmount.namespace import Namespace
from zarrmount.objects.journal import Journal
from zarrmount.objects.reader import ReaderPool
from zarrmount.objects.staging import Staging
from zarrmount.renaming import Renaming
from zarrmount.settings import TreeSettings
from zarrmount.storing import Storing
from zarrmount.tree import Tree
from zarrmount.xattrs import XAttrs

__all__ = ["Vfs"]

log = logging.getLogger(__name__)

_LARGEST_PUSHED = 256 << 10


class Vfs:
    """One mounted store.

    Parameters
    ----------
    store : Store
        An open store.
    settings : TreeSettings
        How the tree looks and behaves.
    staging_dir : Path
        For written bytes that memory has no room for.
    cache_bytes : int
        Size of the memory cache of blocks.
    staging_bytes : int
        Written bytes that memory may hold.
    max_dirty : int
        Written bytes that may wait to be stored, in memory and in `staging_dir` together.
    journal : Journal or None
        Where closed files are kept that wait; needed for write-back, and for `resume`.
    disk : DiskCache or None
        Where what was read is kept beyond the end of the mount.
    """

    def __init__(
        self,
        store: Store,
        settings: TreeSettings,
        *,
        staging_dir: Path,
        cache_bytes: int = 128 << 20,
        staging_bytes: int = 64 << 20,
        max_dirty: int = 16 << 30,
        journal: Journal | None = None,
        disk: DiskCache | None = None,
    ) -> None:
        table = InodeTable()
        background = Background()
        readers = ReaderPool(
            BlockCache(cache_bytes),
            settings.read_timeout,
            direct=store.near,
            background=background,
            disk=disk,
        )
        lookups = Lookups(store, readers, settings.metadata_ttl)
        self._c = Context(
            store=store,
            settings=settings,
            table=table,
            handles=HandleTable(),
            namespace=Namespace(store, table, settings, lookups),
            staging=Staging(staging_dir, staging_bytes, max_dirty, settings.write_timeout),
            readers=readers,
            lookups=lookups,
            background=background,
            shape=SharedLock(),
        )
        self.storing = Storing(self._c, journal)
        self.files = Files(self._c, self.storing)
        self.directories = Directories(self._c)
        self.tree = Tree(self._c, self.files, self.storing)
        self.changes = AttributeChanges(self._c, self.storing)
        self.renaming = Renaming(self._c, self.files, self.storing)
        self.xattrs = XAttrs(store, settings)
        self.started_ns = time.time_ns()

    # -- inodes --------------------------------------------------------------------------------

    @property
    def store(self) -> Store:
        """The store that is mounted."""
        return self._c.store

    @property
    def metadata_ttl(self) -> float:
        """Seconds for which an answer of the store holds."""
        return self._c.settings.metadata_ttl

    def inode(self, number: int) -> Inode:
        """Return an inode that the kernel knows.

        Raises
        ------
        OSError
            ESTALE if it does not exist (any more).
        """
        inode = self._c.table.find(number)
        if inode is None:
            raise os_error(errno.ESTALE)
        return inode

    def directory(self, number: int) -> Inode:
        """Return an inode that must be a directory (ENOTDIR)."""
        inode = self.inode(number)
        if not inode.is_dir:
            raise os_error(errno.ENOTDIR)
        return inode

    def attributes(self, inode: Inode) -> Attributes:
        """Return what ``stat(2)`` shows of an inode, as far as it is known now."""
        return attributes_of(inode, self._c.settings, self.started_ns)

    def validity(self, inode: Inode) -> float:
        """Return for how many seconds the kernel may tell an inode's attributes without asking."""
        if inode.dirty or inode.kept:
            return self._c.settings.metadata_ttl
        return max(0.0, inode.expires - trio.current_time())

    def absence(self, parent: int, name: str) -> float:
        """Return for how many seconds the kernel may tell that a name is not there."""
        directory = self._c.table.find(parent)
        return self._c.namespace.absent_for(directory, name) if directory is not None else 0.0

    def remember(self, inode: Inode) -> Inode:
        """Count one more reference that the kernel holds."""
        inode.lookups += 1
        return inode

    def forget(self, references: list[tuple[int, int]]) -> None:
        """Take back references of the kernel's, given as pairs of inode number and count."""
        for number, count in references:
            inode = self._c.table.find(number)
            if inode is not None:
                self._c.table.forget(inode, count)

    async def lookup(self, parent: int, name: str) -> Inode:
        """Return the inode of a name.

        Raises
        ------
        NotFound
            If there is no such name.
        """
        directory = self.directory(parent)
        if name in (".", ".."):
            inode = directory if name == "." else directory.parent or directory
            return self.remember(inode)
        if unusable_name(name) is not None:
            if len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
                raise os_error(errno.ENAMETOOLONG)
            raise NotFound("no key has such a name", key=join(directory.key, repr(name)))
        try:
            return self.remember(await self._c.namespace.child(directory, name))
        except InvalidKey as error:
            if error.os_errno:
                raise
            raise NotFound("the store can have no such name", key=error.key) from error

    async def getattr(self, number: int) -> Inode:
        """Return an inode whose attributes are not older than the time to live."""
        inode = self.inode(number)
        await self._c.namespace.refresh(inode)
        return inode

    async def setattr(self, number: int, change: AttributeChange, size: int | None = None) -> Inode:
        """Change attributes; what the store cannot hold is kept as long as the mount lives."""
        inode = self.inode(number)
        if self._c.store.read_only:
            raise ReadOnly("the store is read-only", key=inode.key)
        if size is not None:
            if inode.is_dir:
                raise os_error(errno.EISDIR)
            await self.files.truncate(inode, size)
        if change != AttributeChange():
            await self.changes.apply(inode, change)
        return inode

    async def readlink(self, number: int) -> str:
        """Return the text of a symbolic link."""
        inode = self.inode(number)
        if inode.kind is not Kind.SYMLINK:
            raise os_error(errno.EINVAL)
        with deadline(self._c.settings.read_timeout, inode.key):
            return await self._c.store.read_link(inode.key)

    # -- names ---------------------------------------------------------------------------------

    async def make_node(self, parent: int, name: str, mode: int, rdev: int, owner: tuple[int, int]) -> Inode:
        """``mknod(2)``."""
        return self.remember(await self.tree.make_node(self.directory(parent), name, mode, rdev, owner))

    async def make_dir(self, parent: int, name: str, mode: int, owner: tuple[int, int]) -> Inode:
        """``mkdir(2)``."""
        return self.remember(await self.tree.make_dir(self.directory(parent), name, mode, owner))

    async def symlink(self, parent: int, name: str, target: str, owner: tuple[int, int]) -> Inode:
        """``symlink(2)``."""
        return self.remember(await self.tree.symlink(self.directory(parent), name, target, owner))

    async def link(self, number: int, parent: int, name: str) -> Inode:
        """``link(2)``."""
        return self.remember(await self.tree.link(self.inode(number), self.directory(parent), name))

    async def unlink(self, parent: int, name: str) -> None:
        """``unlink(2)``."""
        await self.tree.unlink(self.directory(parent), name)

    async def remove_dir(self, parent: int, name: str) -> None:
        """``rmdir(2)``."""
        await self.tree.remove_dir(self.directory(parent), name)

    async def rename(
        self, old_parent: int, old_name: str, new_parent: int, new_name: str, flags: int = 0
    ) -> None:
        """``renameat2(2)``."""
        await self.renaming.rename(
            self.directory(old_parent), old_name, self.directory(new_parent), new_name, flags
        )

    # -- files ---------------------------------------------------------------------------------

    async def create(
        self, parent: int, name: str, mode: int, flags: int, owner: tuple[int, int]
    ) -> tuple[Inode, FileHandle]:
        """``open(2)`` of a name that is not there."""
        inode = await self.tree.make_file(self.directory(parent), name, mode, owner)
        return self.remember(inode), self.files.open_new(inode, flags)

    async def open(self, number: int, flags: int) -> FileHandle:
        """``open(2)`` of a file that is there."""
        return await self.files.open(self.inode(number), flags)

    def handle(self, number: int) -> FileHandle:
        """Return an open file's handle (EBADF)."""
        try:
            return self._c.handles.file(number)
        except KeyError:
            raise os_error(errno.EBADF) from None

    def keeps_pages(self, inode: Inode) -> bool:
        """Tell whether the kernel may keep the pages it has of a file that is being opened."""
        version = inode.meta.version if inode.meta is not None and inode.staged is None else None
        same = version is not None and version == inode.pages_version
        inode.pages_version = version or NO_VERSION
        return same

    def pages_to_push(self, handle: FileHandle) -> bytes | None:
        """Return all bytes of a small file of which the kernel has no page yet, if they are at hand."""
        inode = handle.inode
        if inode.pages_version is not None or handle.writable or len(inode.handles) > 1:
            return None
        if inode.staged is not None or not 0 < inode.size <= _LARGEST_PUSHED:
            return None
        try:
            return self.files.read_now(handle, 0, inode.size)
        except StoreError:
            return None  # whoever reads it is told

    # -- the background ------------------------------------------------------------------------

    def resume(self, keys: Collection[str] | None = None) -> None:
        """Take up what an earlier mount left in the journal, as dirty files; call it before `run`.

        With `keys`, only those of it.
        """
        self.storing.resume(keys)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what goes on beside the calls, until cancelled: store the files that wait, read ahead."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._c.background.run)
            await nursery.start(self.storing.waiting.run)
            if self._c.readers.disk is not None:
                await nursery.start(self._c.readers.disk.run)
            task_status.started()

    # -- the whole -----------------------------------------------------------------------------

    async def usage(self) -> Usage | None:
        """Return the room in the store, None if it has no limit."""
        with deadline(self._c.settings.read_timeout, ""):
            return await self._c.store.usage()

    async def store_everything(self) -> dict[str, StoreError]:
        """Store all that is dirty; return what could not be stored, by key."""
        failed: dict[str, StoreError] = {}

        async def store(inode: Inode) -> None:
            try:
                await self.storing.store(inode)
            except StoreError as error:
                failed[inode.key] = error
            except OSError as error:
                failed[inode.key] = Unavailable(f"what was written cannot be read: {error}", key=inode.key)
            else:
                self.storing.drop_clean(inode)
                self._c.table.collect(inode)

        async with trio.open_nursery() as nursery:
            for inode in self._c.table.dirty():
                nursery.start_soon(store, inode)
        return failed

    def dirty(self) -> list[tuple[str, int]]:
        """Return the keys that the store does not have yet, with their sizes."""
        return [(inode.key, inode.size) for inode in self._c.table.dirty()]

    def kept(self) -> list[str]:
        """Return the dirty keys whose bytes are in the journal, where the next mount finds them."""
        return [inode.key for inode in self._c.table.dirty() if self.storing.is_kept(inode, inode.key)]

    def retrying(self) -> dict[str, str]:
        """Return the keys whose put failed on the way and is tried again, each with the reason."""
        return dict(self.storing.uploader.retrying)

    async def rescue(self, directory: Path) -> dict[str, Path]:
        """Save what is still dirty, and not in the journal, as plain files; return where each key went.

        What cannot be saved either is told in the log, stays dirty, and hinders nothing else.
        """
        saved: dict[str, Path] = {}
        for inode in self._c.table.dirty():
            if self.storing.is_kept(inode, inode.key):
                continue
            assert inode.staged is not None
            path = directory / inode.key
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                await inode.staged.save(path)
            except OSError as error:
                log.error("%r could not be saved in %s and is lost: %s", inode.key, path, error)
            else:
                saved[inode.key] = path
        return saved

    def close(self) -> None:
        """Let go of what is staged: call it when all of that is stored, kept or saved."""
        for inode in self._c.table:
            if inode.staged is not None:
                inode.staged.close()

    def check_invariants(self) -> None:
        """Assert what must hold between any two calls (used by tests)."""
        self._c.table.check_invariants()
        self._c.handles.check_invariants()
        self._c.readers.cache.check_invariants()
