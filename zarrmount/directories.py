"""The calls on open directories."""

from __future__ import annotations

import errno
import stat

import trio

from stores.meta import PrefixMeta
from zarrmount.context import Context
from zarrmount.dirstream import DirStream, Entry
from zarrmount.errors import deadline, os_error
from zarrmount.handles import DirHandle
from zarrmount.inodes import Inode

__all__ = ["Directories"]


class Directories:
    """The open directories of one mounted tree.

    Parameters
    ----------
    context : Context
        The tree.
    """

    def __init__(self, context: Context) -> None:
        self._c = context

    def open(self, directory: Inode) -> DirHandle:
        """``opendir(3)``."""
        return self._c.handles.add_dir(directory)

    async def entry(self, handle_number: int, position: int) -> Entry | None:
        """Return the entry at a position of an open directory, None at its end.

        Position 0 lists afresh, as ``rewinddir(3)`` does.
        """
        handle = self._handle(handle_number)
        async with handle.lock:
            if position == 0 and handle.stream is not None:
                stream, handle.stream = handle.stream, None
                await stream.aclose()
            if handle.stream is None:
                c = self._c
                handle.stream = DirStream(c.store, c.namespace, c.settings, handle.inode)
            return await handle.stream.entry(position)

    def listed(self, handle_number: int, position: int) -> Entry | None:
        """Return what `entry` would if that is at hand; None if it has to be asked."""
        stream = self._handle(handle_number).stream
        return stream.listed(position) if stream is not None and position > 0 else None

    def inode_of(self, handle_number: int, entry: Entry) -> Inode | None:
        """Return the inode of an entry; None if it is gone by now."""
        handle = self._handle(handle_number)
        name, found, expires = entry
        known = handle.inode.children.get(name)
        if found is None or handle.inode.unlinked or handle.stream is None:
            return known
        fresh = known is not None and (known.dirty or trio.current_time() < known.expires)
        if known is not None and (fresh or self._c.store.listings_are_hints):
            return known
        if handle.stream.is_current(name):
            return self._c.namespace.absorb(handle.inode, name, found, expires)
        # Something came or went here since: what the listing said of it may be history.
        return known or self._c.namespace.absorb(handle.inode, name, found, 0.0)

    def only_named(self, handle_number: int, entry: Entry) -> int:
        """Return the kind (``S_IFMT``) of an entry that could be there and was not asked for; else 0."""
        handle = self._handle(handle_number)
        if entry.found is None or not self._c.store.listings_are_hints:
            return 0
        if entry.name in handle.inode.children or handle.inode.unlinked:
            return 0
        if isinstance(entry.found, PrefixMeta):
            return stat.S_IFDIR
        return stat.S_IFREG if entry.found.version is None else 0

    def drop(self, inode: Inode) -> None:
        """Take note that the kernel did not take an entry's inode."""
        self._c.table.collect(inode)

    def inode(self, handle_number: int) -> Inode:
        """Return the directory that a handle reads."""
        return self._handle(handle_number).inode

    async def release(self, handle_number: int) -> None:
        """``closedir(3)``."""
        handle = self._c.handles.remove_dir(handle_number)
        if handle.stream is not None:
            await handle.stream.aclose()

    async def sync(self, handle_number: int) -> None:
        """``fsync(2)`` of a directory."""
        inode = self.inode(handle_number)
        if not inode.unlinked:
            with deadline(self._c.settings.write_timeout, inode.key):
                await self._c.store.sync(inode.key)

    def _handle(self, number: int) -> DirHandle:
        try:
            return self._c.handles.dir(number)
        except KeyError:
            raise os_error(errno.EBADF) from None
