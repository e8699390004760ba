"""Object stores through obstore: S3, Google, Azure, WebDAV, plain HTTP, and obstore's own two.

obstore is called synchronously in worker threads: that works under every event loop, and costs less
per call than a bridge to asyncio.  What the kinds differ in:

* *S3*, *Google*, *Azure*: the version is the ETag, listings tell everything, a put can be conditional
  (Google's only on absence).  Deleting what is not there is no error on S3.
* *WebDAV*, that is a web server that answers PROPFIND: listings tell no ETag and times are whole
  seconds, so there are no versions.  A directory stays, empty, when its last object goes.
* *plain HTTP*: nothing can be listed and nothing written.  The version is the ETag, else time and
  size; an object of which the server tells neither has none.  A web page that is answered in place
  of an object (an index of a directory, a friendly error) counts as no object.

A put that is cancelled, or that ends in Unavailable, may still take place; a large one that is cancelled
only if its last request was under way.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from itertools import pairwise
from posixpath import commonpath
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread
import obstore

from stores.base import Store
from stores.bodies import BodyFailed
from stores.errors import (
    AlreadyExists,
    Denied,
    InvalidKey,
    NotFound,
    Precondition,
    ReadOnly,
    StoreError,
    Unavailable,
    Unsupported,
)
from stores.keys import MAX_NAME_BYTES, check_key, check_prefix, join
from stores.meta import (
    AttributeChange,
    Body,
    Capabilities,
    ListPage,
    Lookup,
    ObjectMeta,
    PrefixMeta,
)
from stores.objects import web
from stores.objects.errors import OBSTORE_ERRORS, Failure, UnlistableKey, translate
from stores.objects.options import open_obstore
from stores.objects.places import Place, without_path
from stores.objects.sending import IN_FLIGHT, LARGE, Sending, send_in_parts, send_whole
from stores.objects.spare import spare_lister

__all__ = ["ObjectStore"]

T = TypeVar("T")

PAGE = 1000
LARGE_PUTS = 4
"""How many large bodies are sent at once: each holds up to `LARGE` bytes of memory."""

_MOST_DEEP = 1000
_PATIENCE = 10.0  # of a store that is closed, for uploads that were given up to be aborted
_IN_PARTS = frozenset({"s3", "gcs", "azure", "local"})
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
_NO_WEBDAV = (Unsupported, NotFound, Denied, AlreadyExists)  # what plain servers answer to PROPFIND


@dataclasses.dataclass(slots=True)
class _State:
    """What was learned of the server; shared by all views of one store."""

    kind: str
    opened: bool = False
    whole_answers: bool = False  # it ignores ranges
    bare_etags: bool = False  # it wants If-Match of a put without quotes
    in_parts: set[Sending] = dataclasses.field(default_factory=set)
    spare: Store | None = None  # lists what obstore cannot
    deep: dict[str, None] = dataclasses.field(default_factory=dict)  # prefixes with much below, not directly


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
        self._location = location or join(place.base, below)
        if place.kind == "http":
            store, path = without_path(store)
            below = join(check_prefix(path), below)
        self._obstore = store
        self._prefix = below
        self._place = place
        self._state = _State(place.kind)
        self.max_connections = max_connections
        self._limiter = anyio.CapacityLimiter(max_connections)
        self._gathering = anyio.Lock()
        self._large_limiter = anyio.CapacityLimiter(LARGE_PUTS)
        self._part_connections = min(IN_FLIGHT, max_connections)

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
        return self._location

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]  # learned from the server
        """What the store can do; for web servers it is known when the store is open."""
        told = _CAPABILITIES[self._state.kind]
        return dataclasses.replace(told, ranges=False) if self._state.whole_answers else told

    @property
    def read_only(self) -> bool:
        """Whether changes are refused; a plain web server takes none."""
        return self._read_only or (self._state.kind == "http" and self._state.opened)

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Ask the store for the first of its keys, or a web server whether it lists."""
        if self._state.opened:
            return
        if self._state.kind == "http":
            await self._open_web()
        else:
            try:
                await self._call(lambda: next(self._stream(""), None), None, opening=True)
            except UnlistableKey:
                pass  # it answers; `_list_dir` lists it another way
            except NotFound as error:
                raise NotFound(
                    f"there is no {self._place.bucket or 'such store'}: {self.location}"
                ) from error
        self._state.opened = True

    async def aclose(self) -> None:
        """Wait a while for what was given up to be aborted, and close what lists what obstore cannot.

        obstore's own connections need no closing.
        """
        with anyio.move_on_after(_PATIENCE):
            for sending in tuple(self._state.in_parts):
                await anyio.to_thread.run_sync(sending.ended.wait, _PATIENCE, abandon_on_cancel=True)
        spare, self._state.spare = self._state.spare, None
        if spare is not None:
            await spare.aclose()

    async def _open_web(self) -> None:
        try:
            listed = await self._listed("")
        except _NO_WEBDAV as error:
            if _status_of(error) == 401:
                raise
            return
        except Unavailable as error:
            # To a method that they do not know, servers answer with almost any status.
            if _status_of(error) is None:
                raise
            return
        if not (listed["objects"] or listed["common_prefixes"]):
            # To obstore a 404 is an empty listing, and for some servers it is how they say "no".
            found = await self._ask_web(partial(web.find_collection, self._obstore, self._prefix))
            if found is web.Found.NO_WEBDAV:
                return
            if found is web.Found.NOTHING:
                raise NotFound(f"there is no such directory: {self.location}")
        self._state.kind = "webdav"

    async def _ready(self) -> None:
        if not self._state.opened:
            await self.open()

    # -- reading -------------------------------------------------------------------------------

    async def _head(self, key: str) -> ObjectMeta:
        await self._ready()
        if self._is_web:
            answer = await self._fetch(key, {"head": True})
            return self._meta(answer.meta, key)
        return self._meta(await self._call(lambda: obstore.head(self._obstore, self._path(key)), key), key)

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        await self._ready()
        return await self._fetch_bytes(key, None, if_version)

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        await self._ready()
        if not self._state.whole_answers:
            try:
                return (await self._fetch_bytes(key, (start, stop), if_version))[0]
            except StoreError as error:
                failure = _failure_of(error)
                if not (failure.bad_range or failure.whole_answer):
                    raise
                if failure.bad_range:
                    if if_version is not None and (await self._head(key)).version != if_version:
                        raise Precondition("it is not of that version any more", key=key) from error
                    return b""
        data, _ = await self._fetch_bytes(key, None, if_version)
        # An empty object has no ranges: that all of it is sent tells nothing of the server.
        self._state.whole_answers |= bool(data)
        return data[start:stop]

    async def _fetch_bytes(
        self, key: str, span: tuple[int, int] | None, if_version: str | None
    ) -> tuple[bytes, ObjectMeta]:
        """Get an object or a range of it, and its meta, in one request that holds for one version."""
        if if_version is not None and not self.capabilities.versions:
            raise Unsupported("this store has no versions", key=key)
        options: dict[str, Any] = {}
        if span is not None:
            options["range"] = span
        if if_version is not None and not if_version.startswith(("W/", "time:")):
            options["if_match"] = f'"{if_version}"'

        def body(answer: obstore.GetResult) -> tuple[bytes, ObjectMeta]:
            meta = self._meta(answer.meta, key)
            # Weak ETags cannot be asked for, and some servers ignore the condition.
            if if_version is not None and meta.version != if_version:
                raise Precondition("it is not of that version any more", key=key)
            return bytes(answer.bytes()), meta

        data, meta = await self._fetch(key, options, body)
        return data, meta

    async def _fetch(self, key: str, options: Any, then: Callable[[Any], Any] = lambda answer: answer) -> Any:
        def ask() -> Any:
            answer = obstore.get(self._obstore, self._path(key), options=options or None)
            if self._is_web and web.is_web_page(key, str(answer.attributes.get("Content-Type", ""))):
                raise NotFound("there is no such object: the server answers with a web page", key=key)
            return then(answer)

        try:
            return await self._call(ask, key)
        except Denied as error:
            # Many web servers refuse to show a directory with the same 403.
            if self._is_web and await self._ask_web(
                partial(web.is_directory, self._obstore, self._path(key))
            ):
                raise NotFound("there is no such object: it is a directory", key=key) from error
            raise
        except Precondition:
            if self._state.kind == "azure":
                await self._head(key)  # to Azurite, what is gone is of another version
            raise

    # -- listing -------------------------------------------------------------------------------

    async def _lookup(self, path: str) -> Lookup:
        """Ask for the object and for the first key below it, at once."""
        found: list[ObjectMeta] = []
        below: list[PrefixMeta] = []

        async def ask_object() -> None:
            try:
                found.append(await self._head(path))
            except NotFound:
                return

        async def ask_prefix() -> None:
            if await self._holds_anything(path):
                below.append(PrefixMeta(path))

        await self._ready()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(ask_object)
                if self.capabilities.listable:
                    group.start_soon(ask_prefix)
        except* StoreError as errors:
            raise _first(errors) from None
        if not found and not below:
            raise NotFound("no such key", key=path)
        return Lookup(found[0] if found else None, below[0] if below else None)

    async def _holds_anything(self, prefix: str) -> bool:
        """Whether there is a key below `prefix`, or a marker that makes it an empty directory."""
        if self._state.kind == "webdav":
            listed = await self._listed(prefix)
            if listed["objects"] or listed["common_prefixes"]:
                return True
            found = await self._ask_web(partial(web.find_collection, self._obstore, self._path(prefix)))
            return found is web.Found.COLLECTION
        try:
            return await self._next_page(self._stream(prefix), prefix) is not None
        except UnlistableKey:
            return True

    def _spare(self, error: UnlistableKey) -> Store:
        """Return the store that lists what obstore cannot (see `spare_lister`)."""
        if self._state.spare is None:
            self._state.spare = spare_lister(self._obstore, self._state.kind, self._prefix, error)
        return self._state.spare

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        await self._ready()
        self._need("listable", prefix)
        given = ""
        if self.capabilities.ordered and prefix not in self._state.deep:
            async with aclosing(self._flat_pages(prefix)) as flat:
                async for page in flat:
                    if page is None:
                        break
                    given = max([given, *(meta.key for meta in page.objects)])
                    yield page
                else:
                    return
        try:
            listed = await self._listed(prefix)
        except UnlistableKey as error:
            async with aclosing(self._spare(error).list_dir(prefix)) as pages:
                async for page in pages:
                    yield page
            return
        below = [PrefixMeta(key) for key in map(self._key, listed["common_prefixes"]) if key != prefix]
        for start in range(0, len(below), PAGE):
            yield ListPage(prefixes=tuple(below[start : start + PAGE]))
        objects = listed["objects"]
        for start in range(0, len(objects), PAGE):
            metas = (self._meta(raw, self._key(raw["path"])) for raw in objects[start : start + PAGE])
            # A key that ends with a slash marks a directory; obstore tells it without the slash.
            yield ListPage(objects=tuple(meta for meta in metas if meta.key != prefix and meta.key > given))

    async def _flat_pages(self, prefix: str) -> AsyncGenerator[ListPage | None, None]:
        """List what is directly below `prefix` by listing all that is; None if that is too much.

        Of what holds less than a page, or objects only, it takes as many requests as a listing by
        level does, which obstore gives only as a whole, when all of its pages have come.
        """
        start, last = len(prefix) + 1 if prefix else 0, ""
        stream = self._stream(prefix)
        try:
            listed = await self._next_page(stream, prefix)
            while listed is not None:
                told = [self._meta(raw, self._key(raw["path"])) for raw in listed]
                told = [meta for meta in told if meta.key != prefix]
                following = await self._next_page(stream, prefix) if len(listed) < PAGE else listed
                whole = not last and following is None
                nested = [meta.key for meta in told if "/" in meta.key[start:]]
                in_order = all(one.key < other.key for one, other in pairwise([ObjectMeta(last, 0), *told]))
                # What is empty may be the marker of a directory.
                if not (in_order and all(meta.size for meta in told)) or (nested and not whole):
                    if len(nested) == len(listed):
                        self._note_depth(nested[0], nested[-1])
                    yield None
                    return
                objects = tuple(meta for meta in told if "/" not in meta.key[start:])
                below = dict.fromkeys(key[: key.index("/", start)] for key in nested)
                yield ListPage(objects, tuple(map(PrefixMeta, below)), asked_alone=True)
                last = told[-1].key if told else last
                listed = following if len(listed) < PAGE else await self._next_page(stream, prefix)
        except UnlistableKey:
            yield None

    def _note_depth(self, first: str, last: str) -> None:
        """Take note of the prefixes below which a whole page lies, but not directly."""
        prefix = commonpath(["/".join(key.split("/")[:-2]) for key in (first, last)])
        self._state.deep[""] = None
        while prefix:
            self._state.deep[prefix] = None
            prefix = prefix.rpartition("/")[0]
        while len(self._state.deep) > _MOST_DEEP:
            del self._state.deep[next(iter(self._state.deep))]

    async def _list_after(self, prefix: str, after: str) -> AsyncGenerator[ListPage, None]:
        await self._ready()
        stream = self._stream(prefix, after)
        while (listed := await self._next_page(stream, prefix)) is not None:
            told = [self._meta(raw, self._key(raw["path"])) for raw in listed]
            yield ListPage(tuple(meta for meta in told if meta.key != prefix), asked_alone=True)

    async def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        await self._ready()
        self._need("listable", prefix)
        if self._state.kind == "webdav":
            # Most servers refuse the listing of a whole tree ("Depth: infinity").
            pending = [prefix]
            while pending:
                async with aclosing(self._list_dir(pending.pop())) as pages:
                    async for page in pages:
                        pending.extend(below.prefix for below in page.prefixes)
                        if page.objects:
                            yield ListPage(objects=page.objects)
            return
        stream = self._stream(prefix)
        try:
            while (listed := await self._next_page(stream, prefix)) is not None:
                told = [self._meta(raw, self._key(raw["path"])) for raw in listed]
                yield ListPage(objects=tuple([meta for meta in told if await self._is_object(meta, prefix)]))
        except UnlistableKey as error:
            async with aclosing(self._spare(error).list_all(prefix)) as pages:
                async for page in pages:
                    yield page

    async def _is_object(self, meta: ObjectMeta, prefix: str) -> bool:
        """Whether a listed key is more than the marker of a directory (see `_list_dir`)."""
        if meta.key == prefix:
            return False
        if meta.size or self._state.kind in {"local", "memory"}:
            return True
        try:
            await self._head(meta.key)
        except NotFound:
            return False
        return True

    def _stream(self, prefix: str, after: str = "") -> Iterator[Sequence[Any]]:
        offset = self._path(after) if after else None
        return iter(obstore.list(self._obstore, self._path(prefix) or None, offset=offset, chunk_size=PAGE))

    async def _next_page(self, stream: Iterator[Sequence[Any]], prefix: str) -> Sequence[Any] | None:
        try:
            return await self._call(lambda: next(stream, None), prefix)
        except NotFound:
            if prefix and self._state.kind == "local":  # what is below a file
                return None
            raise

    async def _listed(self, prefix: str) -> Any:
        path = self._path(prefix) or None
        try:
            return await self._call(lambda: obstore.list_with_delimiter(self._obstore, path), prefix)
        except NotFound:
            if prefix and self._state.kind in {"local", "webdav"}:  # what is below a file
                return {"objects": [], "common_prefixes": []}
            raise

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
        if self._state.kind == "http":
            raise ReadOnly("a plain web server cannot be written", key=key)
        sending = Sending(body)
        try:
            size, told = await self._send(key, sending, if_absent, if_version)
        except BodyFailed as failed:
            raise failed.error from None
        except AlreadyExists as error:
            if if_absent:
                raise
            if if_version is not None:
                raise Precondition("it is being changed by somebody else", key=key) from error
            raise Unsupported("something else is in the way of this key", key=key) from error
        finally:
            if not sending.ended.is_set():  # cancelled: what is being read of the body is soon read
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(sending.give_up)
        return await self._meta_of_put(key, size, told)

    def check_new_key(self, key: str) -> None:
        """Raise InvalidKey for a key that this kind of store cannot have."""
        self._new_path(check_key(key))

    async def _send(
        self, key: str, sending: Sending, if_absent: bool, if_version: str | None
    ) -> tuple[int, Any]:
        """Put a body on a condition; return its size and what obstore told."""
        path = self._new_path(key)
        source = sending.body
        size = source.size() if source.in_memory else await anyio.to_thread.run_sync(source.size)
        if size >= LARGE and self._state.kind in _IN_PARTS:
            check = partial(self._check_condition, key, path, if_absent, if_version)
            send = partial(
                send_in_parts, self._obstore, path, sending, check, connections=self._part_connections
            )
            put_in_parts = partial(self._until_ended, sending, send, in_parts=True)
            async with self._connections(self._part_connections):
                return await self._call(put_in_parts, key, putting=True, large=True)

        async def put(mode: Any) -> tuple[int, Any]:
            send = partial(send_whole, self._obstore, path, sending, mode)
            return await self._call(partial(self._until_ended, sending, send), key, putting=True)

        if if_version is None:
            return await put("create" if if_absent else None)
        try:
            return await put(self._update(if_version))
        except Precondition as error:
            if self._state.bare_etags or not _failure_of(error).quoted_tags_refused:
                raise
        told = await put({"e_tag": if_version})
        self._state.bare_etags = True
        return told

    def _until_ended(self, sending: Sending, send: Callable[[], T], *, in_parts: bool = False) -> T:
        """Send, in a thread, and tell those who wait for the end of it."""
        sending.ended.clear()
        if in_parts:
            self._state.in_parts.add(sending)
        try:
            return send()
        finally:
            self._state.in_parts.discard(sending)
            sending.ended.set()

    def _check_condition(self, key: str, path: str, if_absent: bool, if_version: str | None) -> None:
        """Raise AlreadyExists or Precondition if a put on this condition would be wrong now; in a thread."""
        if not if_absent and if_version is None:
            return
        try:
            version = self._meta(obstore.head(self._obstore, path), key).version
        except FileNotFoundError:
            version = None
        else:
            if if_absent:
                raise AlreadyExists("the key is taken", key=key)
        if version != if_version:
            raise Precondition("it is not of that version any more", key=key)

    async def _meta_of_put(self, key: str, size: int, told: Any) -> ObjectMeta:
        version = self._version(told["e_tag"], None, size)
        if self._state.kind == "webdav":
            return ObjectMeta(key, size)
        if version is None or self._state.kind in {"local", "memory"}:
            meta = await self._head(key)
            return meta if version in (None, meta.version) else ObjectMeta(key, size, None, version)
        return ObjectMeta(key, size, None, version)

    def _update(self, version: str) -> dict[str, str]:
        return {"e_tag": version if self._state.bare_etags else f'"{version}"'}

    async def _delete(self, key: str) -> None:
        await self._ready()
        if self._state.kind == "webdav":
            await self._head(key)  # a DELETE of a directory would take with it all that is below
        await self._call(lambda: obstore.delete(self._obstore, self._path(key)), key)

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        await self._ready()
        if not self.capabilities.server_copy or (if_absent and self._state.kind == "s3"):
            # What S3 has for copies if absent, few of its kind do right.
            return await super()._copy(source, target, if_absent)
        paths = self._path(source), self._new_path(target)
        try:
            await self._call(lambda: obstore.copy(self._obstore, *paths, overwrite=not if_absent), source)
        except AlreadyExists as error:
            raise AlreadyExists(error.message, key=target) from error.__cause__
        except Denied:
            await self._head(source)  # a disk forbids the copy of a directory: NotFound
            raise
        return await self._head(target)

    # -- translation ---------------------------------------------------------------------------

    @property
    def _is_web(self) -> bool:
        return self._state.kind in {"http", "webdav"}

    def _path(self, key: str) -> str:
        if _CONTROL.search(key):
            raise InvalidKey("object stores cannot hold a key with control characters", key=key)
        if self._state.kind == "azure" and ("\\" in key or "\ufffe" in key or "\uffff" in key):
            raise InvalidKey("Azure takes a backslash for a slash, and U+FFFE and U+FFFF not at all", key=key)
        return join(self._prefix, key)

    def _new_path(self, key: str) -> str:
        path = self._path(key)
        if self._state.kind == "local":
            for name in key.split("/"):
                # It writes NAME#1 first, and hides what is called so.
                if len(name.encode()) > MAX_NAME_BYTES - 2 or _STAGED.search(name):
                    raise InvalidKey(f"obstore cannot write a file called {name!r}", key=key)
        return path

    def _key(self, path: str) -> str:
        return path.removeprefix(self._prefix).lstrip("/") if self._prefix else path

    def _meta(self, raw: Any, key: str) -> ObjectMeta:
        when = raw["last_modified"]
        nanoseconds = int(when.timestamp()) * 10**9
        if self._state.kind in {"local", "memory"}:
            nanoseconds += when.microsecond * 1000
        # Elsewhere some answers have fractions of seconds and some have not.
        mtime = nanoseconds or None
        return ObjectMeta(key, raw["size"], mtime, self._version(raw["e_tag"], mtime, raw["size"]))

    def _version(self, e_tag: str | None, mtime_ns: int | None, size: int) -> str | None:
        if self._state.kind == "webdav":
            return None
        if e_tag:
            return e_tag.removeprefix('"').removesuffix('"')  # some listings have the quotes, some not
        if self._state.kind == "http" and mtime_ns is not None:
            return f"time:{mtime_ns // 10**9}-{size}"
        return None

    # -- calls ---------------------------------------------------------------------------------

    async def _call(
        self,
        work: Callable[[], T],
        key: str | None,
        *,
        opening: bool = False,
        putting: bool = False,
        large: bool = False,
    ) -> T:
        """Run `work` in a thread and translate what it raises."""

        def run() -> T:
            try:
                return work()
            except OBSTORE_ERRORS as error:
                raise self._translated(error, key, opening=opening, putting=putting) from error

        limiter = self._large_limiter if large else self._limiter
        return await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=limiter)

    def _translated(
        self, error: BaseException, key: str | None, *, opening: bool, putting: bool
    ) -> StoreError:
        if opening and Failure.of(error).no_bucket:
            return NotFound(f"there is no {self._place.bucket} at {self._place.endpoint}")
        found = translate(
            error, key, place=self.location, endpoint=self._place.endpoint, bucket=self._place.bucket
        )
        if putting and isinstance(found, NotFound):
            return Unsupported("something else is in the way of this key", key=key, os_errno=found.os_errno)
        return found

    @asynccontextmanager
    async def _connections(self, count: int) -> AsyncIterator[None]:
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

    async def _ask_web(self, ask: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._limiter)
        except OSError as error:
            raise Unavailable(f"no answer from {self._place.endpoint}") from error


def _failure_of(error: StoreError) -> Failure:
    """Return what obstore told of an error; nothing, if it was not obstore that told."""
    return Failure.of(error.__cause__ or Exception())


def _status_of(error: StoreError) -> int | None:
    return _failure_of(error).status


def _first(errors: BaseExceptionGroup[StoreError]) -> StoreError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
