"""Every store of ours as a store of zarr-python."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Any, Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.common import concurrent_map
from zarr.core.config import config

from stores.base import Store
from stores.concurrency import for_each
from stores.errors import AlreadyExists, InvalidKey, NotFound, Precondition
from stores.keys import join, split

__all__ = ["ZarrStoreAdapter", "as_zarr_store"]

_END = 1 << 50
"""Behind the end of any object; a range may stop there."""

_ATTEMPTS = 4


def as_zarr_store(store: Store) -> ZarrStore:
    """Return `store` as zarr-python takes it; what wraps a zarr store is unwrapped.

    Parameters
    ----------
    store : Store
        Of ours.  It still belongs to the caller, who closes it.
    """
    from stores.foreign import ForeignStore

    if type(store) is ForeignStore:
        zarr_store = store.zarr_store
        return zarr_store if zarr_store.read_only == store.read_only else ZarrStoreAdapter(store)
    return ZarrStoreAdapter(store)


class ZarrStoreAdapter(ZarrStore):
    """A store of ours behind zarr-python's interface.

    Parameters
    ----------
    store : Store
        Used on whichever event loops zarr-python runs.  Closing the adapter does not close it.
    read_only : bool, optional
        Refuse every change; by default as `store` itself.

    Notes
    -----
    It can be pickled, and equals another, where the store can be made again elsewhere: not over the
    memory of this process, nor over an archive that is being written.
    """

    def __init__(self, store: Store, *, read_only: bool | None = None) -> None:
        if read_only is not None and read_only != store.read_only:
            store = store.with_read_only(read_only)
        super().__init__(read_only=store.read_only)
        self.store = store

    # -- what it is ----------------------------------------------------------------------------

    supports_writes: bool = True
    supports_deletes: bool = True

    @property
    def supports_listing(self) -> bool:
        """Whether the store can be listed."""
        return self.store.capabilities.listable

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return an adapter of the same store with another `read_only`."""
        return type(self)(self.store, read_only=read_only)

    def __str__(self) -> str:
        return self.store.location

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ZarrStoreAdapter) or self.read_only != other.read_only:
            return False
        return _is_same(self.store, other.store)

    __hash__ = None  # type: ignore[assignment]  # as every store of zarr-python

    def __reduce__(self) -> tuple[Any, ...]:
        recipe = _recipe(self.store)
        if recipe is None:
            raise TypeError(f"{self.store!r} cannot be made again from a pickle")
        return _remake, (type(self), recipe, self.read_only)

    async def _open(self) -> None:
        await super()._open()
        await self.store.open()

    # -- reading -------------------------------------------------------------------------------

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a key, or of a part of it; None if there is no such key."""
        await self._ensure_open()
        try:
            data = await self._read(key, byte_range)
        except (NotFound, InvalidKey):
            return None
        return prototype.buffer.from_bytes(data)

    async def _read(self, key: str, byte_range: ByteRequest | None) -> bytes:
        match byte_range:
            case None:
                data, _ = await self.store.get(key)
                return data
            case RangeByteRequest(start, end):
                return await self.store.get_range(key, start, end)
            case OffsetByteRequest(offset):
                return await self.store.get_range(key, offset, max(offset, _END))
            case SuffixByteRequest(suffix):
                return await self._read_suffix(key, suffix)
            case _:
                raise ValueError(f"Unexpected byte_range, got {byte_range}.")

    async def _read_suffix(self, key: str, suffix: int) -> bytes:
        for left in reversed(range(_ATTEMPTS)):
            meta = await self.store.head(key)
            start = max(0, meta.size - suffix)
            try:
                return await self.store.get_range(key, start, meta.size, if_version=meta.version)
            except Precondition:  # replaced in between: its end is elsewhere now
                if not left:
                    raise
        raise AssertionError("not reached")

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of several keys, in their order."""
        wanted = [(key, prototype, byte_range) for key, byte_range in key_ranges]
        return await concurrent_map(wanted, self.get, limit=config.get("async.concurrency"))

    async def exists(self, key: str) -> bool:
        """Tell whether there is such a key; a prefix is none."""
        await self._ensure_open()
        try:
            await self.store.head(key)
        except (NotFound, InvalidKey):
            return False
        return True

    async def getsize(self, key: str) -> int:
        """Return the size of a key, without reading it."""
        await self._ensure_open()
        try:
            return (await self.store.head(key)).size
        except NotFound as error:
            raise FileNotFoundError(key) from error

    async def getsize_prefix(self, prefix: str) -> int:
        """Return the size of all below a prefix, from the listing alone."""
        await self._ensure_open()
        size = 0
        async with aclosing(self.store.list_all(prefix.strip("/"))) as pages:
            async for page in pages:
                size += sum(meta.size for meta in page.objects)
        return size

    # -- listing -------------------------------------------------------------------------------

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with a string, which may end within a name."""
        await self._ensure_open()
        above, _ = split(prefix)
        async with aclosing(self.store.list_all(above.strip("/"))) as pages:
            async for page in pages:
                for meta in page.objects:
                    if meta.key.startswith(prefix):
                        yield meta.key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix."""
        await self._ensure_open()
        prefix = prefix.strip("/")
        seen: set[str] = set()
        async with aclosing(self.store.list_dir(prefix)) as pages:
            async for page in pages:
                keys = [meta.key for meta in page.objects] + [below.prefix for below in page.prefixes]
                for name in (key[len(prefix) + 1 :] if prefix else key for key in keys):
                    if name not in seen:
                        seen.add(name)
                        yield name

    # -- writing -------------------------------------------------------------------------------

    async def set(self, key: str, value: Buffer) -> None:
        """Store the bytes of a key, whole and atomically."""
        await self._put(key, value, if_absent=False)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store the bytes of a key unless it is there; in one step where the store can."""
        if not self.store.capabilities.create_if_absent:
            await super().set_if_not_exists(key, value)
            return
        with suppress(AlreadyExists):
            await self._put(key, value, if_absent=True)

    async def _put(self, key: str, value: Buffer, *, if_absent: bool) -> None:
        self._check_writable()
        if not isinstance(value, Buffer):
            raise TypeError(f"the value of {key!r} must be a Buffer, not a {type(value).__name__}")
        await self._ensure_open()
        await self.store.put(key, value.to_bytes(), if_absent=if_absent)

    async def delete(self, key: str) -> None:
        """Delete a key; no error if it is not there."""
        self._check_writable()
        await self._ensure_open()
        with suppress(NotFound):
            await self.store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all that is below a prefix, and the directories themselves where there are any."""
        self._check_writable()
        await self._ensure_open()
        prefix = prefix.strip("/")
        keys = [key async for key in self.list_prefix(f"{prefix}/" if prefix else "")]
        await for_each(self.delete, keys)
        if self.store.capabilities.directories:
            await self._remove_dirs(prefix)

    async def _remove_dirs(self, prefix: str) -> None:
        names = [name async for name in self.list_dir(prefix)]
        for name in names:
            await self._remove_dirs(join(prefix, name))
        if prefix:
            with suppress(NotFound):
                await self.store.remove_dir(prefix)


