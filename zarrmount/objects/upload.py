"""Storing what was staged, so that success means that the bytes are in the store.

1. A put replaces the version that was opened, where the store can do so, or
   creates only if absent: what somebody else stored in between is not lost but
   reported (ESTALE), unless the mount was told to overwrite.
2. A request that failed on the way is tried again until the deadline.  It may
   have arrived all the same, and a conditional put then finds its own bytes in
   the way: so before a conflict is reported the bytes are compared.  (Not for a
   file made with O_EXCL of which nothing was sent before: an equal one is then
   somebody else's, who made it first.)  What was sent by an earlier close, that
   failed, is known by its digest, and is replaced: it is no conflict either.
3. On failure everything stays: the staged bytes, the inode's being dirty, and
   the error, which the next ``close`` or ``fsync`` meets again if it persists.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from stores.base import Store
from stores.errors import AlreadyExists, NotFound, Precondition, StoreError, Unavailable, Unsupported
from stores.meta import AttributeChange, Body, ObjectMeta
from zarrmount.objects.spool import close_body, digest_of
from zarrmount.objects.staging import DELETED

if TYPE_CHECKING:
    from zarrmount.inodes import Inode
    from zarrmount.settings import TreeSettings

__all__ = ["Uploader"]

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_STEP = 8 << 20
_MOST_CHANGES = 5
"""How often something else may be there than a moment ago, before it is replaced on no condition."""
_SLOWEST = 1 << 20
"""Bytes for which an upload is given another second."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What is to be stored, as it was staged; `size` in bytes."""

    body: Body
    size: int
    attributes: AttributeChange


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """Under which key and on which condition it is to be stored.

    Attributes
    ----------
    replaces : ObjectMeta or None
        The version that it may replace; None: it may only create.
    exclusive : bool
        Made with O_EXCL: whoever came first has it.
    anyway : bool
        Whatever else is there is to be replaced, too.
    sent : set of bytes
        Digests of what was sent under the key and not acknowledged (see `StagedObject`).
    """

    key: str
    replaces: ObjectMeta | None
    exclusive: bool
    anyway: bool
    sent: set[bytes]


