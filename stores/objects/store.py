"""Object stores through obstore: S3, Google, Azure, WebDAV, plain HTTP, and obstore's own two.

What the kinds differ in is told by :mod:`stores.objects.remote`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Self

import obstore

from stores.base import Store
from stores.errors import AlreadyExists, Denied, NotFound, StoreError, Unavailable, Unsupported
from stores.keys import check_key, check_prefix, join
from stores.meta import AttributeChange, Body, Capabilities, ListPage, Lookup, ObjectMeta
from stores.objects import web
from stores.objects.errors import UnlistableKey, failure_of
from stores.objects.gets import Gets
from stores.objects.listings import PAGE, Listings
from stores.objects.options import open_obstore
from stores.objects.places import Place, without_path
from stores.objects.puts import Puts
from stores.objects.remote import Remote

__all__ = ["PAGE", "ObjectStore"]

_NO_WEBDAV = (Unsupported, NotFound, Denied, AlreadyExists)  # what plain servers answer to PROPFIND


class ObjectStore(Store):
    """Any store of obstore's.

    Parameters
    ----------
    store : obstore store
        An S3Store, GCSStore, AzureStore, HTTPStore, LocalStore or MemoryStore.
    prefix : str
        Where in it this store begins.
    read_only : bool
        Refuse every change.
    location : str, optional
        Without any secret; found out if not given.
    max_connections : int
        How many requests may be under way at once, each part of a large put being one.

    Notes
    -----
    A put below 64 MiB is one request, and its condition is kept by the server.  A larger one goes in
    parts, at most eight (and at most 64 MiB) at once, whatever its size, which may be as large as the
    server allows.  obstore can give an upload in parts no condition: it is looked at before the first
    part is sent and again when all are stored, right before the upload is completed.  What another
    writer puts between this look and the completion (a few kilobytes and one request) is replaced
    unseen.

    What fails or is cancelled is aborted: the old object stays, and no parts are left on the server.
    If the process is killed, S3 and Google keep the parts, unseen, until somebody aborts the upload or
    a lifecycle rule does (``AbortIncompleteMultipartUpload``), Azure for a week.

    S3 checks a SHA-256 of each request and of each part.  To web servers all goes in one request, from
    memory; obstore's own store in memory takes all at once, too.
    """

    def __init__(
        self,
        store: Any,
        *,
        prefix: str = "",
        read_only: bool = False,
        location: str | None = None,
        max_connections: int = 64,
    ) -> None:
        super().__init__(read_only=read_only)
        place = Place.of(store)
        below = check_prefix(prefix.strip("/"))
        location = location or join(place.base, below)
        if place.kind == "http":
            store, path = without_path(store)
            below = join(check_prefix(path), below)
        self._obstore, self._prefix = store, below  # of which it can be made again
        self.max_connections = max_connections
        # All views of one store share what follows, and with it what is learned of the server.
        self._remote = Remote(store, below, place, location, max_connections)
        self._gets = Gets(self._remote)
        self._listings = Listings(self._remote, self._gets)
        self._puts = Puts(self._remote, self._gets, max_connections)

    @classmethod
    def from_url(cls, url: str, *, storage_options: Mapping[str, Any], read_only: bool = False) -> Self:
        """Make the store for an address; nothing is asked of the network yet.

        Parameters
        ----------
        url : str
            ``s3://``, ``s3a://``, ``gs://``, ``gcs://``, ``az://``, ``abfs://``, ``abfss://``,
            ``adl://``, ``https://`` or ``http://``.
        storage_options : mapping
            Options as obstore, s3fs, gcsfs or adlfs call them; ``client_options`` and
            ``retry_config`` as in obstore, and ``max_connections``.
        read_only : bool
            Refuse every change.

        Raises
        ------
        BadLocation
            If the address or an option cannot be used.
        """
        opened = open_obstore(url, storage_options)
        return cls(
            opened.store,
            prefix=opened.prefix,
            read_only=read_only,
            location=opened.location,
            max_connections=opened.max_connections,
        )

    # -- what it is ----------------------------------------------------------------------------

    @property
    def location(self) -> str:
        """Where the store is, without any secret."""
        return self._remote.location

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # learned from the server
        """What the store can do; for web servers it is known when the store is open."""
        return self._remote.capabilities

    @property
    def read_only(self) -> bool:
        """Whether changes are refused; a plain web server takes none."""
        return self._read_only or (self._remote.kind == "http" and self._remote.opened)

    def check_new_key(self, key: str) -> None:
        """Raise InvalidKey for a key that this kind of store cannot have."""
        self._remote.new_path(check_key(key))

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Ask the store for the first of its keys, or a web server whether it lists."""
        remote = self._remote
        if remote.opened:
            return
        if remote.kind == "http":
            await self._open_web()
        else:
            try:
                await self._listings.ask_first()
            except UnlistableKey:
                pass  # it answers; `Listings` lists it another way
            except StoreError as error:
                if not (isinstance(error, NotFound) or failure_of(error).no_bucket):
                    raise
                bucket = remote.place.bucket or "such store"
                raise NotFound(f"there is no {bucket}: {self.location}") from error
        remote.opened = True

    async def aclose(self) -> None:
        """Wait a while for what was given up to be aborted, and close what lists what obstore cannot.

        obstore's own connections need no closing.
        """
        await self._puts.aclose()
        await self._listings.aclose()

    async def _open_web(self) -> None:
        """Find out whether a web server is one of WebDAV."""
        remote = self._remote
        try:
            listed = await self._listings.level("")
        except _NO_WEBDAV as error:
            if failure_of(error).status == 401:
                raise
            return
        except Unavailable as error:
            # To a method that they do not know, servers answer with almost any status.
            if failure_of(error).status is None:
                raise
            return
        if not (listed["objects"] or listed["common_prefixes"]):
            # To obstore a 404 is an empty listing, and for some servers it is how they say "no".
            found = await remote.ask_web(partial(web.find_collection, remote.store, remote.prefix))
            if found is web.Found.NO_WEBDAV:
                return
            if found is web.Found.NOTHING:
                raise NotFound(f"there is no such directory: {self.location}")
        remote.kind = "webdav"

    async def _ready(self) -> None:
        if not self._remote.opened:
            await self.open()

    # -- reading -------------------------------------------------------------------------------

    async def _head(self, key: str) -> ObjectMeta:
        await self._ready()
        return await self._gets.head(key)

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        await self._ready()
        return await self._gets.get(key, if_version)

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        await self._ready()
        return await self._gets.get_range(key, start, stop, if_version)

    # -- listing -------------------------------------------------------------------------------

    async def _lookup(self, path: str) -> Lookup:
        await self._ready()  # which tells whether it can be listed
        return await super()._lookup(path)

    async def _holds_anything(self, prefix: str) -> bool:
        return await self._listings.holds_anything(prefix)

    def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        return self._when_ready(self._listings.list_dir(prefix), prefix)

    def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        return self._when_ready(self._listings.list_all(prefix), prefix)

    def _list_after(self, prefix: str, after: str) -> AsyncGenerator[ListPage, None]:
        return self._when_ready(self._listings.list_after(prefix, after), prefix)

    async def _when_ready(
        self, pages: AsyncGenerator[ListPage, None], prefix: str
    ) -> AsyncGenerator[ListPage, None]:
        async with aclosing(pages):
            await self._ready()
            self._need("listable", prefix)
            async for page in pages:
                yield page

    # -- writing -------------------------------------------------------------------------------

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,
        attributes: AttributeChange | None,  # noqa: ARG002 - object stores have none
    ) -> ObjectMeta:
        await self._ready()
        return await self._puts.put(key, body, if_absent, if_version)

    async def _delete(self, key: str) -> None:
        await self._ready()
        remote = self._remote
        if remote.kind == "webdav":
            await self._gets.head(key)  # a DELETE of a directory would take with it all that is below
        await remote.call(lambda: obstore.delete(remote.store, remote.path(key)), key)

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        await self._ready()
        remote = self._remote
        if not self.capabilities.server_copy or (if_absent and remote.kind == "s3"):
            # What S3 has for copies if absent, few of its kind do right.
            return await super()._copy(source, target, if_absent)
        paths = remote.path(source), remote.new_path(target)
        try:
            await remote.call(lambda: obstore.copy(remote.store, *paths, overwrite=not if_absent), source)
        except AlreadyExists as error:
            raise AlreadyExists(error.message, key=target) from error.__cause__
        except Denied:
            await self._gets.head(source)  # a disk forbids the copy of a directory: NotFound
            raise
        return await self._gets.head(target)
