"""Stores over the file systems of fsspec: everything that no backend of our own reaches.

The view is that of an object store: keys and bytes, no directories, no modes.
What each file system really does, which versions it tells and whether its puts
are atomic, is said by the table of :mod:`stores.filesystems.kinds`, and the
capabilities of a store are those of its row.

* Listings are never taken from fsspec's caches.
* Where directories are real they are made by a put and removed with the last
  object in them.  What is being written beside its name is not shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any, Self

from stores.base import Store
from stores.errors import NotFound
from stores.filesystems.calls import Calls, check_protocol, make_filesystem, protocol_names
from stores.filesystems.gets import Gets
from stores.filesystems.kinds import plain, protocols_of
from stores.filesystems.listings import Listings
from stores.filesystems.puts import Puts
from stores.filesystems.remote import Remote
from stores.meta import AttributeChange, Body, ListPage, Lookup, ObjectMeta, PrefixMeta
from stores.urls import redact

__all__ = ["FsspecStore"]


class FsspecStore(Store):
    """A store over a file system of fsspec.

    Parameters
    ----------
    fs : fsspec.AbstractFileSystem
        Synchronous, or asynchronous of either mode.  One made with ``asynchronous=True`` is used on
        :meth:`stores.bridge.Bridge.shared`, and must not have been used on another loop.
    path : str
        Of the store in it (with the bucket, where there are buckets).
    read_only : bool
        Refuse every change.
    listing : bool, optional
        Whether it can be listed, where that depends on the server: HTTP servers that answer with
        pages of links can, and are taken for such that cannot.
    concurrency : int
        Calls at once.  A put of a large file is one call of several requests.

    Notes
    -----
    Files are written beside their name and renamed where the table says so, without ``fsync``.

    Files from 64 MiB on go in parts to S3, Google and Azure, at most eight of 8 MiB at once (of 4 MiB on
    Azure), and piece by piece to local disks and over SSH.  That one is only created if absent is checked
    before it is sent, and by the server when it is complete; servers that do not (a RADOS Gateway 16 is
    one) let it replace what somebody else made meanwhile.  Everything else is sent from memory, whole.
    An upload that fails or is cancelled is aborted on S3; Google and Azure forget theirs after a week.
    """

    recipe: tuple[Callable[..., FsspecStore], tuple[Any, ...]]
    """How to make the store again, in another process if need be; may hold secrets."""

    def __init__(
        self,
        fs: Any,
        path: str = "",
        *,
        read_only: bool = False,
        listing: bool | None = None,
        concurrency: int = 64,
    ) -> None:
        fs = plain(fs)
        protocols = protocols_of(fs)
        where = path if "://" in path else f"{protocols[0]}://{fs._strip_protocol(path)}"
        calls = Calls(partial(_given, fs, path), owned=False, concurrency=concurrency)
        self.max_connections = concurrency
        self._init(calls, protocols, redact(where), read_only, listing)
        self.recipe = FsspecStore, (fs, path)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        read_only: bool = False,
        listing: bool | None = None,
        concurrency: int = 64,
    ) -> Self:
        """Return the store at a URL or chain of URLs; it connects when it is opened.

        Parameters
        ----------
        url : str
            Such as ``sftp://host/path``, ``zip::s3://bucket/data.zip``, ``reference::file:///refs.json``.
        storage_options : mapping, optional
            Of the file system; for the others of a chain, by the names of their protocols.
        read_only, listing, concurrency
            As for the class.  s3fs gets as many connections (``max_pool_connections``), unless the
            options say how many.

        Raises
        ------
        BadLocation
            If fsspec knows no such protocol, or its package is not installed.
        """
        classes = [check_protocol(name) for name in protocol_names(url)]
        protocol = classes[0].protocol
        protocols = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        given = dict(storage_options or {})
        if "s3" in protocols:  # botocore has ten connections, if nothing is said
            config = {"max_pool_connections": concurrency} | dict(given.get("config_kwargs") or {})
            given["config_kwargs"] = config
        store = cls.__new__(cls)
        calls = Calls(partial(make_filesystem, url, given), owned=True, concurrency=concurrency)
        store.max_connections = concurrency
        store._init(calls, protocols, redact(url), read_only, listing)
        store.recipe = _from_url, (url, dict(storage_options or {}), listing, concurrency)
        return store

    def _init(
        self, calls: Calls, protocols: tuple[str, ...], location: str, read_only: bool, listing: bool | None
    ) -> None:
        remote = Remote(calls, protocols, location)
        super().__init__(read_only=read_only or remote.kind.read_only)
        listable = remote.kind.listable if listing is None else listing
        self.capabilities = dataclasses.replace(remote.kind.capabilities, listable=listable)
        self._calls = calls
        self._remote = remote
        self._gets = Gets(remote)
        self._listings = Listings(remote, self._gets, listable)
        self._puts = Puts(remote, self._gets)

    @property
    def location(self) -> str:
        """The URL, without user, password and query."""
        return self._remote.location

    def with_read_only(self, read_only: bool = True) -> Self:
        """Return the same store with another `read_only`; some file systems can only be read."""
        return super().with_read_only(read_only or self._remote.kind.read_only)

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and make sure that the bucket or directory is there."""
        await self._remote.check_root()

    async def aclose(self) -> None:
        """Close the sessions, where the store made them itself."""
        await self._calls.aclose()

    # -- reading -------------------------------------------------------------------------------

    async def _head(self, key: str) -> ObjectMeta:
        return await self._gets.head(key)

    async def _lookup(self, path: str) -> Lookup:
        remote = self._remote
        if not self.capabilities.listable:
            return Lookup(object=await self._head(path))
        info = await remote.info(await remote.path(path), path)
        if info["type"] == "directory":
            return Lookup(prefix=PrefixMeta(path))
        if info["type"] != "file":
            raise NotFound("no such key", key=path)
        meta = await self._gets.meta(path, info)
        # An info tells of the object where there are both.
        below = not remote.kind.tree and await self._listings.holds_anything(path)
        return Lookup(meta, PrefixMeta(path) if below else None)

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        return await self._gets.get(key, if_version)

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        return await self._gets.get_range(key, start, stop, if_version)

    # -- listing -------------------------------------------------------------------------------

    def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        return self._listings.list_dir(prefix)

    def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        return self._listings.list_all(prefix)

    # -- writing -------------------------------------------------------------------------------

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,  # noqa: ARG002 - never given: no kind has replace_if_version
        attributes: AttributeChange | None,  # noqa: ARG002 - only for stores with posix
    ) -> ObjectMeta:
        return await self._puts.put(key, body, if_absent)

    async def _delete(self, key: str) -> None:
        await self._puts.delete(key)

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        remote = self._remote
        if if_absent or not remote.kind.server_copy:
            return await super()._copy(source, target, if_absent)
        await remote.call("cp_file", await remote.path(source), await remote.path(target), key=source)
        return await self._head(target)


def _from_url(url: str, options: Mapping[str, Any], listing: bool | None, concurrency: int) -> FsspecStore:
    return FsspecStore.from_url(url, storage_options=options, listing=listing, concurrency=concurrency)


def _given(fs: Any, path: str) -> tuple[Any, str]:
    return fs, path
