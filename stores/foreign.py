"""Anybody's zarr-python store as one of ours, and some of them unwrapped into better ones.

A ``zarr.abc.store.Store`` tells much less than a store of ours: no versions, no
times, and no sizes in listings.  What it leaves out costs requests here (a
listing asks for the size of every object), so :func:`unwrap` looks for the
directory, bucket or file system below the well-known ones.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import PurePath
from typing import Any, Literal, Self

import anyio
from zarr.abc.store import RangeByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import default_buffer_prototype

from stores.base import Store
from stores.bridge import Bridge
from stores.concurrency import LoopLimiter, for_each
from stores.errors import AlreadyExists, InvalidKey, NotFound, Unsupported
from stores.keys import join
from stores.meta import (
    AttributeChange,
    Body,
    Capabilities,
    ListPage,
    Lookup,
    ObjectMeta,
    PrefixMeta,
    read_body,
)
from stores.translation import translate_error
from stores.urls import redact

__all__ = ["ForeignStore", "unwrap"]

_PAGE = 1000
_LARGE = 1 << 26


class ForeignStore(Store):
    """A store over a store of zarr-python.

    Parameters
    ----------
    zarr_store : zarr.abc.store.Store
        Any; used on the loop of :meth:`stores.bridge.Bridge.shared` only.
    read_only : bool, optional
        Refuse every change; by default as `zarr_store` itself.
    concurrency : int
        Calls at once.

    Notes
    -----
    ``put(if_absent=True)`` is never declared: a zarr store's ``set_if_not_exists`` may be a look and
    then a set, and where it is one step it does not tell whether the value was taken.
    """

    def __init__(
        self, zarr_store: ZarrStore, *, read_only: bool | None = None, concurrency: int = 64
    ) -> None:
        self._fixed = zarr_store.read_only or not zarr_store.supports_writes
        super().__init__(read_only=self._fixed if read_only is None else read_only or self._fixed)
        self._zarr = zarr_store
        self._concurrency = concurrency
        self._limiter = LoopLimiter(concurrency)
        self._is_tree = type(zarr_store).__name__ in _TREES
        self.capabilities = Capabilities(
            listable=bool(zarr_store.supports_listing), ranges=_reads_ranges(zarr_store)
        )

    @property
    def zarr_store(self) -> ZarrStore:
        """The store of zarr-python."""
        return self._zarr

    @property
    def location(self) -> str:
        """What the zarr store says of itself."""
        return redact(_where(self._zarr))

    def with_read_only(self, read_only: bool = True) -> Self:
        """Return the same store with another `read_only`; it stays so where the zarr store is."""
        return super().with_read_only(read_only or self._fixed)

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the zarr store, where that was not done."""
        await self._run(None, self._zarr._ensure_open)

    async def aclose(self) -> None:
        """Do nothing: the zarr store belongs to whoever made it."""

    # -- reading -------------------------------------------------------------------------------

    async def _head(self, key: str) -> ObjectMeta:
        return ObjectMeta(key, await self._run(key, _size_of_object, self._zarr, key))

    async def _lookup(self, path: str) -> Lookup:
        listable = self.capabilities.listable
        kind, size = await self._run(path, _kind_and_size, self._zarr, path, listable, self._is_tree)
        if kind is None:
            raise NotFound("no such key", key=path)
        return Lookup(
            ObjectMeta(path, size) if kind != "prefix" else None,
            PrefixMeta(path) if kind != "object" else None,
        )

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        self._refuse_condition(if_version, key)
        data = await self._run(key, _get, self._zarr, key, None)
        return data, ObjectMeta(key, len(data))

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        self._refuse_condition(if_version, key)
        data: bytes = await self._run(key, _get, self._zarr, key, (start, stop))
        return data

    def _refuse_condition(self, if_version: str | None, key: str) -> None:
        if if_version is not None:
            raise Unsupported("zarr stores have no versions", key=key)

    # -- listing -------------------------------------------------------------------------------

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        names = await self._names(prefix, self._zarr.list_dir)
        keys = [join(prefix, name) for name in sorted(names)]
        for first in range(0, len(keys), _PAGE):
            page = await self._page(keys[first : first + _PAGE])
            if page.objects or page.prefixes:
                yield page

    async def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        below = f"{prefix}/" if prefix else ""
        found = await self._names(prefix, self._zarr.list_prefix)
        keys = sorted(key for key in found if key.startswith(below))
        for first in range(0, len(keys), _PAGE):
            page = await self._page(keys[first : first + _PAGE], prefixes=False)
            if page.objects:
                yield page

    async def _names(self, prefix: str, method: Callable[[str], AsyncIterator[str]]) -> set[str]:
        """Collect a listing of the zarr store; a name that begins with ``/`` or is empty is no key."""
        if not self.capabilities.listable:
            raise Unsupported("this zarr store cannot be listed", key=prefix or None)
        recursive = method == self._zarr.list_prefix
        try:
            found = await self._run(
                prefix, _collect, method, f"{prefix}/" if prefix and recursive else prefix
            )
        except NotFound:
            return set()  # as some of them answer for a prefix that holds nothing
        return {name.rstrip("/") for name in found if name.rstrip("/")}

    async def _page(self, keys: list[str], *, prefixes: bool = True) -> ListPage:
        """Ask what each of the names is; zarr does not tell."""
        objects: list[ObjectMeta] = []
        below: list[PrefixMeta] = []

        async def ask(key: str) -> None:
            kind, size = await self._run(key, _kind_and_size, self._zarr, key, prefixes, self._is_tree)
            if kind in ("object", "both"):
                objects.append(ObjectMeta(key, size))
            if kind in ("prefix", "both"):
                below.append(PrefixMeta(key))

        await for_each(ask, keys)
        return ListPage(tuple(objects), tuple(below))

    # -- writing -------------------------------------------------------------------------------

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,  # noqa: ARG002 - never given: not declared
        if_version: str | None,  # noqa: ARG002 - as above
        attributes: AttributeChange | None,  # noqa: ARG002 - only for stores with posix
    ) -> ObjectMeta:
        data = bytes(await anyio.to_thread.run_sync(read_body, body))
        try:
            await self._run(key, _set, self._zarr, key, data)
        except NotFound as error:  # ENOTDIR and EISDIR of its file system
            raise AlreadyExists("an object or a directory is in the way", key=key) from error
        return ObjectMeta(key, len(data))

    async def _delete(self, key: str) -> None:
        if not self._zarr.supports_deletes:
            raise Unsupported("this zarr store cannot delete", key=key)
        await self._run(key, _delete, self._zarr, key)

    # -- calls ---------------------------------------------------------------------------------

    async def _run(self, key: str | None, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        async with self._limiter.get():
            try:
                return await Bridge.shared().run(function, *args)
            except Exception as error:
                raise translate_error(error, key or None) from error


# -- what runs on the loop of the zarr store -------------------------------------------------------


async def _get(store: ZarrStore, key: str, limits: tuple[int, int] | None) -> bytes:
    if limits is not None and limits[1] - limits[0] > _LARGE:  # some make room for all that is asked for
        limits = limits[0], max(limits[0] + 1, min(limits[1], await _size(store, key)))
    if limits is None:
        value = await store.get(key, default_buffer_prototype())
    else:
        try:
            value = await store.get(key, default_buffer_prototype(), RangeByteRequest(*limits))
        except Exception:
            # Ours is to stop at the end; some classes raise for a range that reaches beyond it.
            size = await _size(store, key)
            if limits[0] >= size:
                return b""
            if limits[1] <= size:
                raise
            value = await store.get(key, default_buffer_prototype(), RangeByteRequest(limits[0], size))
    if value is None:
        raise NotFound("no such key", key=key)
    data = value.to_bytes()
    return data if limits is None else data[: limits[1] - limits[0]]


async def _set(store: ZarrStore, key: str, data: bytes) -> None:
    await store.set(key, default_buffer_prototype().buffer.from_bytes(data))


async def _delete(store: ZarrStore, key: str) -> None:
    # LocalStore deletes the whole directory of that name; nothing but a key may get there.
    if not await _exists(store, key):
        raise NotFound("no such key", key=key)
    await store.delete(key)


async def _size(store: ZarrStore, key: str) -> int:
    try:
        return await store.getsize(key)
    except FileNotFoundError as error:
        raise NotFound("no such key", key=key) from error


async def _collect(method: Callable[[str], AsyncIterator[str]], prefix: str) -> list[str]:
    return [name async for name in method(prefix)]


async def _kind_and_size(
    store: ZarrStore, key: str, prefixes: bool, is_tree: bool
) -> tuple[Literal["object", "prefix", "both"] | None, int]:
    """Tell whether a name is an object, a prefix, both, or gone by now."""
    size = None
    with suppress(NotFound):
        size = await _size_of_object(store, key)
    below = prefixes and not (is_tree and size is not None) and await _holds_something(store, key)
    if size is None:
        return ("prefix" if below else None), 0
    return ("both" if below else "object"), size


async def _size_of_object(store: ZarrStore, key: str) -> int:
    # Some stores give the size of a directory (LocalStore does): whether it exists as a key decides.
    if not await _exists(store, key):
        raise NotFound("no such key", key=key)
    return await _size(store, key)


async def _exists(store: ZarrStore, key: str) -> bool:
    """Ask for a key; one that the store cannot hold is not there."""
    try:
        return await store.exists(key)
    except Exception as error:
        if isinstance(translate_error(error, key), InvalidKey):
            return False
        raise


async def _holds_something(store: ZarrStore, prefix: str) -> bool:
    try:
        async for name in store.list_dir(prefix):
            key = f"{prefix}/{name.rstrip('/')}"
            if key == prefix + "/":  # the key ``prefix//...``: it cannot be asked for, and is there
                return True
            if await _exists(store, key) or await _holds_something(store, key):  # not an empty directory
                return True
    except (FileNotFoundError, NotADirectoryError):
        pass
    return False


# -- what is known of zarr's own classes -----------------------------------------------------------


_TREES = ("LocalStore",)
"""Classes in which nothing is an object and a prefix as well."""


def _reads_ranges(store: ZarrStore) -> bool:
    """Whether a range moves about its bytes only; unknown classes promise nothing."""
    return type(store).__name__ in ("LocalStore", "FsspecStore", "ObjectStore", "MemoryStore")


def _where(store: ZarrStore) -> str:
    text = str(store)
    return text if "://" in text else f"zarr:{type(store).__name__}"


def unwrap(zarr_store: ZarrStore) -> Store | None:
    """Return a store of ours over what `zarr_store` keeps its data in, or None.

    Parameters
    ----------
    zarr_store : zarr.abc.store.Store
        Unwrapped if it is, exactly, a ``LocalStore``, ``FsspecStore`` or ``ObjectStore`` of
        ``zarr.storage``: a subclass may have changed what a key means.

    Returns
    -------
    Store or None
        As read-only as `zarr_store`.
    """
    from zarr.storage import FsspecStore, LocalStore, ObjectStore

    if type(zarr_store) is LocalStore:
        from stores.local import LocalStore as OurLocalStore

        return OurLocalStore(PurePath(zarr_store.root), read_only=zarr_store.read_only)
    if type(zarr_store) is FsspecStore:
        from stores.filesystems import FsspecStore as OurFsspecStore

        return OurFsspecStore(zarr_store.fs, zarr_store.path, read_only=zarr_store.read_only)
    if type(zarr_store) is ObjectStore:
        from stores.objects import ObjectStore as OurObjectStore

        return OurObjectStore(zarr_store.store, read_only=zarr_store.read_only)
    return None
