"""What an object store is to obstore: its kind, its paths, what it tells of an object, calls in threads.

obstore is called synchronously in worker threads: that works under every event loop, and costs less
per call than a bridge to asyncio.  What the kinds differ in:

* *S3*, *Google*, *Azure*: the version is the ETag, listings tell everything, a put can be conditional
  (Google's only on absence).  Deleting what is not there is no error on S3.
* *WebDAV*, that is a web server that answers PROPFIND: listings tell no ETag and times are whole
  seconds, so there are no versions.  A directory stays, empty, when its last object goes.
* *plain HTTP*: nothing can be listed and nothing written.  The version is the ETag, else time and
  size; an object of which the server tells neither has none.  A web page that is answered in place
  of an object (an index of a directory, a friendly error) counts as no object.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from stores.errors import InvalidKey, Unavailable
from stores.keys import MAX_NAME_BYTES, join
from stores.meta import Capabilities, ObjectMeta
from stores.objects.errors import OBSTORE_ERRORS, translate
from stores.objects.places import Place

__all__ = ["Remote"]

T = TypeVar("T")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STAGED = re.compile(r"#\d+$")
_CLOUD = Capabilities(
    listable=True,
    ranges=True,
    versions=True,
    create_if_absent=True,
    replace_if_version=True,
    server_copy=True,
)
_CAPABILITIES = {
    "s3": dataclasses.replace(_CLOUD, ordered=True),
    "azure": _CLOUD,
    "gcs": dataclasses.replace(_CLOUD, replace_if_version=False),
    "local": dataclasses.replace(_CLOUD, replace_if_version=False),
    "memory": _CLOUD,
    "http": Capabilities(ranges=True, versions=True),
    "webdav": Capabilities(listable=True, ranges=True),
}


class Remote:
    """An obstore store from a prefix on, and what was learned of its server.

    Parameters
    ----------
    store : obstore store
        Of any kind.
    prefix : str
        Where in it our store begins.
    place : Place
        What `store` is.
    location : str
        Of our store, without any secret.
    max_connections : int
        How many requests may be under way at once.

    Attributes
    ----------
    kind : str
        That of the place, or ``webdav`` when a web server is found to be that.
    opened : bool
        Whether the server was asked already.
    whole_answers : bool
        Whether the server ignores ranges.
    """

    def __init__(self, store: Any, prefix: str, place: Place, location: str, max_connections: int) -> None:
        self.store = store
        self.prefix = prefix
        self.place = place
        self.location = location
        self.kind = place.kind
        self.opened = False
        self.whole_answers = False
        self._limiter = anyio.CapacityLimiter(max_connections)
        self._gathering = anyio.Lock()

    @property
    def capabilities(self) -> Capabilities:
        """What the store can do, as far as is known."""
        told = _CAPABILITIES[self.kind]
        return dataclasses.replace(told, ranges=False) if self.whole_answers else told

    @property
    def is_web(self) -> bool:
        """Whether it is a web server."""
        return self.kind in {"http", "webdav"}

    # -- names ---------------------------------------------------------------------------------

    def path(self, key: str) -> str:
        """Return what obstore calls a key; InvalidKey if it would take it for another, or not at all."""
        if _CONTROL.search(key):
            raise InvalidKey("object stores cannot hold a key with control characters", key=key)
        if self.kind == "azure" and ("\\" in key or "\ufffe" in key or "\uffff" in key):
            raise InvalidKey("Azure takes a backslash for a slash, and U+FFFE and U+FFFF not at all", key=key)
        return join(self.prefix, key)

    def new_path(self, key: str) -> str:
        """Return what obstore calls a key that is to be written; InvalidKey if it cannot."""
        path = self.path(key)
        if self.kind == "local":
            for name in key.split("/"):
                # It writes NAME#1 first, and hides what is called so.
                if len(name.encode()) > MAX_NAME_BYTES - 2 or _STAGED.search(name):
                    raise InvalidKey(f"obstore cannot write a file called {name!r}", key=key)
        return path

    def key(self, path: str) -> str:
        """Return the key of a path that obstore tells."""
        return path.removeprefix(self.prefix).lstrip("/") if self.prefix else path

    # -- metas ---------------------------------------------------------------------------------

    def meta(self, raw: Any, key: str) -> ObjectMeta:
        """Return what obstore tells of an object."""
        when = raw["last_modified"]
        nanoseconds = int(when.timestamp()) * 10**9
        if self.kind in {"local", "memory"}:
            nanoseconds += when.microsecond * 1000
        # Elsewhere some answers have fractions of seconds and some have not.
        mtime = nanoseconds or None
        return ObjectMeta(key, raw["size"], mtime, self.version(raw["e_tag"], mtime, raw["size"]))

    def version(self, e_tag: str | None, mtime_ns: int | None, size: int) -> str | None:
        """Return the version of an object of which these are told."""
        if self.kind == "webdav":
            return None
        if e_tag:
            return e_tag.removeprefix('"').removesuffix('"')  # some listings have the quotes, some not
        if self.kind == "http" and mtime_ns is not None:
            return f"time:{mtime_ns // 10**9}-{size}"
        return None

    # -- calls ---------------------------------------------------------------------------------

    async def call(
        self, work: Callable[[], T], key: str | None, *, limiter: anyio.CapacityLimiter | None = None
    ) -> T:
        """Do what calls obstore, in a thread, and translate what it raises.

        Parameters
        ----------
        work : callable
            Calls obstore.
        key : str, optional
            What it is about.
        limiter : anyio.CapacityLimiter, optional
            Of such calls, if not that of all others.
        """

        def run() -> T:
            try:
                return work()
            except OBSTORE_ERRORS as error:
                place = self.place
                raise translate(
                    error, key, place=self.location, endpoint=place.endpoint, bucket=place.bucket
                ) from error

        return await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=limiter or self._limiter)

    @asynccontextmanager
    async def connections(self, count: int) -> AsyncIterator[None]:
        """Hold several connections, as who makes many requests in one call needs them."""
        held: list[object] = []
        try:
            async with self._gathering:  # two that hold half of theirs each would wait for ever
                for borrower in [object() for _ in range(count)]:
                    await self._limiter.acquire_on_behalf_of(borrower)
                    held.append(borrower)
            yield
        finally:
            for borrower in held:
                self._limiter.release_on_behalf_of(borrower)

    async def ask_web(self, ask: Callable[[], T]) -> T:
        """Ask a web server what obstore does not ask (see :mod:`stores.objects.web`), in a thread."""
        try:
            return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._limiter)
        except OSError as error:
            raise Unavailable(f"no answer from {self.place.endpoint}") from error