class Uploader:
    """Stores staged files, as many at once as the store takes connections.

    Parameters
    ----------
    store : Store
        Where to.
    settings : TreeSettings
        For the deadline, and what to do with conflicts.

    Attributes
    ----------
    retrying : dict
        Keys whose last put failed on the way and that are tried again, each with the reason.
    """

    def __init__(self, store: Store, settings: TreeSettings) -> None:
        self.retrying: dict[str, str] = {}
        self._store = store
        self._settings = settings
        self._can_create_only = store.capabilities.create_if_absent
        self._can_replace_only = store.capabilities.replace_if_version

    async def upload(
        self, inode: Inode, key: str, base: ObjectMeta | None, *, whatever_is_there: bool = False
    ) -> ObjectMeta:
        """Store the staged bytes of `inode` (its lock held) under `key`, in place of `base`.

        Raises
        ------
        StoreError
            What the store said last; the staged bytes are then as they were.
        """
        staged = inode.staged
        assert staged is not None
        order = _Order(
            key=key,
            replaces=base,
            exclusive=inode.exclusive and not whatever_is_there,
            anyway=whatever_is_there
            or staged.anyway
            or (self._settings.overwrite_conflicts and not inode.exclusive),
            sent=staged.sent.setdefault(key, set()),
        )
        try:
            meta = await self._send(inode, order)
        except StoreError as error:
            if inode.upload_error is None or str(inode.upload_error) != str(error):
                log.error("could not store %s; its bytes are kept and will be tried again", error)
            inode.upload_error = error
            raise
        else:
            staged.sent.pop(key, None)
            return meta
        finally:
            if not order.sent:
                staged.sent.pop(key, None)

    async def put_second(self, inode: Inode, key: str) -> ObjectMeta:
        """Store the staged bytes of `inode` (its lock held) also under another key, which must be new.

        Raises
        ------
        AlreadyExists
            If there is an object under that key.
        StoreError
            What the store said last.
        """
        order = _Order(key=key, replaces=None, exclusive=True, anyway=False, sent=set())
        return await self._send(inode, order)

    async def _send(self, inode: Inode, order: _Order) -> ObjectMeta:
        """Put the staged bytes of `inode` as it was ordered."""
        staged = inode.staged
        assert staged is not None
        content = _Content(
            body=await staged.body(),
            size=staged.size,
            attributes=AttributeChange(inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns),
        )
        try:
            return await self._put_until_stored(order, content)
        finally:
            self.retrying.pop(order.key, None)
            close_body(content.body)

    async def _put_until_stored(self, order: _Order, content: _Content) -> ObjectMeta:
        """Put until the store has it, or says no, or the time is over."""
        pause, last = _FIRST_PAUSE, None
        seconds = self._settings.write_timeout + content.size // _SLOWEST
        with trio.move_on_after(seconds):
            while True:
                try:
                    return await self._put(order, content, order.replaces)
                except Unavailable as error:
                    last = error
                    self.retrying[order.key] = error.message
                    log.warning("storing %s failed; trying again in %.1f s", error, pause)
                except (Precondition, AlreadyExists):
                    raise
                except StoreError:
                    # The client library may have tried before, and that may have arrived.
                    order.sent.add(await digest_of(content.body))
                    raise
                order.sent.add(await digest_of(content.body))
                await trio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 (jitter, no secret)
                pause = min(2 * pause, _LONGEST_PAUSE)
        with trio.CancelScope(shield=True):
            order.sent.add(await digest_of(content.body))
        reason = last.message if last is not None else "the store did not answer"
        raise Unavailable(f"not stored within {seconds:g} s: {reason}", key=order.key) from last

    async def _put(self, order: _Order, content: _Content, replaces: ObjectMeta | None) -> ObjectMeta:
        """Put in the place of one version, or of none; look who came first if it is not there."""
        key, body = order.key, content.body
        try:
            return await self._put_if(key, content, replaces)
        except (Precondition, AlreadyExists, NotFound) as error:
            if order.anyway:
                return await self._put_over(key, content)
            found = await self._found(key) if order.sent or not order.exclusive else None
            if found is not None:
                digest, meta = found
                if digest == await digest_of(body):
                    return meta
                if digest in order.sent and meta.version is not None:
                    return await self._put(order, content, meta)
            elif DELETED in order.sent and replaces is not None:
                return await self._put(order, content, None)
            if isinstance(error, AlreadyExists) and order.exclusive:
                raise
            raise Precondition("somebody else stored or deleted it since it was opened", key=key) from error

    async def _put_over(self, key: str, content: _Content) -> ObjectMeta:
        """Put in the place of whatever is there now.

        That is a condition, too: a copy of the request that arrives late, after the answer to
        another one, must not replace what was stored since.
        """
        for _ in range(_MOST_CHANGES):
            try:
                there = await self._store.head(key)
            except NotFound:
                there = None
            with suppress(Precondition, AlreadyExists, NotFound):
                return await self._put_if(key, content, there)
        return await self._store.put(key, content.body, attributes=content.attributes)

    async def _put_if(self, key: str, content: _Content, replaces: ObjectMeta | None) -> ObjectMeta:
        """Put on the strictest condition that the store can check."""
        body, attributes = content.body, content.attributes
        version = replaces.version if replaces is not None else None
        creates = replaces is None and self._can_create_only
        try:
            if version is not None and self._can_replace_only:
                return await self._store.put(key, body, if_version=version, attributes=attributes)
            if creates:
                return await self._store.put(key, body, if_absent=True, attributes=attributes)
        except Unsupported as error:
            log.warning("the store refuses conditional puts (%s): not all other writers are noticed", error)
            self._can_create_only = self._can_create_only and not creates
            self._can_replace_only = self._can_replace_only and creates
        return await self._store.put(key, body, attributes=attributes)

    async def _found(self, key: str) -> tuple[bytes, ObjectMeta] | None:
        """Return the digest and the meta of the object that is there, None if there is none."""
        try:
            reader = await self._store.open_reader(key)
        except NotFound:
            return None
        digest = hashlib.sha256()
        try:
            for start in range(0, reader.meta.size, _STEP):  # a part at a time: it may be large
                part = await reader.read(start, _STEP)
                await trio.to_thread.run_sync(digest.update, part)
        except NotFound:
            return None
        finally:
            await reader.aclose()
        return digest.digest(), reader.meta
