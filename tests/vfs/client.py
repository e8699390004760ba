"""What a kernel without any cache of its own would ask of a `Vfs`, path by path."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from stores.base import Store
from stores.errors import NotFound
from zarrmount.cache.disk import DiskCache
from zarrmount.errors import errno_of
from zarrmount.handles import DirHandle, FileHandle
from zarrmount.inode_table import ROOT_INODE
from zarrmount.inodes import Inode
from zarrmount.objects.journal import Journal
from zarrmount.settings import TreeSettings
from zarrmount.vfs import Vfs

__all__ = ["Client", "failure"]

OWNER = (os.getuid(), os.getgid())


async def failure(call: Any) -> int:
    """Return the errno with which a call fails, 0 if it does not."""
    try:
        await call
    except Exception as error:
        return errno_of(error)
    return 0


class Client:
    """System calls on paths; every inode number is forgotten when its call is over."""

    def __init__(
        self,
        store: Store,
        spool: Path,
        *,
        cache_bytes: int = 64 << 20,
        max_dirty: int = 1 << 30,
        journal: Journal | None = None,
        disk: DiskCache | None = None,
        **settings: Any,
    ) -> None:
        self.store = store
        self.vfs = Vfs(
            store,
            TreeSettings(**settings),
            staging_dir=spool,
            cache_bytes=cache_bytes,
            max_dirty=max_dirty,
            journal=journal,
            disk=disk,
        )
        self.c = self.vfs._c

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the background work."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.vfs.run)
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def at(self, path: str) -> AsyncIterator[Inode]:
        """Look a path up, name by name, and forget it at the end."""
        taken: list[tuple[int, int]] = []
        inode = self.vfs.inode(ROOT_INODE)
        try:
            for name in path.split("/") if path else []:
                inode = await self.vfs.lookup(inode.number, name)
                taken.append((inode.number, 1))
            yield inode
        finally:
            self.vfs.forget(list(reversed(taken)))

    @asynccontextmanager
    async def parent(self, path: str) -> AsyncIterator[tuple[int, str]]:
        above, _, name = path.rpartition("/")
        async with self.at(above) as inode:
            yield inode.number, name

    # -- files ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(
        self, path: str, flags: int = os.O_RDONLY, *, flush: bool = True
    ) -> AsyncIterator[FileHandle]:
        """Open (O_CREAT creates), flush and release at the end."""
        async with self.opened(path, flags) as handle:
            try:
                yield handle
                if flush:
                    await self.vfs.files.close(handle)
            finally:
                await self.vfs.files.release(handle.number)

    @asynccontextmanager
    async def opened(self, path: str, flags: int) -> AsyncIterator[FileHandle]:
        async with self.parent(path) as (parent, name):
            try:
                inode = await self.vfs.lookup(parent, name)
            except NotFound:
                if not flags & os.O_CREAT:
                    raise
                inode, handle = await self.vfs.create(parent, name, 0o644, flags, OWNER)
            else:
                try:
                    handle = await self.vfs.open(inode.number, flags)
                except BaseException:
                    self.vfs.forget([(inode.number, 1)])
                    raise
        try:
            yield handle
        finally:
            self.vfs.forget([(inode.number, 1)])

    async def write(self, path: str, data: bytes, offset: int = 0, flags: int = 0) -> None:
        async with self.open(path, flags or os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as handle:
            await self.vfs.files.write(handle, offset, data)

    async def read(self, path: str, offset: int = 0, size: int = 1 << 30) -> bytes:
        async with self.open(path) as handle:
            return await self.vfs.files.read(handle, offset, size)

    async def truncate(self, path: str, size: int) -> None:
        from stores.meta import AttributeChange

        async with self.at(path) as inode:
            await self.vfs.setattr(inode.number, AttributeChange(), size)

    # -- names ---------------------------------------------------------------------------------

    async def size(self, path: str) -> int:
        async with self.at(path) as inode:
            return self.vfs.attributes(await self.vfs.getattr(inode.number)).size

    async def exists(self, path: str) -> bool:
        try:
            async with self.at(path):
                return True
        except NotFound:
            return False

    def open_dir(self, number: int) -> DirHandle:
        return self.vfs.directories.open(self.vfs.directory(number))

    async def names(self, path: str = "") -> list[str]:
        """List a directory as readdirplus does, and forget what it gave out."""
        async with self.at(path) as inode:
            handle = self.open_dir(inode.number)
            names, given = [], []
            try:
                position = 0
                while (entry := await self.vfs.directories.entry(handle.number, position)) is not None:
                    position += 1
                    child = self.vfs.directories.inode_of(handle.number, entry)
                    if child is not None:
                        given.append((self.vfs.remember(child).number, 1))
                        names.append(entry[0])
            finally:
                self.vfs.forget(given)
                await self.vfs.directories.release(handle.number)
            return sorted(names)

    async def mkdir(self, path: str) -> None:
        async with self.parent(path) as (parent, name):
            inode = await self.vfs.make_dir(parent, name, 0o755, OWNER)
            self.vfs.forget([(inode.number, 1)])

    async def rmdir(self, path: str) -> None:
        async with self.parent(path) as (parent, name):
            await self.vfs.remove_dir(parent, name)

    async def unlink(self, path: str) -> None:
        async with self.parent(path) as (parent, name):
            await self.vfs.unlink(parent, name)

    async def rename(self, old: str, new: str, flags: int = 0) -> None:
        async with self.parent(old) as (old_parent, old_name), self.parent(new) as (new_parent, new_name):
            await self.vfs.rename(old_parent, old_name, new_parent, new_name, flags)

    async def link(self, old: str, new: str) -> None:
        async with self.at(old) as inode, self.parent(new) as (parent, name):
            linked = await self.vfs.link(inode.number, parent, name)
            self.vfs.forget([(linked.number, 1)])

    def at_rest(self) -> None:
        """Assert that nothing is held by anybody any more."""
        self.vfs.check_invariants()
        assert len(self.c.handles) == 0
        assert self.c.staging.in_memory == 0
        assert self.c.staging.used == 0
        assert not self.c.readers.in_flight
        assert [inode for inode in self.c.table if not inode.lives_here] == []
        numbers = {inode.number for inode in self.c.table}
        self.c.namespace.listings.check_invariants(numbers)
        assert not self.c.namespace.listings._begun
        assert not self.c.namespace._asking
