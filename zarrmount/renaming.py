"""Renaming files and directories.

1. A file with staged bytes is stored under its new name: one put, no copy.
2. Otherwise the store renames in one step where it can; else the object is
   copied, then deleted: a failure may leave it under both names, never under
   none.
3. A directory is renamed alone: it changes the keys of all that is below it.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress

import trio

from stores.errors import NotFound, StoreError
from stores.keys import join
from stores.meta import ObjectMeta
from zarrmount.errors import deadline, os_error
from zarrmount.inodes import Inode
from zarrmount.names import NameCalls, going
from zarrmount.storing import maybe_stored

__all__ = ["RENAME_EXCHANGE", "RENAME_NOREPLACE", "Renaming"]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_PARALLEL_MOVES = 32


class Renaming(NameCalls):
    """``rename(2)`` on one mounted tree."""

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
            await self._move(source, target, new_parent, new_name, only_new=bool(flags & RENAME_NOREPLACE))

    async def _move(
        self, source: Inode, target: Inode | None, new_parent: Inode, new_name: str, *, only_new: bool
    ) -> None:
        old_parent, old_name = source.parent, source.name
        assert old_parent is not None
        try:
            if source.is_dir:
                await self._rename_dir(source, target, new_parent, new_name, only_new=only_new)
            else:
                await self._rename_file(source, target, new_parent, new_name, only_new=only_new)
        except OSError:
            raise
        except BaseException:
            # How far it came is not known: ask the store for everything afresh.
            self._doubt(source)
            self._doubt(target)
            self._c.namespace.changed(old_parent, old_name)
            self._c.namespace.changed(new_parent, new_name)
            self._keep_dir(old_parent)
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
        self, source: Inode, target: Inode | None, new_parent: Inode, new_name: str, *, only_new: bool
    ) -> None:
        new_key = join(new_parent.key, new_name)
        async with AsyncExitStack() as stack:
            locked = {source} if target is None else {source, target}
            for inode in sorted(locked, key=lambda inode: inode.number):
                await stack.enter_async_context(inode.lock)
            if target is not None:
                stack.enter_context(going(target))
                await self._files.outlive(target)
            replaced = target.meta if target is not None else None
            if not only_new and await self._storing.move_kept(source, new_key, replaced):
                self._c.namespace.came_here(*self._rehang(source, new_parent, new_name))
                self._c.namespace.came_here(new_parent, new_name)
                return
            if target is not None and self._storing.is_kept(target, new_key):
                await self._storing.store_locked(target)  # else after a crash it would be put over `source`
            # Whoever renames onto a name wants whatever is there to be replaced, as POSIX says.
            if source.dirty:
                await self._put_elsewhere(source, target, new_parent, new_name, only_new=only_new)
            else:
                await self._move_stored(source, new_parent, new_name, only_new=only_new)
        self._storing.settle(source)

    async def _put_elsewhere(
        self, source: Inode, target: Inode | None, new_parent: Inode, new_name: str, *, only_new: bool
    ) -> None:
        """Put a dirty file once, under its new name; the old name's object, if there is one, goes."""
        old_key, new_key = source.key, join(new_parent.key, new_name)
        stored_before = source.meta is not None or maybe_stored(source)
        _inherit_sent(source, target, new_key)
        if stored_before:
            await self._storing.about_to_delete(source, old_key)
        replaced = target.meta if target is not None else None
        moved = await self._storing.store_as(source, new_key, replaced, whatever_is_there=not only_new)
        old_parent, old_name = self._rehang(source, new_parent, new_name)
        self._c.namespace.stored(new_parent, new_name, moved)
        if stored_before:
            self._c.namespace.changed(old_parent, old_name)
        else:
            self._c.namespace.came_here(old_parent, old_name)
        self._storing.no_longer_kept(new_parent)
        await self._rebase(source, moved)
        if stored_before:
            with suppress(NotFound):
                await self._within_deadline(old_key, self._c.store.delete(old_key))
            self._c.namespace.removed(old_parent, old_name, 0.0)
        await self._storing.forget(old_key)

    async def _move_stored(self, source: Inode, new_parent: Inode, new_name: str, *, only_new: bool) -> None:
        """Let the store move an object."""
        old_key, new_key = source.key, join(new_parent.key, new_name)
        moved = await self._within_deadline(new_key, self._move_object(old_key, new_key, only_new))
        expires = source.expires
        old_parent, old_name = self._rehang(source, new_parent, new_name)
        self._c.namespace.stored(new_parent, new_name, moved)
        self._c.namespace.removed(old_parent, old_name, expires)
        self._storing.no_longer_kept(new_parent)
        await self._rebase(source, moved)

    async def _move_object(self, source: str, target: str, only_new: bool) -> ObjectMeta:
        """Move one object, in one step where the store can, else by copy and delete."""
        store = self._c.store
        if store.capabilities.rename:
            await store.rename(source, target, if_absent=only_new)
            found = (await store.lookup(target)).object
            if found is None:
                raise NotFound("it was removed right after it was renamed", key=target)
            return found
        meta = await store.copy(source, target, if_absent=only_new and store.capabilities.create_if_absent)
        await store.delete(source)
        return meta

    async def _rename_dir(
        self, source: Inode, target: Inode | None, new_parent: Inode, new_name: str, *, only_new: bool
    ) -> None:
        store = self._c.store
        old_key, new_key = source.key, join(new_parent.key, new_name)
        await self._store_kept_below(source)
        if target is not None:
            if any(child.lives_here for child in target.children.values()):
                raise os_error(errno.ENOTEMPTY)
            if not store.capabilities.directories and not await self._c.namespace.is_empty(target):
                raise os_error(errno.ENOTEMPTY)
        if store.capabilities.directories:
            await self._within_deadline(new_key, store.rename_dir(old_key, new_key, if_absent=only_new))
            moved: dict[str, ObjectMeta] = {}
        else:
            moved = await self._move_prefix(old_key, new_key)
            source.kept = True
        old_parent, old_name = self._rehang(source, new_parent, new_name)
        self._c.namespace.changed(old_parent, old_name)
        self._c.namespace.changed(new_parent, new_name)
        if moved:
            self._storing.no_longer_kept(source)
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
                await self._storing.store_as(inode, inode.key, inode.staged.base if inode.staged else None)
        for child in list(inode.children.values()):
            await self._flush_below(child)

    async def _store_kept_below(self, inode: Inode) -> None:
        """Store what waits below a directory in the journal, which knows it by its key."""
        if inode.dirty and self._storing.is_kept(inode, inode.key):
            async with inode.lock:
                await self._storing.store_locked(inode)
        for child in list(inode.children.values()):
            await self._store_kept_below(child)

    def _rehang(self, inode: Inode, parent: Inode, name: str) -> tuple[Inode, str]:
        """Hang an inode elsewhere; return where it was."""
        before, old_name = inode.parent, inode.name
        assert before is not None
        self._keep_dir(before)
        self._c.table.move(inode, parent, name)
        return before, old_name

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


def _inherit_sent(source: Inode, target: Inode | None, key: str) -> None:
    """Let what a file that is replaced may have left under `key` be no conflict to what replaces it."""
    if source.staged is not None and target is not None and target.staged is not None:
        left = target.staged.sent.get(key)
        if left:
            source.staged.sent.setdefault(key, set()).update(left)


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
