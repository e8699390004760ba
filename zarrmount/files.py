"""What the calls on open files mean: open, read, write, flush, fsync, release, truncate.

A file is *clean* (its bytes are the store's, read through a handle's reader) or
*staged* (its bytes are here).  Everybody who has it open sees the staged bytes.
It becomes staged with its first write or truncation, and stays so, unmodified,
while somebody could write again; then it is clean again.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from contextlib import AbstractAsyncContextManager

import trio

from stores.errors import NotFound, Precondition, ReadOnly, StoreError
from zarrmount.context import Context
from zarrmount.errors import deadline, os_error
from zarrmount.handles import FileHandle
from zarrmount.inodes import NO_VERSION, Inode, Kind
from zarrmount.objects.reader import Reader
from zarrmount.objects.staging import StagedObject
from zarrmount.storing import Storing, has_writer

__all__ = ["Files"]

log = logging.getLogger(__name__)

_COPY_STEP = 8 << 20
_FRESH = 0.1
"""Seconds for which what the store said is taken to be what it would say now."""


class Files:
    """The calls on open files of one mounted tree."""

    def __init__(self, context: Context, storing: Storing) -> None:
        self._c = context
        self._storing = storing

    # -- opening and closing -------------------------------------------------------------------

    async def open(self, inode: Inode, flags: int) -> FileHandle:
        """Open a file.

        Raises
        ------
        OSError
            EISDIR for a directory; ESTALE for a file that was removed this moment, upon which the
            kernel looks the name up again.
        ReadOnly
            For writing, on a read-only store.
        """
        if inode.is_dir:
            raise os_error(errno.EISDIR)
        access = flags & os.O_ACCMODE
        writable = access in (os.O_WRONLY, os.O_RDWR)
        if (writable or flags & os.O_TRUNC) and self._c.store.read_only:
            raise ReadOnly("the store is read-only", key=inode.key)
        while inode.going is not None:
            await inode.going.wait()
        if inode.unlinked and inode.staged is None:
            raise os_error(errno.ESTALE)
        handle = self._c.handles.add_file(
            inode, readable=access != os.O_WRONLY, writable=writable, append=bool(flags & os.O_APPEND)
        )
        if inode.staged is None and not writable:
            self._c.lookups.opened(inode.key)
        try:
            if flags & os.O_TRUNC:
                await self._look_what_it_replaces(inode)
                if inode.size or inode.dirty:
                    await self.truncate(inode, 0)
        except BaseException:
            await self._close(handle)
            raise
        return handle

    async def _look_what_it_replaces(self, inode: Inode) -> None:
        """Let a file that is opened to be written anew replace what is in the store at this moment.

        What was known of it may be as old as the time to live; and after a conflict with somebody
        else's change this is how the caller says that it is to be overwritten.
        """
        conflict = isinstance(inode.upload_error, Precondition)
        asked_at = inode.expires - self._c.settings.metadata_ttl
        known_now = trio.current_time() - asked_at < _FRESH
        if inode.unlinked or not (conflict or (inode.staged is None and inode.meta is not None)):
            return
        if not conflict and (known_now or not self._c.store.capabilities.replace_if_version):
            return
        async with self._c.shape.shared(), inode.lock:
            with deadline(self._c.settings.read_timeout, inode.key):
                try:
                    meta = await self._c.store.head(inode.key)
                except NotFound:
                    meta = None
            if inode.staged is not None:
                inode.staged.base = meta
                inode.upload_error = None
            elif meta is None:
                self._c.namespace.doubt(inode)
                raise os_error(errno.ESTALE)  # upon which the kernel looks it up again
            else:
                self._c.namespace.absorb_object(inode, meta)
                inode.expires = trio.current_time() + self._c.settings.metadata_ttl

    def stage_empty(self, inode: Inode) -> None:
        """Let a new inode be an empty file that the store does not have yet."""
        inode.staged = self._c.staging.new()
        inode.staged.modified = True
        inode.mtime_ns = inode.ctime_ns = time.time_ns()

    def open_new(self, inode: Inode, flags: int) -> FileHandle:
        """Open a file that was made this moment; it is stored when it is closed."""
        access = flags & os.O_ACCMODE
        inode.exclusive = bool(flags & os.O_EXCL)
        inode.pages_version = NO_VERSION
        return self._c.handles.add_file(
            inode,
            readable=access != os.O_WRONLY,
            writable=access in (os.O_WRONLY, os.O_RDWR),
            append=bool(flags & os.O_APPEND),
        )

    async def release(self, number: int) -> None:
        """Let go of a handle.  Whatever could not be stored at its close stays dirty.

        Bytes that came after the last close, from a mapping that outlived it, are stored now.
        """
        handle = self._c.handles.file(number)
        inode = handle.inode
        try:
            if handle.writable and inode.dirty and inode.upload_error is None:
                await self._storing.close(inode)
        except StoreError as error:
            log.debug("nobody is left to hear that %s", error)  # it was logged where it happened
        finally:
            await self._close(handle)

    async def _close(self, handle: FileHandle) -> None:
        self._c.handles.remove_file(handle.number)
        inode = handle.inode
        self._storing.settle(inode)
        try:
            if handle.reader is not None:
                await handle.reader.aclose()
        finally:
            self._c.table.collect(inode)

    async def close(self, handle: FileHandle) -> None:
        """Do what a ``close(2)`` of one of its descriptors must: see `Storing.close`."""
        if handle.writable:
            await self._storing.close(handle.inode)

    async def fsync(self, inode: Inode) -> None:
        """Store a dirty file so that it would survive a power loss."""
        await self._storing.fsync(inode)

    # -- bytes ---------------------------------------------------------------------------------

    async def read(self, handle: FileHandle, offset: int, size: int) -> bytes:
        """Return the bytes ``[offset, offset + size)`` of an open file, fewer only at its end."""
        inode = handle.inode
        while inode.staged is None:
            key, meta = inode.key, inode.meta
            try:
                data = self.read_now(handle, offset, size)
                return data if data is not None else await self._read_stored(handle, offset, size)
            except (NotFound, Precondition) as error:
                # Was it renamed, removed or stored anew here, while it was being read?
                async with self._c.shape.shared(), inode.lock:
                    if inode.staged is None and inode.key == key and inode.meta == meta:
                        raise _stale(error, key) from error
        return await inode.staged.read(offset, size)

    def read_now(self, handle: FileHandle, offset: int, size: int) -> bytes | None:
        """Return stored bytes if neither the store nor anybody else has to be waited for, else None.

        Raises
        ------
        StoreError
            As the store says; it may not be true any more when those are done who change the file.
        """
        if handle.reader is None:
            inode = handle.inode
            if self._c.shape.taken or handle.is_opening or inode.kind is not Kind.FILE:
                return None
            if inode.unlinked or inode.meta is None:
                return None
            handle.reader = self._c.readers.open_now(self._c.store, inode.key, inode.meta)
            if handle.reader is None:
                return None
        return handle.reader.read_now(offset, size)

    async def _read_stored(self, handle: FileHandle, offset: int, size: int) -> bytes:
        reader = handle.reader
        if reader is None:
            async with self._c.shape.shared():
                reader = await self._reader(handle)
        if handle.inode.staged is not None:  # it was written to while the reader was being opened
            return await handle.inode.staged.read(offset, size)
        return await reader.read(offset, size)

    async def write(self, handle: FileHandle, offset: int, data: bytes) -> int:
        """Write to an open file; the bytes are staged when it returns."""
        inode = handle.inode
        _check_not_replaced(inode)
        end = (inode.size if handle.append else offset) + len(data)
        async with self._room(inode, max(end, inode.size)):
            while inode.staged is None:
                async with self._c.shape.shared(), inode.lock:
                    await self._staged(inode)
            async with inode.lock:
                staged = inode.staged
                await staged.write(staged.size if handle.append else offset, data)
        inode.explicit_times = False
        inode.mtime_ns = inode.ctime_ns = time.time_ns()
        return len(data)

    async def truncate(self, inode: Inode, size: int) -> None:
        """Cut or extend a file; with nobody to close it later, it is stored at once."""
        _check_not_replaced(inode)
        async with self._room(inode, size), self._c.shape.shared(), inode.lock:
            was_clean = inode.staged is None
            staged = await self._staged(inode, keep=size)
            if size != staged.size:
                await staged.truncate(size)
            inode.explicit_times = False
            inode.mtime_ns = inode.ctime_ns = time.time_ns()
            if not has_writer(inode):
                try:
                    await self._storing.store_locked(inode)
                except StoreError:
                    if was_clean:  # the caller learns of it, and nobody else wrote anything
                        self._revert(inode)
                    raise
        self._storing.settle(inode)

    def _room(self, inode: Inode, size: int) -> AbstractAsyncContextManager[None]:
        """Wait, before any lock is taken, until there is room for a file to be of such a size."""
        held = inode.staged.size if inode.staged is not None else 0
        return self._c.staging.room(inode, size - held)

    def _revert(self, inode: Inode) -> None:
        """Let a file be again what the store has."""
        assert inode.staged is not None
        inode.staged.close()
        inode.staged = None
        inode.upload_error = None
        inode.forget_local_attributes()
        self._c.namespace.doubt(inode)

    async def _staged(self, inode: Inode, keep: int | None = None) -> StagedObject:
        """Return the staged bytes of a file (shape and lock held), loaded from the store if clean.

        With `keep`, only so many bytes of it are wanted.
        """
        if inode.staged is not None:
            return inode.staged
        staged = self._c.staging.new()
        try:
            if inode.meta is not None:
                staged.base = inode.meta
                await self._load(inode, staged, keep)
        except BaseException:
            staged.close()
            raise
        inode.staged = staged
        return staged

    async def _load(self, inode: Inode, staged: StagedObject, keep: int | None) -> None:
        if keep == 0:
            staged.modified = staged.base is not None and staged.base.size > 0
            return
        reader, temporary = await self._any_reader(inode)
        try:
            whole = reader.meta.size
            size = whole if keep is None else min(keep, whole)
            for offset in range(0, size, _COPY_STEP):
                await staged.write(offset, await reader.read(offset, min(_COPY_STEP, size - offset)))
            staged.base = reader.meta
            staged.modified = size < whole
        finally:
            if temporary:
                await reader.aclose()

    async def _any_reader(self, inode: Inode) -> tuple[Reader, bool]:
        """Return a reader of a file that some handle has, else a new one (True); shape held."""
        for handle in inode.handles:
            if handle.reader is not None:
                return handle.reader, False
        return await self._open_reader(inode), True

    async def _reader(self, handle: FileHandle) -> Reader:
        """Return the reader of a handle (shape held)."""
        if handle.reader is None:
            async with handle.opening:
                if handle.reader is None:
                    handle.reader = await self._open_reader(handle.inode)
        return handle.reader

    async def _open_reader(self, inode: Inode) -> Reader:
        if inode.kind is not Kind.FILE:
            raise os_error(errno.EINVAL)
        meta = inode.meta
        if inode.unlinked or meta is None:
            raise NotFound("it was deleted while it was open", key=meta.key if meta else None)
        key, store = inode.key, self._c.store
        await self._c.lookups.arrived(key)
        return await self._c.readers.open(store, key, meta)

    async def outlive(self, inode: Inode) -> None:
        """See to it that open handles can go on reading a file whose object is about to go.

        The shape and its lock are held.
        """
        if not inode.handles:
            return
        if inode.staged is not None:
            inode.staged.hold()
            return
        if inode.meta is None:
            return
        if self._c.store.capabilities.snapshot_reads:
            for handle in list(inode.handles):
                await self._reader(handle)
            return
        await self._staged(inode)


def _check_not_replaced(inode: Inode) -> None:
    if inode.replaced and inode.staged is None:
        raise Precondition(
            "somebody else stored it since it was opened", key=inode.meta.key if inode.meta else None
        )


def _stale(error: StoreError, key: str) -> Precondition:
    """Return what a reader is told whose object changed or went: never that there is no such file."""
    if isinstance(error, Precondition):
        return error
    return Precondition("it was deleted since it was opened", key=key)
