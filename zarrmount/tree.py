"""What the calls on names mean: making, removing, renaming and linking.

Every change follows one pattern: under the lock of the directories that it
touches, check what stands there, let the store do it, then tell the table and
the namespace.  If the store fails nothing has changed here.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from typing import TypeVar

import trio

from stores.errors import NotFound, ReadOnly, StoreError, Unsupported
from stores.keys import MAX_NAME_BYTES, join, unusable_name
from stores.meta import AttributeChange, ObjectMeta
from zarrmount.context import Context
from zarrmount.errors import deadline, os_error
from zarrmount.files import Files
from zarrmount.inodes import Inode, Kind

__all__ = ["Tree"]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_PARALLEL_MOVES = 32

Result = TypeVar("Result")


class Tree:
    """The calls on names of one mounted tree."""

    def __init__(self, context: Context, files: Files) -> None:
        self._c = context
        self._files = files

    # -- making --------------------------------------------------------------------------------

    async def make_file(self, parent: Inode, name: str, mode: int, owner: tuple[int, int]) -> Inode:
        """Make the inode of a new, empty, dirty file.

        Raises
        ------
        OSError
            EEXIST if the name is taken.
        ReadOnly
            On a read-only store.
        """
        async with parent.changes:
            await self._check_free(parent, name)
            inode = self._c.table.add(parent, name, Kind.FILE)
            self._files.stage_empty(inode)
            inode.mode = stat.S_IMODE(mode)
            self._own(inode, owner)
            self._c.namespace.changed(parent, name)
            return inode

    async def make_node(
        self, parent: Inode, name: str, mode: int, rdev: int, owner: tuple[int, int]
    ) -> Inode:
        """Make a file of any kind; all but regular files need a store that can keep them (EPERM)."""
        if stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0:
            inode = await self.make_file(parent, name, mode, owner)
            inode.exclusive = True
            try:
                await self._files.flush(inode)
            except BaseException:
                self._c.table.detach(inode)
                raise
            self._files.drop_clean(inode)
            return inode
        self._need_posix()
        async with self._c.shape.shared(), parent.changes:
            await self._check_free(parent, name)
            key = join(parent.key, name)
            meta = await self._within_deadline(key, self._c.store.make_node(key, mode, rdev))
            return await self._made(parent, name, meta, owner)

    async def make_dir(self, parent: Inode, name: str, mode: int, owner: tuple[int, int]) -> Inode:
        """Make a directory; where the store keeps no empty ones it lives as long as the mount."""
        async with self._c.shape.shared(), parent.changes:
            await self._check_free(parent, name)
            key = join(parent.key, name)
            if self._c.store.capabilities.directories:
                made = await self._within_deadline(key, self._c.store.make_dir(key, stat.S_IMODE(mode)))
                self._c.namespace.changed(parent, name)
                inode = self._c.namespace.absorb(parent, name, made, self._soon())
                if self._c.store.capabilities.posix:
                    await self._give(inode, owner)
                else:
                    inode.mode = stat.S_IMODE(mode)
            else:
                inode = self._c.table.add(parent, name, Kind.DIRECTORY)
                inode.kept = True
                inode.mode = stat.S_IMODE(mode)
                self._own(inode, owner)
                inode.mtime_ns = inode.ctime_ns
                self._c.namespace.changed(parent, name)
            return inode

    async def symlink(self, parent: Inode, name: str, target: str, owner: tuple[int, int]) -> Inode:
        """Make a symbolic link; EPERM on stores that cannot keep them."""
        self._need_posix()
        async with self._c.shape.shared(), parent.changes:
            await self._check_free(parent, name)
            key = join(parent.key, name)
            meta = await self._within_deadline(key, self._c.store.symlink(target, key))
            return await self._made(parent, name, meta, owner)

    async def link(self, source: Inode, parent: Inode, name: str) -> Inode:
        """Make a hard link where the store has them, else a second object with the same bytes."""
        if source.is_dir:
            raise os_error(errno.EPERM)
        if source.unlinked:
            raise os_error(errno.ENOENT)
        await self._files.flush(source)
        store = self._c.store
        async with self._c.shape.shared(), parent.changes:
            await self._check_free(parent, name)
            key = join(parent.key, name)
            if store.capabilities.posix:
                meta = await self._within_deadline(key, store.link(source.key, key))
                source.expires = 0.0
            else:
                meta = await self._within_deadline(key, self._copy_if_absent(source.key, key))
            self._c.namespace.changed(parent, name)
            self._files.no_longer_kept(parent)
            return self._c.namespace.absorb(parent, name, meta, self._soon())

    async def _copy_if_absent(self, source: str, target: str) -> ObjectMeta:
        try:
            return await self._c.store.copy(source, target, if_absent=True)
        except Unsupported:
            return await self._c.store.copy(source, target)  # the name was free a moment ago

    # -- removing ------------------------------------------------------------------------------

    async def unlink(self, parent: Inode, name: str) -> None:
        """Remove a file; whoever has it open goes on reading and writing it."""
        async with self._c.shape.shared(), parent.changes:
            inode = await self._c.namespace.child(parent, name)
            with self._c.table.hold(inode):
                if inode.is_dir:
                    raise os_error(errno.EISDIR)
                async with inode.lock:
                    with _going(inode):
                        await self._remove_object(inode)
                        self._detach(inode)
                self._keep_dir(parent)

    async def remove_dir(self, parent: Inode, name: str) -> None:
        """Remove an empty directory; ENOTEMPTY for any other."""
        async with self._c.shape.shared(), parent.changes:
            inode = await self._c.namespace.child(parent, name)
            with self._c.table.hold(inode):
                if not inode.is_dir:
                    raise os_error(errno.ENOTDIR)
                async with inode.changes:
                    await self._remove_empty_dir(inode)
                self._detach(inode)
                self._keep_dir(parent)

    async def _remove_empty_dir(self, inode: Inode) -> None:
        self._check_writable(inode.key)
        if any(child.lives_here for child in inode.children.values()):
            raise os_error(errno.ENOTEMPTY)
        if self._c.store.capabilities.directories:
            await self._within_deadline(inode.key, self._c.store.remove_dir(inode.key))
        elif not await self._c.namespace.is_empty(inode):
            raise os_error(errno.ENOTEMPTY)

    async def _remove_object(self, inode: Inode) -> None:
        """Delete the object of an inode (its lock held), if the store has one."""
        self._check_writable(inode.key)
        if inode.meta is None and not _maybe_stored(inode):
            return
        await self._files.outlive(inode)
        try:
            await self._within_deadline(inode.key, self._c.store.delete(inode.key))
        except NotFound:
            if inode.staged is None:
                raise

    def _detach(self, inode: Inode) -> None:
        parent, name = inode.parent, inode.name
        assert parent is not None
        self._c.table.detach(inode)
        self._c.namespace.changed(parent, name)

    def _keep_dir(self, directory: Inode) -> None:
        """Let a directory live on after its last key went, where the store would drop it."""
        node: Inode | None = directory
        while node is not None and not self._c.store.capabilities.directories:
            node.kept = True
            node = node.parent

    # -- renaming ------------------------------------------------------------------------------

    async def rename(
        self, old_parent: Inode, old_name: str, new_parent: Inode, new_name: str, flags: int
    ) -> None:
        """Rename a file or a directory, as ``renameat2(2)``; flags are honoured or refused (EINVAL)."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise os_error(errno.EINVAL)
        if flags & RENAME_EXCHANGE and not self._c.store.capabilities.posix:
            raise os_error(errno.EINVAL)
        self._check_name(new_name)
        async with AsyncExitStack() as stack:
            moved = await self._c.namespace.child(old_parent, old_name)
            stack.enter_context(self._c.table.hold(moved))
            exclusive = moved.is_dir or bool(flags & RENAME_EXCHANGE)
            shape = self._c.shape
            await stack.enter_async_context(shape.alone() if exclusive else shape.shared())
            for directory in sorted({old_parent, new_parent}, key=lambda inode: (inode.depth, inode.number)):
                await stack.enter_async_context(directory.changes)
            source = await self._c.namespace.child(old_parent, old_name)
            stack.enter_context(self._c.table.hold(source))
            self._check_writable(source.key)
            target = await self._existing(new_parent, new_name)
            if target is not None:
                stack.enter_context(self._c.table.hold(target))
            if new_parent.unlinked:
                raise os_error(errno.ENOENT)
            if target is source:
                return
            if source.is_dir and not exclusive:
                raise os_error(errno.EBUSY)  # a file became a directory this moment
            if target is not None and flags & RENAME_NOREPLACE:
                raise os_error(errno.EEXIST)
            if flags & RENAME_EXCHANGE:
                await self._exchange(source, target)
                return
            self._check_replaceable(source, target, new_parent)
            for inode in (source, target):
                if inode is not None and inode.is_dir and inode is not old_parent:
                    await stack.enter_async_context(inode.changes)
            await self._move(source, target, new_parent, new_name)

    async def _move(self, source: Inode, target: Inode | None, new_parent: Inode, new_name: str) -> None:
        old_parent, old_name = source.parent, source.name
        assert old_parent is not None
        try:
            if source.is_dir:
                await self._rename_dir(source, target, new_parent, new_name)
            else:
                await self._rename_file(source, target, new_parent, new_name)
        except OSError:
            raise
        except BaseException:
            # How far it came is not known: ask the store for everything afresh.
            self._doubt(source)
            self._doubt(target)
            self._c.namespace.changed(old_parent, old_name)
            self._c.namespace.changed(new_parent, new_name)
            raise

    def _check_replaceable(self, source: Inode, target: Inode | None, new_parent: Inode) -> None:
        if source.is_dir and new_parent.is_below(source):
            raise os_error(errno.EINVAL)
        if target is None:
            return
        if source.is_dir and not target.is_dir:
            raise os_error(errno.ENOTDIR)
        if target.is_dir and not source.is_dir:
            raise os_error(errno.EISDIR)

    async def _rename_file(
        self, source: Inode, target: Inode | None, new_parent: Inode, new_name: str
    ) -> None:
        store = self._c.store
        old_key, new_key = source.key, join(new_parent.key, new_name)
        async with AsyncExitStack() as stack:
            locked = {source} if target is None else {source, target}
            for inode in sorted(locked, key=lambda inode: inode.number):
                await stack.enter_async_context(inode.lock)
            if target is not None:
                stack.enter_context(_going(target))
                await self._files.outlive(target)
            if source.dirty:
                # One put, under the new name; the old name's object, if there is one, goes.
                stored_before = source.meta is not None or _maybe_stored(source)
                _inherit_sent(source, target, new_key)
                moved = await self._files.store_as(source, new_key, target.meta if target else None)
                self._rehang(source, new_parent, new_name)
                self._files.no_longer_kept(new_parent)
                await self._rebase(source, moved)
                if stored_before:
                    with suppress(NotFound):
                        await self._within_deadline(old_key, store.delete(old_key))
            else:
                moved = await self._within_deadline(new_key, self._move_object(old_key, new_key))
                self._rehang(source, new_parent, new_name)
                self._files.no_longer_kept(new_parent)
                await self._rebase(source, moved)
        self._files.settle(source)

    async def _move_object(self, source: str, target: str) -> ObjectMeta:
        """Move one object, in one step where the store can, else by copy and delete."""
        store = self._c.store
        if store.capabilities.rename:
            await store.rename(source, target)
            found = (await store.lookup(target)).object
            if found is None:
                raise NotFound("it was removed right after it was renamed", key=target)
            return found
        meta = await store.copy(source, target)
        await store.delete(source)
        return meta

    async def _rename_dir(
        self, source: Inode, target: Inode | None, new_parent: Inode, new_name: str
    ) -> None:
        store = self._c.store
        old_key, new_key = source.key, join(new_parent.key, new_name)
        if target is not None:
            if any(child.lives_here for child in target.children.values()):
                raise os_error(errno.ENOTEMPTY)
            if not store.capabilities.directories and not await self._c.namespace.is_empty(target):
                raise os_error(errno.ENOTEMPTY)
        if store.capabilities.directories:
            await self._within_deadline(new_key, store.rename_dir(old_key, new_key))
            moved: dict[str, ObjectMeta] = {}
        else:
            moved = await self._move_prefix(old_key, new_key)
            source.kept = True
        self._rehang(source, new_parent, new_name)
        if moved:
            self._files.no_longer_kept(source)
        await self._rebase_below(source, moved)

    async def _move_prefix(self, source: str, target: str) -> dict[str, ObjectMeta]:
        """Copy every object below a prefix to another, then delete the originals.

        A failure leaves the originals: whatever was copied by then is there twice, nothing is lost.
        """
        store = self._c.store
        keys: list[str] = []
        async with aclosing(store.list_all(source)) as pages:
            while True:
                with deadline(self._c.settings.read_timeout, source):
                    page = await anext(pages, None)
                if page is None:
                    break
                keys += [meta.key for meta in page.objects]
        moved: dict[str, ObjectMeta] = {}

        async def copy(key: str) -> None:
            new_key = target + key[len(source) :]
            moved[new_key] = await self._within_deadline(key, store.copy(key, new_key))

        async def delete(key: str) -> None:
            await self._within_deadline(key, store.delete(key))

        await _for_all(copy, keys)
        await _for_all(delete, keys)
        return moved

    async def _exchange(self, source: Inode, target: Inode | None) -> None:
        if target is None:
            raise os_error(errno.ENOENT)
        if source.is_below(target) or target.is_below(source):
            raise os_error(errno.EINVAL)
        for inode in (source, target):
            await self._flush_below(inode)
        rename = self._c.store.rename_dir if source.is_dir else self._c.store.rename
        await self._within_deadline(source.key, rename(source.key, target.key, exchange=True))
        self._c.table.exchange(source, target)
        for inode in (source, target):
            assert inode.parent is not None
            self._c.namespace.changed(inode.parent, inode.name)
            await self._rebase_below(inode, {})

    async def _flush_below(self, inode: Inode) -> None:
        if inode.dirty:
            async with inode.lock:
                await self._files.store_as(inode, inode.key, inode.staged.base if inode.staged else None)
        for child in list(inode.children.values()):
            await self._flush_below(child)

    def _doubt(self, inode: Inode | None) -> None:
        """Believe nothing any more that the store said of an inode and what is below it."""
        if inode is None:
            return
        inode.expires = 0.0
        if inode.is_dir:
            self._c.namespace.moved(inode)
        for child in inode.children.values():
            self._doubt(child)

    def _rehang(self, inode: Inode, parent: Inode, name: str) -> None:
        before, old_name = inode.parent, inode.name
        assert before is not None
        self._keep_dir(before)
        self._c.table.move(inode, parent, name)
        self._c.namespace.changed(before, old_name)
        self._c.namespace.changed(parent, name)

    async def _rebase(self, inode: Inode, moved: ObjectMeta) -> None:
        """Take note that a file's object is now `moved`: what was staged or open goes on from there."""
        if inode.staged is not None:
            inode.staged.base = moved
        before = inode.meta.version if inode.meta is not None else None
        change = (inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns, inode.explicit_times)
        inode.meta = moved
        inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns, inode.explicit_times = change
        self._c.namespace.remember_attributes(inode)
        inode.expires = self._soon()
        snapshots = self._c.store.capabilities.snapshot_reads
        for handle in inode.handles:
            reader = handle.reader
            # The same bytes may have another version now: a writer must not build on the old one.
            if reader is not None and (not snapshots or reader.meta.version == before != moved.version):
                handle.reader = None
                await reader.aclose()

    async def _rebase_below(self, directory: Inode, moved: dict[str, ObjectMeta]) -> None:
        """Take note that all below a directory has new keys."""
        for child in list(directory.children.values()):
            if child.is_dir:
                await self._rebase_below(child, moved)
                continue
            meta = moved.get(child.key)
            if meta is None and child.meta is not None:
                # Moved with its directory in one step: the same object under another key.
                meta = _with_key(child.meta, child.key)
            if meta is not None:
                await self._rebase(child, meta)
        self._c.namespace.moved(directory)

    # -- shared --------------------------------------------------------------------------------

    async def _existing(self, parent: Inode, name: str) -> Inode | None:
        try:
            return await self._c.namespace.child(parent, name)
        except NotFound:
            return None

    async def _check_free(self, parent: Inode, name: str) -> None:
        """Raise unless a new name can be made in a directory."""
        self._check_name(name)
        if parent.unlinked:
            raise os_error(errno.ENOENT)
        self._check_writable(join(parent.key, name))
        taken = await self._existing(parent, name)
        if parent.unlinked:
            raise os_error(errno.ENOENT)
        if taken is not None:
            self._c.table.collect(taken)
            raise os_error(errno.EEXIST)

    def _check_name(self, name: str) -> None:
        if unusable_name(name) is not None:
            raise os_error(
                errno.ENAMETOOLONG
                if len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES
                else errno.EINVAL
            )

    def _check_writable(self, key: str) -> None:
        if self._c.store.read_only:
            raise ReadOnly("the store is read-only", key=key)

    def _need_posix(self) -> None:
        if self._c.store.read_only:
            raise ReadOnly("the store is read-only")
        if not self._c.store.capabilities.posix:
            raise os_error(errno.EPERM)

    async def _made(self, parent: Inode, name: str, meta: ObjectMeta, owner: tuple[int, int]) -> Inode:
        """Take note that the store made something that is owned by whoever asked for it."""
        self._c.namespace.changed(parent, name)
        inode = self._c.namespace.absorb(parent, name, meta, self._soon())
        try:
            await self._give(inode, owner)
        except BaseException:
            self._c.table.collect(inode)
            raise
        return inode

    def _own(self, inode: Inode, owner: tuple[int, int]) -> None:
        """Let a new file belong to its maker, where the store keeps owners and we may say so."""
        if self._c.store.capabilities.posix and os.geteuid() == 0:
            inode.uid = owner[0]
            inode.gid = None if _inherits_group(inode) else owner[1]

    async def _give(self, inode: Inode, owner: tuple[int, int]) -> None:
        """Let something that the store has already belong to its maker (see `_own`)."""
        if os.geteuid() != 0 or owner == (os.geteuid(), os.getegid()):
            return
        change = AttributeChange(uid=owner[0], gid=None if _inherits_group(inode) else owner[1])
        await self._within_deadline(inode.key, self._c.store.set_attributes(inode.key, change))
        inode.expires = 0.0

    def _soon(self) -> float:
        return trio.current_time() + self._c.settings.metadata_ttl

    async def _within_deadline(self, key: str, call: Awaitable[Result]) -> Result:
        with deadline(self._c.settings.write_timeout, key):
            return await call


