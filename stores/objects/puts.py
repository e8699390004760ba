"""Storing objects: on a condition, whole or in parts, and what servers make of that.

A put that is cancelled, or that ends in Unavailable, may still take place; a large one that is cancelled
only if its last request was under way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import obstore

from stores.bodies import BodyFailed
from stores.errors import AlreadyExists, NotFound, Precondition, ReadOnly, Unsupported
from stores.meta import Body, ObjectMeta
from stores.objects.errors import failure_of
from stores.objects.gets import Gets
from stores.objects.remote import Remote
from stores.objects.sending import IN_FLIGHT, LARGE, Sending, send_in_parts, send_whole

__all__ = ["Puts"]

T = TypeVar("T")

LARGE_PUTS = 4
"""How many large bodies are sent at once: each holds up to `LARGE` bytes of memory."""

_PATIENCE = 10.0  # of a store that is closed, for uploads that were given up to be aborted
_IN_PARTS = frozenset({"s3", "gcs", "azure", "local"})
_IN_THE_WAY = "something else is in the way of this key"


class Puts:
    """Puts into one store, and those of them that are under way.

    Parameters
    ----------
    remote : Remote
        Where to; it is open.
    gets : Gets
        Tells what a put has stored, where its answer does not.
    max_connections : int
        How many parts of one body may be under way at once, at most.

    Attributes
    ----------
    bare_etags : bool
        Whether the server wants the ETag of a condition without quotes.
    """

    def __init__(self, remote: Remote, gets: Gets, max_connections: int) -> None:
        self._remote = remote
        self._gets = gets
        self._large_limiter = anyio.CapacityLimiter(LARGE_PUTS)
        self._part_connections = min(IN_FLIGHT, max_connections)
        self._in_parts: set[Sending] = set()
        self.bare_etags = False

    async def aclose(self) -> None:
        """Wait a while for what was given up to be aborted."""
        with anyio.move_on_after(_PATIENCE):
            for sending in tuple(self._in_parts):
                await anyio.to_thread.run_sync(sending.ended.wait, _PATIENCE, abandon_on_cancel=True)

    async def put(self, key: str, body: Body, if_absent: bool, if_version: str | None) -> ObjectMeta:
        """Store an object on a condition, and return what is now there."""
        if self._remote.kind == "http":
            raise ReadOnly("a plain web server cannot be written", key=key)
        sending = Sending(body)
        try:
            size, told = await self._send(key, sending, if_absent, if_version)
        except BodyFailed as failed:
            raise failed.error from None
        except NotFound as error:
            raise Unsupported(_IN_THE_WAY, key=key, os_errno=error.os_errno) from error.__cause__
        except AlreadyExists as error:
            if if_absent:
                raise
            if if_version is not None:
                raise Precondition("it is being changed by somebody else", key=key) from error
            raise Unsupported(_IN_THE_WAY, key=key) from error
        finally:
            if not sending.ended.is_set():  # cancelled: what is being read of the body is soon read
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(sending.give_up)
        return await self._meta_of_put(key, size, told)

    async def _send(
        self, key: str, sending: Sending, if_absent: bool, if_version: str | None
    ) -> tuple[int, Any]:
        """Send a body; return its size and what obstore told."""
        path = self._remote.new_path(key)
        source = sending.body
        size = source.size() if source.in_memory else await anyio.to_thread.run_sync(source.size)
        if size >= LARGE and self._remote.kind in _IN_PARTS:
            check = partial(self._check_condition, key, path, if_absent, if_version)
            return await self._send_in_parts(key, path, sending, check)
        if if_version is None:
            return await self._send_whole(key, path, sending, "create" if if_absent else None)
        return await self._replace_whole(key, path, sending, if_version)

    async def _send_in_parts(
        self, key: str, path: str, sending: Sending, check: Callable[[], None]
    ) -> tuple[int, Any]:
        connections = self._part_connections

        def send() -> tuple[int, Any]:
            self._in_parts.add(sending)
            try:
                return send_in_parts(self._remote.store, path, sending, check, connections=connections)
            finally:
                self._in_parts.discard(sending)

        put = partial(_until_ended, sending, send)
        async with self._remote.connections(connections):
            return await self._remote.call(put, key, limiter=self._large_limiter)

    async def _send_whole(self, key: str, path: str, sending: Sending, mode: Any) -> tuple[int, Any]:
        send = partial(send_whole, self._remote.store, path, sending, mode)
        return await self._remote.call(partial(_until_ended, sending, send), key)

    async def _replace_whole(self, key: str, path: str, sending: Sending, version: str) -> tuple[int, Any]:
        """Send a body to replace one version; older RADOS Gateways know no ETag in quotes."""
        if not self.bare_etags:
            try:
                return await self._send_whole(key, path, sending, {"e_tag": f'"{version}"'})
            except Precondition as error:
                if not failure_of(error).quoted_tags_refused:
                    raise
        told = await self._send_whole(key, path, sending, {"e_tag": version})
        self.bare_etags = True
        return told

    def _check_condition(self, key: str, path: str, if_absent: bool, if_version: str | None) -> None:
        """Raise AlreadyExists or Precondition if a put on this condition would be wrong now; in a thread."""
        if not if_absent and if_version is None:
            return
        try:
            version = self._remote.meta(obstore.head(self._remote.store, path), key).version
        except FileNotFoundError:
            version = None
        else:
            if if_absent:
                raise AlreadyExists("the key is taken", key=key)
        if version != if_version:
            raise Precondition("it is not of that version any more", key=key)

    async def _meta_of_put(self, key: str, size: int, told: Any) -> ObjectMeta:
        kind = self._remote.kind
        version = self._remote.version(told["e_tag"], None, size)
        if kind == "webdav":
            return ObjectMeta(key, size)
        if version is None or kind in {"local", "memory"}:
            meta = await self._gets.head(key)
            return meta if version in (None, meta.version) else ObjectMeta(key, size, None, version)
        return ObjectMeta(key, size, None, version)


def _until_ended(sending: Sending, send: Callable[[], T]) -> T:
    """Send, in a thread, and tell those who wait for the end of it."""
    sending.ended.clear()
    try:
        return send()
    finally:
        sending.ended.set()
