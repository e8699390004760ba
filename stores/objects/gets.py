"""Reading objects: each read is one request, and holds for one version."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import obstore

from stores.errors import Denied, NotFound, Precondition, StoreError, Unsupported
from stores.meta import ObjectMeta
from stores.objects import web
from stores.objects.errors import failure_of
from stores.objects.remote import Remote

__all__ = ["Gets"]

T = TypeVar("T")


class Gets:
    """Whole objects, ranges of them, and what is told of them.

    Parameters
    ----------
    remote : Remote
        Where from; it is open.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    async def head(self, key: str) -> ObjectMeta:
        """Return the meta of an object."""
        remote = self._remote
        if remote.is_web:
            return await self._fetch(key, {"head": True}, lambda answer: remote.meta(answer.meta, key))
        return remote.meta(await remote.call(lambda: obstore.head(remote.store, remote.path(key)), key), key)

    async def get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        """Return a whole object and its meta."""
        return await self._fetch_bytes(key, None, if_version)

    async def get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        """Return the bytes ``[start, stop)`` of an object, fewer only where it ends."""
        if not self._remote.whole_answers:
            try:
                return (await self._fetch_bytes(key, (start, stop), if_version))[0]
            except StoreError as error:
                failure = failure_of(error)
                if not (failure.bad_range or failure.whole_answer):
                    raise
                if failure.bad_range:
                    if if_version is not None and (await self.head(key)).version != if_version:
                        raise Precondition("it is not of that version any more", key=key) from error
                    return b""
        data, _ = await self._fetch_bytes(key, None, if_version)
        # An empty object has no ranges: that all of it is sent tells nothing of the server.
        self._remote.whole_answers |= bool(data)
        return data[start:stop]

    async def _fetch_bytes(
        self, key: str, span: tuple[int, int] | None, if_version: str | None
    ) -> tuple[bytes, ObjectMeta]:
        """Get an object or a range of it, and its meta, in one request that holds for one version."""
        if if_version is not None and not self._remote.capabilities.versions:
            raise Unsupported("this store has no versions", key=key)
        options: dict[str, Any] = {}
        if span is not None:
            options["range"] = span
        if if_version is not None and not if_version.startswith(("W/", "time:")):
            options["if_match"] = f'"{if_version}"'

        def body(answer: obstore.GetResult) -> tuple[bytes, ObjectMeta]:
            meta = self._remote.meta(answer.meta, key)
            # Weak ETags cannot be asked for, and some servers ignore the condition.
            if if_version is not None and meta.version != if_version:
                raise Precondition("it is not of that version any more", key=key)
            return bytes(answer.bytes()), meta

        return await self._fetch(key, options, body)

    async def _fetch(self, key: str, options: Any, then: Callable[[obstore.GetResult], T]) -> T:
        remote = self._remote

        def ask() -> T:
            answer = obstore.get(remote.store, remote.path(key), options=options or None)
            if remote.is_web and web.is_web_page(key, str(answer.attributes.get("Content-Type", ""))):
                raise NotFound("there is no such object: the server answers with a web page", key=key)
            return then(answer)

        try:
            return await remote.call(ask, key)
        except Denied as error:
            # Many web servers refuse to show a directory with the same 403.
            is_directory = partial(web.is_directory, remote.store, remote.path(key))
            if remote.is_web and await remote.ask_web(is_directory):
                raise NotFound("there is no such object: it is a directory", key=key) from error
            raise
        except Precondition:
            if remote.kind == "azure":
                await self.head(key)  # to Azurite, what is gone is of another version
            raise