@contextmanager
def _going(inode: Inode) -> Iterator[None]:
    """Let nobody open a file while it is being removed: what opens it too late would read nothing."""
    inode.going = trio.Event()
    try:
        yield
    finally:
        inode.going.set()
        inode.going = None


def _maybe_stored(inode: Inode) -> bool:
    """Tell whether the store may have bytes under the key of an inode without having said so."""
    return inode.staged is not None and inode.key in inode.staged.sent


def _inherit_sent(source: Inode, target: Inode | None, key: str) -> None:
    """Let what a file that is replaced may have left under `key` be no conflict to what replaces it."""
    if source.staged is not None and target is not None and target.staged is not None:
        left = target.staged.sent.get(key)
        if left:
            source.staged.sent.setdefault(key, set()).update(left)


def _inherits_group(inode: Inode) -> bool:
    parent = inode.parent
    return parent is not None and parent.posix is not None and bool(parent.posix.mode & stat.S_ISGID)


def _with_key(meta: ObjectMeta, key: str) -> ObjectMeta:
    return dataclasses.replace(meta, key=key)


async def _for_all(action: Callable[[str], Awaitable[None]], keys: list[str]) -> None:
    """Do `action` for every key, some at a time; the first error ends it."""
    waiting = iter(keys)

    async def work() -> None:
        for key in waiting:
            await action(key)

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(min(_PARALLEL_MOVES, len(keys))):
                nursery.start_soon(work)
    except* (StoreError, OSError) as errors:
        raise errors.exceptions[0] from None
