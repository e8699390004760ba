"""pyfuse3 on the one side, `Vfs` on the other; a protocol adapter and nothing else.

1. pyfuse3 ends the whole mount when a handler raises anything but `FUSEError`:
   so every handler goes through one decorator that turns any error into an
   errno, and logs those that are no everyday answer.
2. A handler that is missing answers ENOSYS, and the kernel then never asks
   again: from ``flush`` that would hide every failure at close.  So none is
   inherited (tests/unit/test_fuse.py asserts it).  A read-only mount has no
   such failures, and does without the question.
"""

from __future__ import annotations

import errno
import functools
import gc
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from stores.errors import NotFound, StoreError
from stores.meta import AttributeChange
from zarrmount.attributes import PREFERRED_IO
from zarrmount.dirents import NameEntries
from zarrmount.dirstream import Entry
from zarrmount.errors import errno_of, is_expected
from zarrmount.handles import FileHandle
from zarrmount.inodes import Inode, Kind
from zarrmount.requests import PATIENCE, Waiting
from zarrmount.vfs import Vfs

__all__ = ["FuseOperations"]

log = logging.getLogger(__name__)

Params = ParamSpec("Params")
Result = TypeVar("Result")

_GARBAGE = 50_000
"""Objects made before cycles are looked for: there are few, and to look at a million inodes takes long."""
_HUGE = 1 << 50
_BLOCK = 4096