# -- the same store again --------------------------------------------------------------------------

Recipe = tuple[Callable[..., Store], tuple[Any, ...]]


def _recipe(store: Store) -> Recipe | None:
    """Return how to make the store again in another process, or None where that is impossible."""
    from stores import filesystems, foreign, local, memory, objects, zipped

    match store:
        case filesystems.FsspecStore():
            return store.recipe
        case foreign.ForeignStore():
            return foreign.ForeignStore, (store.zarr_store,)
        case local.LocalStore():
            return local.LocalStore, (str(store.path),)
        case memory.MemoryStore() if store.location != "memory://":
            return memory.MemoryStore.named, (store.location.removeprefix("memory://"),)
        case objects.ObjectStore():
            return _object_store, (store._obstore, store._prefix, store.location)
        case zipped.ZipStore() if store.read_only:
            return zipped.ZipStore, (store.location,)
        case _:
            return None


def _object_store(obstore: Any, prefix: str, location: str) -> Store:
    from stores.objects import ObjectStore

    return ObjectStore(obstore, prefix=prefix, location=location)


def _remake(cls: type[ZarrStoreAdapter], recipe: Recipe, read_only: bool) -> ZarrStoreAdapter:
    make, args = recipe
    return cls(make(*args), read_only=read_only)


def _is_same(one: Store, other: Store) -> bool:
    if type(one) is not type(other):
        return False
    mine, theirs = ({**vars(store), "_read_only": None} for store in (one, other))
    if mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine):
        return True  # views of one store
    recipe = _recipe(one)
    return recipe is not None and recipe == _recipe(other)
