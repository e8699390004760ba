"""What the calls on names mean: making, removing and linking.

Every change follows one pattern: under the lock of the directories that it
touches, check what stands there, let the store do it, then tell the table and
the namespace.  If the store fails nothing has changed here.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

from stores.errors import NotFound, ReadOnly, StoreError, Unsupported
from stores.keys import join
from stores.meta import AttributeChange, ObjectMeta
from zarrmount.errors import os_error
from zarrmount.inodes import Inode, Kind
from zarrmount.names import NameCalls, going
from zarrmount.objects.staging import DELETED
from zarrmount.storing import maybe_stored

__all__ = ["Tree"]


class Tree(NameCalls):
    """The calls that make and remove names of one mounted tree."""

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
            self._c.namespace.came_here(parent, name)
            self._c.namespace.listings.asked(parent.number, 2)  # whoever makes a file asks for its name first
            return inode

    async def make_node(
        self, parent: Inode, name: str, mode: int, rdev: int, owner: tuple[int, int]
    ) -> Inode:
        """Make a file of any kind; all but regular files need a store that can keep them (EPERM)."""
        if stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0:
            inode = await self.make_file(parent, name, mode, owner)
            inode.exclusive = True
            try:
                await self._storing.store(inode)
            except BaseException:
                self._c.table.detach(inode)
                raise
            self._storing.drop_clean(inode)
            return inode
        self._need_posix()
        async with self._c.shape.shared(), parent.changes:
            await self._check_free(parent, name)
            key = join(parent.key, name)
            meta = await self._within_deadline(key, self._c.store.make_node(key, mode, rdev))
            return await self._made(parent, name, meta, mode, owner)

    async def make_dir(self, parent: Inode, name: str, mode: int, owner: tuple[int, int]) -> Inode:
        """Make a directory; where the store keeps no empty ones it lives as long as the mount."""
        async with self._c.shape.shared(), parent.changes:
            await self._check_free(parent, name)
            key = join(parent.key, name)
            if self._c.store.capabilities.directories:
                made = await self._within_deadline(key, self._c.store.make_dir(key, stat.S_IMODE(mode)))
                self._c.namespace.stored(parent, name, made)
                inode = self._c.namespace.absorb(parent, name, made, self._soon())
                if self._c.store.capabilities.posix:
                    await self._give(inode, mode, owner)
                else:
                    inode.mode = stat.S_IMODE(mode)
            else:
                inode = self._c.table.add(parent, name, Kind.DIRECTORY)
                inode.kept = True
                inode.mode = stat.S_IMODE(mode)
                self._own(inode, owner)
                inode.mtime_ns = inode.ctime_ns
                self._c.namespace.made_here(parent, inode)
            return inode

    async def symlink(self, parent: Inode, name: str, target: str, owner: tuple[int, int]) -> Inode:
        """Make a symbolic link; EPERM on stores that cannot keep them."""
        self._need_posix()
        async with self._c.shape.shared(), parent.changes:
            await self._check_free(parent, name)
            key = join(parent.key, name)
            meta = await self._within_deadline(key, self._c.store.symlink(target, key))
            return await self._made(parent, name, meta, None, owner)

    async def link(self, source: Inode, parent: Inode, name: str) -> Inode:
        """Make a hard link where the store has them, else a second object with the same bytes."""
        if source.is_dir:
            raise os_error(errno.EPERM)
        if source.unlinked:
            raise os_error(errno.ENOENT)
        store = self._c.store
        # Who links a file to its name and then removes the temporary name wants one file: one put.
        unstored = not store.capabilities.posix and self._storing.waits_for_rename(source)
        if not unstored:
            await self._storing.store(source)
        async with self._c.shape.shared(), parent.changes:
            await self._check_free(parent, name)
            key = join(parent.key, name)
            if store.capabilities.posix:
                meta = await self._within_deadline(key, store.link(source.key, key))
                self._c.namespace.doubt(source)
            else:
                stored = await self._storing.store_second(source, key) if unstored else None
                if stored is None:
                    stored = await self._within_deadline(key, self._copy_if_absent(source.key, key))
                meta = stored
            self._c.namespace.stored(parent, name, meta)
            self._storing.no_longer_kept(parent)
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
                try:
                    async with inode.lock:
                        with going(inode):
                            was_stored = await self._remove_object(inode)
                            self._detach_file(inode, was_stored)
                except StoreError:
                    # It may be gone all the same: ask the store afresh.
                    if inode.staged is not None:
                        inode.staged.sent.setdefault(inode.key, set()).add(DELETED)
                    self._doubt(inode)
                    self._c.namespace.changed(parent, name)
                    self._keep_dir(parent)
                    raise
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

    async def _remove_object(self, inode: Inode) -> bool:
        """Delete the object of an inode (its lock held); return False if the store has none."""
        self._check_writable(inode.key)
        was_stored = inode.meta is not None or maybe_stored(inode)
        if was_stored:
            await self._files.outlive(inode)
            await self._storing.about_to_delete(inode, inode.key)
            try:
                await self._within_deadline(inode.key, self._c.store.delete(inode.key))
            except NotFound:
                if inode.staged is None:
                    raise
        await self._storing.forget(inode.key)
        return was_stored

    def _detach_file(self, inode: Inode, was_stored: bool) -> None:
        parent, name, expires = inode.parent, inode.name, inode.expires
        assert parent is not None
        self._c.table.detach(inode)
        if was_stored:
            self._c.namespace.removed(parent, name, expires)
        else:
            self._c.namespace.came_here(parent, name)

    def _detach(self, inode: Inode) -> None:
        parent, name = inode.parent, inode.name
        assert parent is not None
        self._c.table.detach(inode)
        self._c.namespace.changed(parent, name)

    # -- shared -----------------------------------------------------------------------------------

    async def _check_free(self, parent: Inode, name: str) -> None:
        """Raise unless a new name can be made in a directory."""
        self._check_name(name)
        if parent.unlinked:
            raise os_error(errno.ENOENT)
        key = join(parent.key, name)
        self._check_writable(key)
        self._c.store.check_new_key(key)
        taken = await self._existing(parent, name)
        if parent.unlinked:
            raise os_error(errno.ENOENT)
        if taken is not None:
            self._c.table.collect(taken)
            raise os_error(errno.EEXIST)

    def _need_posix(self) -> None:
        if self._c.store.read_only:
            raise ReadOnly("the store is read-only")
        if not self._c.store.capabilities.posix:
            raise os_error(errno.EPERM)

    async def _made(
        self, parent: Inode, name: str, meta: ObjectMeta, mode: int | None, owner: tuple[int, int]
    ) -> Inode:
        """Take note that the store made something that is owned by whoever asked for it."""
        self._c.namespace.stored(parent, name, meta)
        inode = self._c.namespace.absorb(parent, name, meta, self._soon())
        try:
            await self._give(inode, mode, owner)
        except BaseException:
            self._c.table.collect(inode)
            raise
        return inode

    def _own(self, inode: Inode, owner: tuple[int, int]) -> None:
        """Let a new file belong to its maker, where the store keeps owners and we may say so."""
        if self._c.store.capabilities.posix and os.geteuid() == 0:
            inode.uid = owner[0]
            inode.gid = None if _inherits_group(inode) else owner[1]

    async def _give(self, inode: Inode, mode: int | None, owner: tuple[int, int]) -> None:
        """Give something that the store has made to its maker, with the mode that was asked for."""
        posix = inode.posix
        assert posix is not None
        change = AttributeChange()
        if mode is not None and (posix.mode ^ mode) & 0o777:  # the umask of this process took some away
            change = replace(change, mode=stat.S_IMODE(posix.mode) & 0o7000 | mode & 0o7777)
        if os.geteuid() == 0 and owner != (posix.uid, posix.gid):
            change = replace(change, uid=owner[0], gid=None if _inherits_group(inode) else owner[1])
        if change != AttributeChange():
            await self._within_deadline(inode.key, self._c.store.set_attributes(inode.key, change))
            self._c.namespace.doubt(inode)


def _inherits_group(inode: Inode) -> bool:
    parent = inode.parent
    return parent is not None and parent.posix is not None and bool(parent.posix.mode & stat.S_ISGID)
