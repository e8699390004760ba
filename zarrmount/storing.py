"""How written bytes come into the store: at ``close`` and ``fsync``, by a rename, or a while later.

1. `Storing.store` returns when the store has the bytes, and raises when it does not.
2. A closed file may wait (see `zarrmount.objects.writeback`) in two cases only.  A new file with a
   temporary name waits some seconds for its rename, on a store that cannot rename: it is put once,
   under its final name.  With write-back every closed file waits, after its bytes and an entry in
   the journal have been fsynced.
3. After an upload that failed nothing waits: the next ``close`` stores, or tells why it cannot.
4. An entry goes from the journal when the store has acknowledged it, or what was deleted is gone;
   a rename changes its key in one step.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Collection

import trio

from stores.errors import Unavailable
from stores.meta import AttributeChange, ObjectMeta
from zarrmount.context import Context
from zarrmount.errors import deadline
from zarrmount.inodes import Inode
from zarrmount.objects.journal import Entry, Journal
from zarrmount.objects.staging import DELETED
from zarrmount.objects.upload import Uploader
from zarrmount.objects.writeback import Writeback
from zarrmount.temporary import is_temporary

__all__ = ["Storing", "has_writer", "maybe_stored"]

log = logging.getLogger(__name__)

_UNKNOWN = b"?"
"""In place of a digest: something may have been sent by a process that has died."""


class Storing:
    """What brings the staged files of one mounted tree into the store.

    Parameters
    ----------
    context : Context
        The tree.
    journal : Journal or None
        Where closed files are kept that wait; needed for write-back.
    """

    def __init__(self, context: Context, journal: Journal | None) -> None:
        self._c = context
        self._journal = journal
        self.uploader = Uploader(context.store, context.settings)
        self.waiting = Writeback(self._store_if_closed)
        context.staging.relieve = self._relieve

    # -- at once -------------------------------------------------------------------------------

    async def store(self, inode: Inode) -> None:
        """Store a dirty file; when it returns the bytes are in the store.

        Raises
        ------
        StoreError
            If they could not be stored; they are kept, and the file stays dirty.
        """
        if inode.unlinked or not inode.dirty:
            return
        async with self._c.shape.shared(), inode.lock:
            await self.store_locked(inode)
        self.settle(inode)

    async def fsync(self, inode: Inode) -> None:
        """Store a dirty file so that it would survive a power loss."""
        await self.store(inode)
        if not inode.unlinked:
            with deadline(self._c.settings.write_timeout, inode.key):
                await self._c.store.sync(inode.key)

    async def store_locked(self, inode: Inode) -> None:
        """Store a dirty file under its own key (shape and lock held)."""
        staged = inode.staged
        if staged is not None and staged.modified and not inode.unlinked:
            await self.store_as(inode, inode.key, staged.base)

    async def store_as(
        self, inode: Inode, key: str, base: ObjectMeta | None, *, whatever_is_there: bool = False
    ) -> ObjectMeta:
        """Store staged bytes under a key, in place of the version `base` (shape and lock held)."""
        staged = inode.staged
        assert staged is not None
        older_is_kept = await self._about_to_replace_kept(inode, key)
        meta = await self.uploader.upload(inode, key, base, whatever_is_there=whatever_is_there)
        if older_is_kept:
            await self._forget_or_fail(inode, key)
        if meta.mtime_ns is None and self._c.store.capabilities.versions:  # a listing will tell about this
            meta = dataclasses.replace(meta, mtime_ns=time.time_ns() // 10**9 * 10**9)
        staged.modified = False
        staged.anyway = False
        staged.base = meta
        await self._stored(inode, key, meta)
        try:
            await self.forget(key)
        except OSError as error:
            log.warning("%r is stored, but the journal cannot take note of it: %s", key, error)
        return meta

    async def store_second(self, inode: Inode, key: str) -> ObjectMeta | None:
        """Store staged bytes under a second key, which must be new (shape held); None if there are none.

        Raises
        ------
        AlreadyExists
            If there is such a key.
        """
        async with inode.lock:
            return await self.uploader.put_second(inode, key) if inode.dirty else None

    async def _stored(self, inode: Inode, key: str, meta: ObjectMeta) -> None:
        """Take note that a file's bytes are in the store under a key, as `meta` says."""
        explicit = inode.explicit_times
        inode.upload_error = None
        inode.exclusive = False
        mode, uid, gid, atime, mtime = inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns
        inode.forget_local_attributes()
        inode.meta = meta
        if not self._c.store.capabilities.posix:
            inode.mode, inode.uid, inode.gid = mode, uid, gid
            if explicit:
                inode.atime_ns, inode.mtime_ns = atime, mtime
            self._c.namespace.remember_attributes(inode)
        inode.expires = trio.current_time() + self._c.settings.metadata_ttl
        if inode.parent is not None and key == inode.key:  # else it is being renamed
            self._c.namespace.stored(inode.parent, inode.name, meta)
            self.no_longer_kept(inode.parent)
        await self._drop_readers(inode)

    # -- a while later -------------------------------------------------------------------------

    async def close(self, inode: Inode) -> None:
        """Do what a ``close(2)`` of a descriptor that could write must.

        When it returns the bytes are in the store, or the file is one of those that may wait.
        """
        if inode.unlinked or not inode.dirty:
            return
        seconds = self._may_wait(inode)
        if seconds is None:
            await self.store(inode)
            return
        async with self._c.shape.shared(), inode.lock:
            staged = inode.staged
            if staged is None or not staged.modified or inode.unlinked:
                return
            if self._c.settings.writeback is not None and not await self._keep(inode, inode.key):
                await self.store_locked(inode)
            elif not (staged.finished and inode in self.waiting):
                staged.finished = True
                self.waiting.park(inode, seconds)
        self.settle(inode)

    def _may_wait(self, inode: Inode) -> float | None:
        """Return for how many seconds a closed file may wait, None if it must be stored at once."""
        settings = self._c.settings
        if not self.waiting.running or inode.upload_error is not None:
            return None
        new = inode.meta is None and not maybe_stored(inode)
        temporary = new and is_temporary(inode.name)
        if settings.writeback is not None:
            # Whether a file that was to be made exclusively came first must be known at its close.
            return None if inode.exclusive and not temporary else settings.writeback
        if temporary and settings.rename_wait > 0 and not self._c.store.capabilities.rename:
            return settings.rename_wait
        return None

    def waits_for_rename(self, inode: Inode) -> bool:
        """Whether a file is closed and not in the store under any name yet."""
        return inode in self.waiting and inode.dirty and inode.meta is None and not maybe_stored(inode)

    async def _store_if_closed(self, inode: Inode) -> None:
        """Store a file that waited, unless somebody wrote to it again, stored or deleted it."""
        async with self._c.shape.shared(), inode.lock:
            if inode.staged is None or not inode.staged.finished:
                return
            await self.store_locked(inode)
        self.settle(inode)
        self._c.table.collect(inode)

    def _relieve(self) -> None:
        """Make room for who waits to write: store what can be stored, drop what the store has."""
        self.waiting.hasten()
        for handle in self._c.handles:
            self.drop_clean(handle.inode)

    # -- the journal ---------------------------------------------------------------------------

    async def _keep(self, inode: Inode, key: str, *, instead_of: str | None = None) -> bool:
        """Let the journal keep the staged bytes under a key; False if it could not (lock held)."""
        if self.is_kept(inode, key):
            return True
        staged, journal = inode.staged, self._journal
        assert staged is not None
        assert journal is not None
        try:
            if staged.kept_as is None:
                await staged.keep(journal.new_data())
            await self._record(inode, key, instead_of)
        except OSError as error:
            log.warning("%r is stored at once, because the journal cannot keep it: %s", key, error)
            return False
        return True

    async def _record(self, inode: Inode, key: str, instead_of: str | None = None) -> None:
        staged, journal = inode.staged, self._journal
        assert staged is not None
        assert staged.kept_as is not None
        assert journal is not None
        entry = Entry(
            key=key,
            size=staged.size,
            data=staged.kept_as.name,
            base=staged.base,
            anyway=staged.anyway,
            sent=tuple(sorted(digest.hex() for digest in staged.sent.get(key, ()))),
            attributes=AttributeChange(inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns),
            closed_ns=time.time_ns(),
        )
        await trio.to_thread.run_sync(lambda: journal.record(entry, instead_of=instead_of))

    async def attributes_changed(self, inode: Inode) -> None:
        """Let the journal know attributes that were changed after a file was closed (lock held)."""
        if self.is_kept(inode, inode.key):
            await self._record(inode, inode.key)

    async def about_to_delete(self, inode: Inode, key: str) -> None:
        """Let the journal know that the store is going to delete an object of which it keeps newer bytes.

        The mount after a crash then knows that it may be gone, and that nobody else has deleted it.
        """
        if not self.is_kept(inode, key):
            return
        assert inode.staged is not None
        inode.staged.sent.setdefault(key, set()).add(DELETED)
        try:
            await self._record(inode, key)
        except OSError as error:
            log.warning("the journal cannot take note that %r is being deleted: %s", key, error)

    async def _about_to_replace_kept(self, inode: Inode, key: str) -> bool:
        """Let the journal know if the store is going to have later bytes than those that it keeps.

        They are no other's, if a crash comes before the caller is told that they are stored.
        """
        journal, staged = self._journal, inode.staged
        entry = journal.entries.get(key) if journal is not None else None
        if journal is None or staged is None or entry is None or self.is_kept(inode, key):
            return False
        sent = tuple(sorted({*entry.sent, (await staged.digest()).hex()}))
        warned = dataclasses.replace(entry, sent=sent)
        try:
            await trio.to_thread.run_sync(journal.record, warned)
        except OSError as error:
            log.warning("the journal cannot take note that %r is being replaced: %s", key, error)
        return True

    async def _forget_or_fail(self, inode: Inode, key: str) -> None:
        """Take older bytes than those that the store has now off the journal: they must not come back."""
        try:
            await self.forget(key)
        except OSError as error:
            inode.upload_error = Unavailable(
                "it is stored, but a crash would bring back older bytes, which the journal cannot let go of:"
                f" {error.strerror or error}",
                key=key,
                os_errno=error.errno,
            )
            log.error("%s", inode.upload_error)
            raise inode.upload_error from error

    async def move_kept(self, inode: Inode, new_key: str, replaces: ObjectMeta | None) -> bool:
        """With write-back: let a file that the store never had be kept under another key.

        It is going to replace what is there, which is probably `replaces`.  The shape and its lock
        are held.

        Returns
        -------
        bool
            False if this is no such file, or the journal could not do it: nothing has changed then.
        """
        seconds, staged = self._c.settings.writeback, inode.staged
        new = inode.meta is None and not maybe_stored(inode)
        if seconds is None or staged is None or not (new and inode.dirty and self.waiting.running):
            return False
        if inode.upload_error is not None:
            return False
        staged.anyway, staged.base = True, replaces
        if not await self._keep(inode, new_key, instead_of=inode.key):
            staged.anyway, staged.base = False, None
            return False
        staged.finished = True
        self.waiting.park(inode, seconds)
        return True

    async def forget(self, key: str) -> None:
        """Take a key off the journal: the store has it, or it is gone.

        Raises
        ------
        OSError
            If the journal cannot be written.
        """
        journal = self._journal
        if journal is not None and (key in journal.entries or key in journal.damaged):
            await trio.to_thread.run_sync(journal.drop, key)

    def is_kept(self, inode: Inode, key: str) -> bool:
        """Whether the journal has all of a dirty file under a key, so that it outlives this process."""
        if self._journal is None or inode.staged is None or inode.staged.kept_as is None:
            return False
        entry = self._journal.entries.get(key)
        return entry is not None and entry.data == inode.staged.kept_as.name

    def resume(self, keys: Collection[str] | None = None) -> None:
        """Take up as dirty files what the journal keeps (of some keys only, if they are given).

        They are stored as soon as that can be.
        """
        journal = self._journal
        for entry in list(journal.entries.values()) if journal is not None else []:
            assert journal is not None
            if keys is not None and entry.key not in keys:
                continue
            try:
                staged = self._c.staging.adopt(journal.directory / entry.data, entry.size)
            except OSError as error:
                log.error("%r waits in the journal and cannot be read: %s", entry.key, error)
                continue
            staged.base, staged.anyway, staged.finished = entry.base, entry.anyway, True
            staged.sent[entry.key] = {_UNKNOWN, *map(bytes.fromhex, entry.sent)}
            inode = self._c.table.plant(entry.key)
            inode.staged = staged
            attributes = entry.attributes
            inode.mode, inode.uid, inode.gid = attributes.mode, attributes.uid, attributes.gid
            inode.atime_ns, inode.mtime_ns = attributes.atime_ns, attributes.mtime_ns
            self.waiting.park(inode, 0.0)

    # -- afterwards ----------------------------------------------------------------------------

    def settle(self, inode: Inode) -> None:
        """Drop staged bytes that the store has too, once nobody could write to them any more."""
        if not has_writer(inode):
            self.drop_clean(inode)

    def drop_clean(self, inode: Inode) -> None:
        """Drop staged bytes that the store has too, or that nobody can reach any more."""
        staged = inode.staged
        if staged is None or (staged.modified and not inode.unlinked) or inode.is_locked:
            return
        if inode.unlinked and inode.handles:
            return
        staged.close()
        inode.staged = None

    async def follow(self, inode: Inode) -> None:
        """Let open handles go on with an object whose version changed and whose bytes did not."""
        if inode.staged is not None:
            inode.staged.base = inode.meta
        await self._drop_readers(inode)

    async def _drop_readers(self, inode: Inode) -> None:
        for handle in list(inode.handles):
            if handle.reader is not None:
                reader, handle.reader = handle.reader, None
                await reader.aclose()

    def no_longer_kept(self, directory: Inode) -> None:
        """Take note that a key below a directory is in the store: so the directory is, too."""
        node: Inode | None = directory if self._c.store.capabilities.listable else None
        while node is not None and node.parent is not None:
            if node.kept:
                self._c.namespace.directory_stored(node)
            node = node.parent


def has_writer(inode: Inode) -> bool:
    """Whether somebody has a file open who could write to it."""
    return any(handle.writable for handle in inode.handles)


def maybe_stored(inode: Inode) -> bool:
    """Tell whether the store may have an object under the key of an inode that is not its `meta`."""
    staged = inode.staged
    return staged is not None and (staged.anyway or inode.key in staged.sent)