def _handler(
    function: Callable[Concatenate[FuseOperations, Params], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[FuseOperations, Params], Coroutine[Any, Any, Result]]:
    """Turn whatever a handler raises into a `FUSEError`."""

    @functools.wraps(function)
    async def guarded(operations: FuseOperations, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        operations.in_progress += 1
        try:
            return await function(operations, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            number = errno_of(error)
            _log_failure(function.__name__, number, error)
            raise FUSEError(number) from error
        finally:
            operations.in_progress -= 1

    return guarded


def _log_failure(call: str, number: int, error: Exception) -> None:
    if is_expected(number):
        log.debug("%s: %s: %s", call, os.strerror(number), error)
    elif isinstance(error, OSError) or hasattr(error, "key"):
        log.error("%s failed (%s): %s", call, os.strerror(number), error)
    else:
        log.error("%s failed: a fault in zarrmount: %r", call, error, exc_info=error)


class FuseOperations(pyfuse3.Operations):
    """The handlers that pyfuse3 calls.

    Parameters
    ----------
    vfs : Vfs
        The file system.
    connected : callable, optional
        Called when the kernel has been told what this mount can do.

    Attributes
    ----------
    in_progress : int
        Requests that are being answered.
    """

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, vfs: Vfs, connected: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._vfs = vfs
        self._connected = connected
        self.in_progress = 0
        self._names = NameEntries(EntryAttributes)

    async def serve(self, most_requests: int) -> None:
        """Answer the kernel's requests, at most so many at once, until the mount ends."""
        patience = PATIENCE if self._vfs.store.near else 0.0
        gc.freeze()  # what was imported stays
        gc.set_threshold(_GARBAGE)
        vars(pyfuse3)["trio"] = Waiting(patience, lambda: self.in_progress > 0)
        await pyfuse3.main(min_tasks=1, max_tasks=most_requests)

    # -- names ---------------------------------------------------------------------------------

    @_handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            return self._entry(await self._vfs.lookup(parent_inode, os.fsdecode(name)))
        except NotFound:
            return self._negative_entry(self._vfs.absence(parent_inode, os.fsdecode(name)))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        try:
            self._vfs.forget(list(inode_list))
        except Exception as error:  # noqa: BLE001 (pyfuse3 would end the mount)
            _log_failure("forget", errno.EIO, error)

    @_handler
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._vfs.getattr(inode))

    @_handler
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        change = AttributeChange(
            mode=attr.st_mode & 0o7777 if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        size = attr.st_size if fields.update_size else None
        return self._entry(await self._vfs.setattr(inode, change, size))

    @_handler
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return os.fsencode(await self._vfs.readlink(inode))

    @_handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(
            await self._vfs.make_node(parent_inode, os.fsdecode(name), mode, rdev, _owner(ctx))
        )

    @_handler
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(await self._vfs.make_dir(parent_inode, os.fsdecode(name), mode, _owner(ctx)))

    @_handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._vfs.unlink(parent_inode, os.fsdecode(name))

    @_handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._vfs.remove_dir(parent_inode, os.fsdecode(name))

    @_handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(
            await self._vfs.symlink(parent_inode, os.fsdecode(name), os.fsdecode(target), _owner(ctx))
        )

    @_handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        old, new = (parent_inode_old, name_old), (parent_inode_new, name_new)
        try:
            await self._vfs.rename(old[0], os.fsdecode(name_old), new[0], os.fsdecode(name_new), flags)
        except StoreError:
            # It may have taken place in part: the kernel must not go on with what had these names.
            for parent, name in (old, new):
                pyfuse3.invalidate_entry_async(parent, name, ignore_enoent=True)
            raise

    @_handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(await self._vfs.link(inode, new_parent_inode, os.fsdecode(new_name)))

    @_handler
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return True  # the kernel has checked (default_permissions)

    # -- files ---------------------------------------------------------------------------------

    @_handler
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        handle = await self._vfs.open(inode, flags)
        pushed = not flags & os.O_DIRECT and self._push(handle)
        return FileInfo(fh=handle.number, keep_cache=self._vfs.keeps_pages(handle.inode) or pushed)

    def _push(self, handle: FileHandle) -> bool:
        """Give the kernel the pages of a small file, which then need not be read; tell whether it has them.

        The kernel waits for a page that is being read, and whoever reads it waits for us: that does
        not happen, since there is no other handle, and there are no pages yet.
        """
        data = self._vfs.pages_to_push(handle)
        if not data:
            return False
        try:
            pyfuse3.notify_store(handle.inode.number, 0, data)
        except OSError as error:
            log.debug("the kernel did not take the pages of %r: %s", handle.inode, error)
            return False
        return True

    @_handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        inode, handle = await self._vfs.create(parent_inode, os.fsdecode(name), mode, flags, _owner(ctx))
        return FileInfo(fh=handle.number, keep_cache=False), self._entry(inode)

    @_handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._vfs.files.read(self._vfs.handle(fh), off, size)

    @_handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._vfs.files.write(self._vfs.handle(fh), off, buf)

    @_handler
    async def flush(self, fh: int) -> None:
        if self._vfs.store.read_only:
            raise FUSEError(errno.ENOSYS)  # nothing is ever to be stored: the kernel need not ask again
        await self._vfs.files.close(self._vfs.handle(fh))

    @_handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._vfs.files.fsync(self._vfs.handle(fh).inode)

    @_handler
    async def release(self, fh: int) -> None:
        await self._vfs.files.release(fh)

    @_handler
    async def poll(
        self, inode: int, fh: int, poll_handle: pyfuse3.PollHandle | None, ctx: RequestContext
    ) -> int:
        raise FUSEError(errno.ENOSYS)  # regular files are always ready: the kernel then says so itself

    # -- directories ---------------------------------------------------------------------------

    @_handler
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return self._vfs.directories.open(self._vfs.directory(inode)).number

    @_handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directories = self._vfs.directories
        directory = directories.inode(fh)
        position = start_id
        for position, name, inode in ((0, b".", directory), (1, b"..", directory.parent or directory)):
            if start_id <= position and not pyfuse3.readdir_reply(
                token, name, self._entry(inode), position + 1
            ):
                return
        position = max(start_id, 2)
        while True:
            entry = directories.listed(fh, position - 2) or await directories.entry(fh, position - 2)
            position += 1
            if entry is None or not self._tell_entry(token, fh, entry, position):
                return

    def _tell_entry(self, token: pyfuse3.ReaddirToken, fh: int, entry: Entry, next_position: int) -> bool:
        """Give the kernel one entry, unless it is gone; return False if there is no room for it."""
        directories, name = self._vfs.directories, os.fsencode(entry.name)
        kind = directories.only_named(fh, entry)
        only_name = self._names.entry(kind) if kind else None
        if only_name is not None:
            return pyfuse3.readdir_reply(token, name, only_name, next_position)
        inode = directories.inode_of(fh, entry)
        if inode is None:
            return True
        if not pyfuse3.readdir_reply(token, name, self._entry(inode), next_position):
            directories.drop(inode)
            return False
        self._vfs.remember(inode)
        return True

    @_handler
    async def releasedir(self, fh: int) -> None:
        await self._vfs.directories.release(fh)

    @_handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._vfs.directories.sync(fh)

    # -- the rest ------------------------------------------------------------------------------

    @_handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        usage = await self._vfs.usage()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK
        data.f_namemax = 255
        if usage is None:
            data.f_blocks = data.f_bfree = data.f_bavail = _HUGE // _BLOCK
            data.f_files = data.f_ffree = data.f_favail = _HUGE
        else:
            data.f_blocks = usage.total_bytes // _BLOCK
            data.f_bfree = usage.free_bytes // _BLOCK
            data.f_bavail = usage.available_bytes // _BLOCK
            data.f_files = usage.total_files
            data.f_ffree = data.f_favail = usage.free_files
        return data

    @_handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        raise FUSEError(errno.ENOTSUP)

    @_handler
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        raise FUSEError(errno.ENOTSUP)

    @_handler
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        return os.fsencode(await self._vfs.xattrs.get(self._vfs.inode(inode), os.fsdecode(name)))

    @_handler
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return [os.fsencode(name) for name in await self._vfs.xattrs.all(self._vfs.inode(inode))]

    def init(self) -> None:
        """Shake hands with the kernel; the answer is sent when this has returned."""
        if self._connected is not None:
            trio.lowlevel.current_trio_token().run_sync_soon(self._connected)

    def stacktrace(self) -> None:
        """Log that somebody set the ``fuse_stacktrace`` attribute; there is nothing to trace here."""
        log.warning("fuse_stacktrace was set")

    # -- answers -------------------------------------------------------------------------------

    def _entry(self, inode: Inode) -> EntryAttributes:
        entry = EntryAttributes()
        (
            entry.st_ino,
            entry.st_mode,
            entry.st_nlink,
            entry.st_uid,
            entry.st_gid,
            entry.st_rdev,
            entry.st_size,
            entry.st_blocks,
            entry.st_atime_ns,
            entry.st_mtime_ns,
            entry.st_ctime_ns,
        ) = self._vfs.attributes(inode)
        entry.st_blksize = PREFERRED_IO
        validity = self._vfs.validity(inode)
        entry.entry_timeout = validity
        entry.attr_timeout = 0 if inode.kind is Kind.SPECIAL else validity
        return entry

    def _negative_entry(self, validity: float) -> EntryAttributes:
        """Return what tells the kernel that a name is not there, and for how long that holds."""
        if validity <= 0:
            raise FUSEError(errno.ENOENT)
        entry = EntryAttributes()
        entry.st_ino = 0
        entry.entry_timeout = validity
        entry.st_mtime_ns = time.time_ns()
        return entry


def _owner(ctx: RequestContext) -> tuple[int, int]:
    return ctx.uid, ctx.gid
