"""What ``chmod``, ``chown`` and ``utimensat`` do.

1. A store that is a file system takes them at once, for what it has.
2. For staged bytes they are noted on the inode, and go to the store with the
   bytes: setting them on the old object would make it another version.
3. What a store cannot hold is remembered as long as the mount lives.
"""

from __future__ import annotations

import time

import trio

from stores.meta import AttributeChange
from zarrmount.context import Context
from zarrmount.errors import deadline
from zarrmount.inodes import Inode
from zarrmount.storing import Storing

__all__ = ["AttributeChanges"]


class AttributeChanges:
    """Changes of the attributes of the files of one mounted tree."""

    def __init__(self, context: Context, storing: Storing) -> None:
        self._c = context
        self._storing = storing

    async def apply(self, inode: Inode, change: AttributeChange) -> None:
        """Change an inode's attributes.

        Raises
        ------
        StoreError
            As the store says; nothing has changed then.
        """
        async with self._c.shape.shared(), inode.lock:
            stored = (inode.is_dir or inode.meta is not None) and not inode.unlinked
            if stored and not inode.dirty and self._c.store.capabilities.posix:
                with deadline(self._c.settings.write_timeout, inode.key):
                    await self._c.store.set_attributes(inode.key, change)
                await self._reload(inode)
            else:
                self._note(inode, change)
                await self._storing.attributes_changed(inode)

    def _note(self, inode: Inode, change: AttributeChange) -> None:
        inode.mode = change.mode if change.mode is not None else inode.mode
        inode.uid = change.uid if change.uid is not None else inode.uid
        inode.gid = change.gid if change.gid is not None else inode.gid
        inode.atime_ns = change.atime_ns if change.atime_ns is not None else inode.atime_ns
        if change.mtime_ns is not None:
            inode.mtime_ns, inode.explicit_times = change.mtime_ns, True
        inode.ctime_ns = time.time_ns()
        if not inode.is_dir and not inode.dirty:
            self._c.namespace.remember_attributes(inode)

    async def _reload(self, inode: Inode) -> None:
        """Take over what the store says of a clean inode after it changed an attribute."""
        self._c.namespace.doubt(inode)
        if inode.parent is None:
            await self._c.namespace.refresh(inode)
            return
        with deadline(self._c.settings.read_timeout, inode.key):
            found = await self._c.store.lookup(inode.key)
        told = found.prefix if inode.is_dir else found.object
        if told is None:
            return
        expires = trio.current_time() + self._c.settings.metadata_ttl
        self._c.namespace.absorb(inode.parent, inode.name, told, expires)
        if not inode.is_dir:
            await self._storing.follow(inode)
