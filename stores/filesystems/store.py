"""Stores over the file systems of fsspec: everything that no backend of our own reaches.

The view is that of an object store: keys and bytes, no directories, no modes.
What each file system really does, which versions it tells and whether its puts
are atomic, is said by the table of :mod:`stores.filesystems.kinds`, and the
capabilities of a store are those of its row.

* Reads conditional on a version are one request on S3.  Elsewhere fsspec has no
  conditional get: the version is looked at *after* the bytes were read.  The
  caller saw that version before, so bytes read in between are of that version.
* Listings are never taken from fsspec's caches.
* Where directories are real they are made by a put and removed with the last
  object in them.  What is being written beside its name is not shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Self
from urllib.parse import quote, unquote

import anyio

from stores.base import Store
from stores.bodies import BodyFailed, BodyReader
from stores.concurrency import for_each
from stores.errors import (
    AlreadyExists,
    BadLocation,
    NotFound,
    Precondition,
    StoreError,
    Unavailable,
    Unsupported,
)
from stores.filesystems.calls import Calls, check_protocol, make_filesystem
from stores.filesystems.files import (
    LARGE,
    PARTIAL,
    Place,
    fresh_async,
    fresh_sync,
    in_parts,
    path_of,
    read_async,
    read_sync,
    remove,
    write,
)
from stores.filesystems.kinds import Kind, kind_of, mtime_of, plain, protocols_of, version_of
from stores.keys import join
from stores.meta import (
    AttributeChange,
    Body,
    ListPage,
    Lookup,
    ObjectMeta,
    PrefixMeta,
)
from stores.translation import translate_error
from stores.urls import redact

__all__ = ["FsspecStore"]

Info = Mapping[str, Any]

_ATTEMPTS = 100  # of an object that others rewrite all the time
_PAGE = 1000
_LARGE = 1 << 26


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
        classes = [check_protocol(name) for name in _protocol_names(url)]
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
        kind = kind_of(protocols)
        super().__init__(read_only=read_only or kind.read_only)
        self._calls = calls
        self._kind: Kind = kind
        self._location = location
        self._listable = kind.listable if listing is None else listing
        self.capabilities = dataclasses.replace(kind.capabilities, listable=self._listable)
        self._web = bool({"http", "https"} & set(protocols))
        self._s3 = "s3" in protocols
        self._local = bool({"file", "local"} & set(protocols))

    @property
    def location(self) -> str:
        """The URL, without user, password and query."""
        return self._location

    def with_read_only(self, read_only: bool = True) -> Self:
        """Return the same store with another `read_only`; some file systems can only be read."""
        return super().with_read_only(read_only or self._kind.read_only)

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and make sure that the bucket or directory is there."""
        try:
            fs, root = await self._calls.filesystem()
            await self._info(root or fs.root_marker)
        except NotFound as error:
            if self._kind.makes_dirs:
                raise NotFound(f"there is no directory {self.location}") from error
            if self._kind.bucket:
                await self._check_bucket(root)
            # Elsewhere a prefix of no objects is as good as an empty one, and web servers often have
            # no page for what is above their files.
        except StoreError:
            raise
        except Exception as error:
            raise self._translated(error, None) from error

    async def _check_bucket(self, root: str) -> None:
        bucket = root.lstrip("/").partition("/")[0]
        try:
            await self._info(bucket)
        except NotFound as error:
            raise NotFound(f"there is no bucket {bucket!r}") from error

    async def aclose(self) -> None:
        """Close the sessions, where the store made them itself."""
        await self._calls.aclose()

    # -- reading -------------------------------------------------------------------------------

    async def _head(self, key: str) -> ObjectMeta:
        info = await self._info(await self._path(key), key)
        if info["type"] != "file":
            raise NotFound("no such key", key=key)
        return await self._meta(key, info)

    async def _lookup(self, path: str) -> Lookup:
        if not self._listable:
            return Lookup(object=await self._head(path))
        info = await self._info(await self._path(path), path)
        if info["type"] == "directory":
            return Lookup(prefix=PrefixMeta(path))
        if info["type"] != "file":
            raise NotFound("no such key", key=path)
        meta = await self._meta(path, info)
        if self._kind.tree:
            return Lookup(object=meta)
        # An info tells of the object where there are both.
        files, directories = await self._entries(path)
        return Lookup(meta, PrefixMeta(path) if files or directories else None)

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        self._check_condition(if_version, key)
        if self._s3:
            data, info = await self._s3_get(key, None, None, if_version)
            return data, self._meta_of(key, info, len(data))
        versioned = bool(self._kind.version)
        for _ in range(_ATTEMPTS):
            before, data, after = await self._read(key, {}, before=True, after=versioned)
            if before["type"] != "file":
                raise NotFound("no such key", key=key)
            meta = self._meta_of(key, before, len(data))
            if if_version is not None and meta.version != if_version:
                raise Precondition("it has changed since it was looked up", key=key)
            if not versioned or version_of(self._kind, after) == meta.version:
                return data, meta
        raise Unavailable("it changes faster than it can be read", key=key)

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        self._check_condition(if_version, key)
        try:
            if self._s3:
                data, _ = await self._s3_get(key, start, stop, if_version)
                return data
            if stop - start > _LARGE:  # many file systems make room for all that is asked for
                stop = max(start, min(stop, (await self._head(key)).size))
            limits = {"start": start, "end": stop}
            _, data, after = await self._read(key, limits, before=False, after=if_version is not None)
        except (NotFound, Precondition):
            raise
        except StoreError:
            # Many refuse a range that begins behind the end; the contract has it empty.
            meta = await self._head(key)
            if if_version is not None and meta.version != if_version:
                raise Precondition("it has changed since it was looked up", key=key) from None
            if start >= meta.size:
                return b""
            raise
        if if_version is not None and version_of(self._kind, after) != if_version:
            raise Precondition("it has changed since it was looked up", key=key)
        return data[: stop - start] if len(data) > stop - start else data

    async def _read(
        self, key: str, limits: dict[str, int], *, before: bool, after: bool
    ) -> tuple[Info, bytes, Info]:
        """Read bytes, with an info (or an empty one) from before and one from after that."""
        path = await self._path(key)
        fs, _ = await self._calls.filesystem()
        try:
            read = self._calls.await_on_loop if self._calls.is_async else self._calls.in_thread
            function = read_async if self._calls.is_async else read_sync
            told: tuple[Info, bytes, Info] = await read(function, fs, path, limits, before, after)
        except Exception as error:
            raise self._translated(error, key) from error
        return told

    async def _s3_get(
        self, key: str, start: int | None, stop: int | None, if_version: str | None
    ) -> tuple[bytes, Info]:
        from stores.filesystems.s3 import get_object

        fs, _ = await self._calls.filesystem()
        path = await self._path(key)
        try:
            data, info = await self._calls.await_on_loop(get_object, fs, path, start, stop, if_version)
        except Exception as error:
            raise self._translated(error, key) from error
        if if_version is not None and version_of(self._kind, info) != if_version:
            raise Precondition("it has changed since it was looked up", key=key)
        return data, info

    def _check_condition(self, if_version: str | None, key: str) -> None:
        if if_version is not None and not self._kind.version:
            raise Unsupported("this kind of file system has no versions", key=key)

    # -- listing -------------------------------------------------------------------------------

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        files, directories = await self._entries(prefix)
        metas = await self._metas(files)
        if metas or directories:
            below = (PrefixMeta(key, mtime_of(info)) for key, info in directories.items())
            yield ListPage(tuple(metas), tuple(below))

    async def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        if self._kind.flat:
            found = await self._found(prefix)
            keys = list(found)
            for first in range(0, len(keys), _PAGE):
                page = {key: found[key] for key in keys[first : first + _PAGE]}
                yield ListPage(tuple(await self._metas(page)))
            return
        # fsspec's own find leaves out, silently, what it fails to list.
        waiting = [prefix]
        while waiting:
            files, directories = await self._entries(waiting.pop())
            # What is reached by a symbolic link may lead in a circle.
            waiting.extend(key for key, info in directories.items() if not info.get("islink"))
            metas = await self._metas(files)
            if metas:
                yield ListPage(tuple(metas))

    async def _entries(self, prefix: str) -> tuple[dict[str, Info], dict[str, Info]]:
        """List one level: the infos of its files and of its directories, by key."""
        if not self._listable:
            raise Unsupported("this store cannot be listed", key=prefix or None)
        path = await self._path(prefix)
        files: dict[str, Info] = {}
        directories: dict[str, Info] = {}
        others: list[str] = []
        for info in await self._level(prefix, path):
            name = self._relative(str(info["name"]), path)
            key = join(prefix, name.rstrip("/"))
            if self._kind.flat and info["type"] == "directory" and str(info["name"]) == f"{path}/":
                directories[f"{prefix}/"] = info  # there are keys with an empty segment
            if not name.rstrip("/") or PARTIAL.fullmatch(name):
                continue
            if info.get("islink") or info["type"] == "link":
                others.append(key)
            elif info["type"] == "directory" or name.endswith("/"):
                directories[key] = info
            elif info["type"] == "file":
                files[key] = info

        async def follow(key: str) -> None:
            with suppress(NotFound):  # it leads nowhere
                info = await self._info(await self._path(key), key)
                if info["type"] in ("file", "directory"):
                    (files if info["type"] == "file" else directories)[key] = {**info, "islink": True}

        if others:
            await for_each(follow, others)
        return files, directories

    async def _level(self, prefix: str, path: str) -> list[Info]:
        """Return what the file system lists directly below a prefix, its path given."""
        fs, _ = await self._calls.filesystem()
        try:
            infos: list[Info] = await self._fresh("ls", path or fs.root_marker, key=prefix, detail=True)
        except NotFound:
            if prefix == "" and (self._kind.makes_dirs or self._kind.bucket):
                await self.open()  # raises, if the root itself is not there
            return []
        return infos

    async def _found(self, prefix: str) -> dict[str, Info]:
        path = await self._path(prefix)
        try:
            infos = await self._fresh("find", path, key=prefix, detail=True)
        except NotFound:
            if prefix == "" and self._kind.bucket:
                await self.open()
            return {}
        entries: dict[str, Info] = {}
        for info in infos.values() if isinstance(infos, dict) else ():  # adlfs: a list, of no use here
            name = self._relative(str(info["name"]), path)
            # What ends with a slash marks a directory, for those who need one.
            if name and info["type"] == "file" and not name.endswith("/"):
                entries[join(prefix, name)] = info
        return entries

    def _relative(self, name: str, path: str) -> str:
        """Return a name of a listing relative to the path that was listed; empty for that path itself."""
        name, path = name.lstrip("/"), path.strip("/")
        if path and name.rstrip("/") == path:
            return ""
        if path and name.startswith(f"{path}/"):
            name = name[len(path) + 1 :]
        elif path:
            name = name.rpartition("/")[2]
        if not self._web:
            return name
        return "" if "?" in name or "#" in name else unquote(name)  # links that sort the page

    # -- metas ---------------------------------------------------------------------------------

    def _meta_of(self, key: str, info: Info, size: int) -> ObjectMeta:
        return ObjectMeta(key, size, mtime_of(info), version_of(self._kind, info))

    async def _meta(self, key: str, info: Info) -> ObjectMeta:
        size = info.get("size")
        if size is None:  # an HTTP server that does not say, or a listing that does not
            size = (await self._info(await self._path(key), key)).get("size")
        if size is None:
            size = len((await self._read(key, {}, before=False, after=False))[1])
        return self._meta_of(key, info, int(size))

    async def _metas(self, entries: Mapping[str, Info]) -> list[ObjectMeta]:
        sized = {key for key, info in entries.items() if info.get("size") is not None}
        metas = [self._meta_of(key, info, int(info["size"])) for key, info in entries.items() if key in sized]

        async def add(key: str) -> None:
            with suppress(NotFound):  # deleted since it was listed
                metas.append(await self._meta(key, entries[key]))

        if len(sized) < len(entries):
            await for_each(add, entries.keys() - sized)
        return metas

    # -- writing -------------------------------------------------------------------------------

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,  # noqa: ARG002 - never given: no kind has replace_if_version
        attributes: AttributeChange | None,  # noqa: ARG002 - only for stores with posix
    ) -> ObjectMeta:
        path = await self._path(key)
        fs, root = await self._calls.filesystem()
        reader = BodyReader(body)
        told: Any = None
        try:
            if self._calls.is_async:
                size, told = await self._send(path, body, reader, if_absent)
            else:
                place = Place(fs, self._kind, root, path)
                size = await self._calls.in_thread(write, place, reader, if_absent=if_absent)
        except BodyFailed as failed:
            raise failed.error from None
        except (IsADirectoryError, NotADirectoryError) as error:
            raise AlreadyExists(
                "an object or a directory is in the way",
                key=key,
                os_errno=error.errno if self._local else None,
            ) from error
        except Exception as error:
            translated = self._translated(error, key)
            if if_absent and isinstance(translated, Precondition):
                raise AlreadyExists("the key is taken", key=key) from error
            raise translated from error
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(reader.let_go)
            raise
        if self._s3 and isinstance(told, dict) and told.get("ETag"):
            return self._meta_of(key, told, size)
        return await self._head(key)

    async def _send(self, path: str, body: Body, reader: BodyReader, if_absent: bool) -> tuple[int, Any]:
        """Put with an asynchronous file system; return the size and what it told."""
        options: dict[str, Any] = {"mode": "create"} if if_absent else {}
        size = reader.size() if reader.in_memory else await anyio.to_thread.run_sync(reader.size)
        if size >= LARGE and self._kind.parts:
            with path_of(body) as source:
                if source is not None:
                    if if_absent:
                        await self._check_absent(path)
                    options |= in_parts(self._kind, size)
                    await self._put_file(source, path, options)
                    return size, None
        data = reader.whole() if reader.in_memory else await anyio.to_thread.run_sync(reader.whole)
        return len(data), await self._calls.call("pipe_file", path, data, **options)

    async def _check_absent(self, path: str) -> None:
        # Some servers, older RADOS Gateways for one, ignore the condition of an upload in parts.
        try:
            await self._info(path)
        except NotFound:
            return
        raise FileExistsError(path)

    async def _put_file(self, source: str, path: str, options: Mapping[str, Any]) -> None:
        if not self._s3:
            await self._calls.call("put_file", source, path, **options)
            return
        from stores.filesystems.s3 import put_file

        fs, _ = await self._calls.filesystem()
        await self._calls.await_on_loop(put_file, fs, source, path, **options)

    async def _delete(self, key: str) -> None:
        path = await self._path(key)
        if not self._kind.makes_dirs or self._calls.is_async:
            await self._call("rm_file", path, key=key)
            return
        fs, root = await self._calls.filesystem()
        try:
            await self._calls.in_thread(remove, Place(fs, self._kind, root, path))
        except Exception as error:
            raise self._translated(error, key) from error

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        if if_absent or not self._kind.server_copy:
            return await super()._copy(source, target, if_absent)
        await self._call("cp_file", await self._path(source), await self._path(target), key=source)
        return await self._head(target)

    # -- calls ---------------------------------------------------------------------------------

    async def _path(self, key: str) -> str:
        try:
            fs, root = await self._calls.filesystem()
        except Exception as error:
            raise self._translated(error, key or None) from error
        name = quote(key) if self._web else key
        if not name:
            return root
        return f"{root}/{name}" if root or fs.root_marker == "/" else name

    async def _call(self, name: str, *args: Any, key: str | None, **kwargs: Any) -> Any:
        try:
            return await self._calls.call(name, *args, **kwargs)
        except Exception as error:
            raise self._translated(error, key or None) from error

    async def _info(self, path: str, key: str | None = None) -> Info:
        info: Info = await self._fresh("info", path, key=key)
        return info

    async def _fresh(self, name: str, path: str, *, key: str | None, **kwargs: Any) -> Any:
        """Call `name` with nothing of it answered from fsspec's cache of listings."""
        try:
            fs, _ = await self._calls.filesystem()
            if self._calls.is_async:
                return await self._calls.await_on_loop(fresh_async, fs, name, path, kwargs)
            return await self._calls.in_thread(fresh_sync, fs, name, path, kwargs)
        except Exception as error:
            raise self._translated(error, key or None) from error

    def _translated(self, error: Exception, key: str | None) -> StoreError:
        return translate_error(error, key, exact_errno=self._local)


def _from_url(url: str, options: Mapping[str, Any], listing: bool | None, concurrency: int) -> FsspecStore:
    return FsspecStore.from_url(url, storage_options=options, listing=listing, concurrency=concurrency)


def _given(fs: Any, path: str) -> tuple[Any, str]:
    return fs, path


def _protocol_names(url: str) -> list[str]:
    names = []
    for number, link in enumerate(url.split("::")):
        scheme, mark, _ = link.partition("://")
        if mark:
            names.append(scheme)
        elif number == 0:
            names.append(link if "::" in url else "file")
    if not names or not names[0]:
        raise BadLocation(f"{redact(url)!r} names no protocol")
    return names
