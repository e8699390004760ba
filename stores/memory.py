"""A store in the memory of the process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Self

import anyio.lowlevel
import anyio.to_thread

from stores.base import ObjectReader, Store
from stores.errors import AlreadyExists, NotFound, Precondition
from stores.meta import AttributeChange, Body, Capabilities, ListPage, ObjectMeta, PrefixMeta, read_body

__all__ = ["MemoryStore"]

PAGE = 1000


@dataclass(slots=True)
class _Seen:
    """What was last known of one key: the very bytes object, and the meta that they were given."""

    data: bytes
    meta: ObjectMeta


class _Objects:
    """A dict of bytes and what it does not tell itself: versions and times.

    The dict may be changed by others.  A value that is not the object seen last, and differs from
    it, is a new version; the object seen last is held, so its identity cannot be reused.
    """

    _count: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self, data: dict[str, bytes]) -> None:
        self.data = data
        self.lock = threading.RLock()
        self._seen: dict[str, _Seen] = {}

    def find(self, key: str) -> _Seen:
        """Return the bytes and meta of `key` as they are now."""
        with self.lock:
            try:
                data = self.data[key]
            except KeyError:
                self._seen.pop(key, None)
                raise NotFound("no such key", key=key) from None
            seen = self._seen.get(key)
            if seen is not None and (seen.data is data or seen.data == data):
                return seen
            return self._see(key, bytes(data))

    def set(self, key: str, data: bytes) -> ObjectMeta:
        """Set `key`, which gets a new version whatever the bytes."""
        with self.lock:
            self.data[key] = data
            return self._see(key, data).meta

    def remove(self, key: str) -> bytes:
        """Remove `key` and return what it held."""
        with self.lock:
            found = self.find(key)
            del self.data[key]
            del self._seen[key]
            return found.data

    def sorted_keys(self) -> list[str]:
        """Return all keys as they are now, sorted."""
        with self.lock:
            return sorted(self.data)

    def _see(self, key: str, data: bytes) -> _Seen:
        meta = ObjectMeta(key, len(data), time.time_ns(), str(next(self._count)))
        seen = self._seen[key] = _Seen(data, meta)
        return seen


class _BytesReader(ObjectReader):
    """Reads the bytes object that was there when it was opened."""

    def __init__(self, seen: _Seen) -> None:
        self._data = seen.data
        self.meta = seen.meta

    async def read(self, start: int, size: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        return self._data[start : start + size]


class MemoryStore(Store):
    """Objects in a dict of this process.

    Parameters
    ----------
    data : dict of str to bytes, optional
        The dict to use (it is not copied).  It may be changed by others at any time: changed bytes
        are a new version.  A new dict by default.
    name : str, optional
        What `location` shows.
    read_only : bool
        Refuse every change.

    See Also
    --------
    MemoryStore.named : The store that all of the process share under a name.
    """

    capabilities = Capabilities(
        listable=True,
        ranges=True,
        versions=True,
        create_if_absent=True,
        replace_if_version=True,
        rename=True,
        server_copy=True,
        snapshot_reads=True,
    )

    _registry: ClassVar[dict[str, _Objects]] = {}

    def __init__(
        self, data: dict[str, bytes] | None = None, *, name: str | None = None, read_only: bool = False
    ) -> None:
        super().__init__(read_only=read_only)
        self._objects = _Objects({} if data is None else data)
        self._name = name

    @classmethod
    def named(cls, name: str, *, read_only: bool = False) -> Self:
        """Return a store on the objects that belong to `name` in this process."""
        store = cls(name=name, read_only=read_only)
        store._objects = cls._registry.setdefault(name, store._objects)
        return store

    @property
    def data(self) -> dict[str, bytes]:
        """The dict itself."""
        return self._objects.data

    @property
    def location(self) -> str:
        """``memory://`` and the name, if it has one."""
        return f"memory://{self._name or ''}"

    # -- reading -------------------------------------------------------------------------------

    async def _find(self, key: str, if_version: str | None) -> _Seen:
        await anyio.lowlevel.checkpoint()
        seen = self._objects.find(key)
        if if_version is not None and seen.meta.version != if_version:
            raise Precondition("it has changed since it was looked up", key=key)
        return seen

    async def _head(self, key: str) -> ObjectMeta:
        return (await self._find(key, None)).meta

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        seen = await self._find(key, if_version)
        return seen.data, seen.meta

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        return (await self._find(key, if_version)).data[start:stop]

    async def _open_reader(self, key: str, if_version: str | None) -> ObjectReader:
        return _BytesReader(await self._find(key, if_version))

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        head = f"{prefix}/" if prefix else ""
        below = [key for key in self._objects.sorted_keys() if key.startswith(head)]
        prefixes = {
            head + key[len(head) :].partition("/")[0]: None for key in below if "/" in key[len(head) :]
        }
        if prefixes:
            await anyio.lowlevel.checkpoint()
            yield ListPage(prefixes=tuple(PrefixMeta(name) for name in prefixes))
        for page in self._pages([key for key in below if "/" not in key[len(head) :]]):
            await anyio.lowlevel.checkpoint()
            yield page

    async def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        head = f"{prefix}/" if prefix else ""
        for page in self._pages([key for key in self._objects.sorted_keys() if key.startswith(head)]):
            await anyio.lowlevel.checkpoint()
            yield page

    def _pages(self, keys: list[str]) -> Iterator[ListPage]:
        for start in range(0, len(keys), PAGE):
            found = []
            for key in keys[start : start + PAGE]:
                with suppress(NotFound):  # deleted since the listing began
                    found.append(self._objects.find(key).meta)
            yield ListPage(objects=tuple(found))

    # -- writing -------------------------------------------------------------------------------

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,
        attributes: AttributeChange | None,  # noqa: ARG002 - a dict holds no modes
    ) -> ObjectMeta:
        if isinstance(body, (bytes, bytearray, memoryview)):
            await anyio.lowlevel.checkpoint()
            data = bytes(body)
        else:
            data = bytes(await anyio.to_thread.run_sync(read_body, body))
        with self._objects.lock:
            if if_absent and key in self.data:
                raise AlreadyExists("it is there already", key=key)
            if if_version is not None:
                self._check_version(key, if_version)
            return self._objects.set(key, data)

    def _check_version(self, key: str, version: str) -> None:
        try:
            found = self._objects.find(key).meta.version
        except NotFound as error:
            raise Precondition("it was deleted since it was looked up", key=key) from error
        if found != version:
            raise Precondition("it has changed since it was looked up", key=key)

    async def _delete(self, key: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._objects.remove(key)

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        data = (await self._find(source, None)).data
        return await self._put(target, data, if_absent, None, None)

    async def _rename(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        await anyio.lowlevel.checkpoint()
        objects = self._objects
        with objects.lock:
            moved = objects.find(source).data
            if if_absent and target in self.data:
                raise AlreadyExists("it is there already", key=target)
            if exchange:
                objects.set(source, objects.find(target).data)
            elif source != target:
                objects.remove(source)
            objects.set(target, moved)
