"""A store over a dict that counts its calls and fails as it is told to."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import trio

from stores.base import ObjectReader, Store
from stores.errors import AlreadyExists, NotFound, Precondition, StoreError, Unavailable
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

__all__ = ["LOCAL_LIKE", "MINIMAL", "S3_LIKE", "FakeStore", "Fault"]

S3_LIKE = Capabilities(
    listable=True,
    ordered=True,
    ranges=True,
    versions=True,
    create_if_absent=True,
    replace_if_version=True,
    server_copy=True,
)
LOCAL_LIKE = dataclasses.replace(S3_LIKE, rename=True, directories=True, snapshot_reads=True)
MINIMAL = Capabilities(listable=True)

Result = TypeVar("Result")


@dataclasses.dataclass(slots=True)
class Fault:
    """What goes wrong with the calls that it matches.

    Attributes
    ----------
    method, key : str or None
        Which calls; None: any.
    error : callable
        Makes the error that is raised.
    skip : int
        So many matching calls go well first.
    times : int or None
        So many fail then; None: all.
    after : bool
        The call has its effect all the same, and then fails.
    hang : bool
        The call does not return (after its effect, with `after`).
    """

    method: str | None = None
    key: str | None = None
    error: Callable[[], StoreError] = lambda: Unavailable("scripted failure")
    skip: int = 0
    times: int | None = None
    after: bool = False
    hang: bool = False

    def strikes(self, method: str, key: str) -> bool:
        if self.method not in (None, method) or self.key not in (None, key):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclasses.dataclass(slots=True)
class _Object:
    data: bytes
    meta: ObjectMeta


class _SnapshotReader(ObjectReader):
    def __init__(self, store: FakeStore, found: _Object) -> None:
        self._store = store
        self._data = found.data
        self.meta = found.meta
        self.closed = False

    async def read(self, start: int, size: int) -> bytes:
        assert not self.closed
        return await self._store._call("read", self.meta.key, lambda: self._data[start : start + size])

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            self._store.open_readers -= 1


class FakeStore(Store):
    """Objects in a dict; everything about it can be set.

    Attributes
    ----------
    calls : list of (str, str)
        The method and the key of each call, in order.
    faults : list of Fault
        What goes wrong; the first that matches counts.
    latency : float
        Seconds that each call takes.
    """

    def __init__(
        self,
        data: dict[str, bytes] | None = None,
        capabilities: Capabilities = S3_LIKE,
        *,
        page: int = 1000,
        tells_missing: bool = False,
        read_only: bool = False,
    ) -> None:
        super().__init__(read_only=read_only)
        self.capabilities = capabilities
        self.objects: dict[str, _Object] = {}
        self.dirs: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.latency = 0.0
        self.page = page
        self.tells_missing = tells_missing
        self.open_readers = 0
        self._count = 0
        for key, value in (data or {}).items():
            self.change(key, value)

    # -- for tests -----------------------------------------------------------------------------

    @property
    def location(self) -> str:
        return "fake://"

    @property
    def data(self) -> dict[str, bytes]:
        return {key: found.data for key, found in self.objects.items()}

    def change(self, key: str, data: bytes | None) -> None:
        """Change an object behind everybody's back; None deletes it."""
        if data is None:
            del self.objects[key]
        else:
            self._set(key, data)

    def count(self, method: str | None = None, key: str | None = None) -> int:
        """Return how many calls there were."""
        return sum(method in (None, m) and key in (None, k) for m, k in self.calls)

    def fail(self, method: str | None = None, key: str | None = None, **how: object) -> Fault:
        """Let calls fail; see `Fault`."""
        fault = Fault(method, key, **how)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    # -- hooks ---------------------------------------------------------------------------------

    async def _call(self, method: str, key: str, effect: Callable[[], Result]) -> Result:
        self.calls.append((method, key))
        fault = next((fault for fault in self.faults if fault.strikes(method, key)), None)
        await trio.sleep(self.latency)
        if fault is not None and not fault.after:
            await self._strike(fault)
        result = effect()
        if fault is not None:
            await self._strike(fault)
        return result

    async def _strike(self, fault: Fault) -> None:
        if fault.hang:
            await trio.sleep_forever()
        raise fault.error()

    def _set(self, key: str, data: bytes) -> ObjectMeta:
        self._count += 1
        version = str(self._count) if self.capabilities.versions else None
        meta = ObjectMeta(key, len(data), self._count * 10**9, version)
        self.objects[key] = _Object(bytes(data), meta)
        self._make_parents(key)
        return meta

    def _make_parents(self, key: str) -> None:
        while self.capabilities.directories and (key := key.rpartition("/")[0]):
            self.dirs.add(key)

    def _find(self, key: str, if_version: str | None = None) -> _Object:
        if key not in self.objects:
            raise NotFound("no such key", key=key)
        if if_version is not None and self.objects[key].meta.version != if_version:
            raise Precondition("changed", key=key)
        return self.objects[key]

    def _is_dir(self, path: str) -> bool:
        return path in self.dirs or any(key.startswith(f"{path}/") for key in self.objects)

    async def _head(self, key: str) -> ObjectMeta:
        return await self._call("head", key, lambda: self._find(key).meta)

    async def _lookup(self, path: str) -> Lookup:
        def look() -> Lookup:
            found = self.objects.get(path)
            is_dir = self.capabilities.listable and self._is_dir(path)
            if found is None and not is_dir:
                raise NotFound("no such key", key=path)
            return Lookup(found.meta if found else None, PrefixMeta(path) if is_dir else None)

        return await self._call("lookup", path, look)

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        found = await self._call("get", key, lambda: self._find(key, if_version))
        return found.data, found.meta

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        return await self._call("get_range", key, lambda: self._find(key, if_version).data[start:stop])

    async def _open_reader(self, key: str, if_version: str | None) -> ObjectReader:
        if not self.capabilities.snapshot_reads:
            return await super()._open_reader(key, if_version)
        reader = _SnapshotReader(
            self, await self._call("open_reader", key, lambda: self._find(key, if_version))
        )
        self.open_readers += 1
        return reader

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,
        attributes: AttributeChange | None,
    ) -> ObjectMeta:
        def put() -> ObjectMeta:
            if if_absent and key in self.objects:
                raise AlreadyExists("taken", key=key)
            if if_version is not None and key not in self.objects:
                raise Precondition("gone", key=key)
            if if_version is not None:
                self._find(key, if_version)
            return self._set(key, bytes(read_body(body)))

        return await self._call("put", key, put)

    async def _delete(self, key: str) -> None:
        def delete() -> None:
            if self.tells_missing or self.capabilities.directories:
                self._find(key)
            self.objects.pop(key, None)

        await self._call("delete", key, delete)

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        def copy() -> ObjectMeta:
            if if_absent and target in self.objects:
                raise AlreadyExists("taken", key=target)
            return self._set(target, self._find(source).data)

        return await self._call("copy", target, copy)

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        head = f"{prefix}/" if prefix else ""
        metas = [found.meta for key, found in sorted(self.objects.items()) if key.startswith(head)]
        direct = [meta for meta in metas if "/" not in meta.key[len(head) :]]
        below = {head + meta.key[len(head) :].split("/")[0] for meta in metas} - {m.key for m in direct}
        below |= {head + m.key[len(head) :].split("/")[0] for m in metas if "/" in m.key[len(head) :]}
        below |= {path for path in self.dirs if path.startswith(head) and "/" not in path[len(head) :]}
        entries: list[ObjectMeta | PrefixMeta] = [*map(PrefixMeta, sorted(below)), *direct]
        for page in await self._pages(prefix, entries):
            yield ListPage(
                tuple(entry for entry in page if isinstance(entry, ObjectMeta)),
                tuple(entry for entry in page if isinstance(entry, PrefixMeta)),
            )
            await self._call("next_page", prefix, lambda: None)

    async def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        head = f"{prefix}/" if prefix else ""
        metas = [found.meta for key, found in sorted(self.objects.items()) if key.startswith(head)]
        for page in await self._pages(prefix, metas):
            yield ListPage(tuple(page))

    async def _list_after(self, prefix: str, after: str) -> AsyncGenerator[ListPage, None]:
        head = f"{prefix}/" if prefix else ""
        while True:
            left = sorted(key for key in self.objects if key.startswith(head) and key > after)
            metas = [self.objects[key].meta for key in left[: self.page]]
            await self._call("list_after", prefix, lambda: None)
            yield ListPage(tuple(metas), asked_alone=True)
            if len(left) <= self.page:
                return
            after = left[self.page - 1]

    async def _pages(self, prefix: str, entries: list[Result]) -> list[list[Result]]:
        pages = [entries[start : start + self.page] for start in range(0, len(entries), self.page)]
        return await self._call("list", prefix, lambda: pages)

    async def _rename(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        def rename() -> None:
            moved = self._find(source).data
            if if_absent and target in self.objects:
                raise AlreadyExists("taken", key=target)
            del self.objects[source]
            self._set(target, moved)

        await self._call("rename", source, rename)

    async def _make_dir(self, path: str, mode: int) -> PrefixMeta:
        def make() -> PrefixMeta:
            if self._is_dir(path) or path in self.objects:
                raise AlreadyExists("taken", key=path)
            self.dirs.add(path)
            self._make_parents(path)
            return PrefixMeta(path)

        return await self._call("make_dir", path, make)

    async def _remove_dir(self, path: str) -> None:
        def remove() -> None:
            if not self._is_dir(path):
                raise NotFound("no such directory", key=path)
            self._check_empty(path)
            self.dirs.discard(path)

        await self._call("remove_dir", path, remove)

    def _check_empty(self, path: str) -> None:
        if any(name.startswith(f"{path}/") for name in [*self.objects, *self.dirs]):
            raise StoreError("it is not empty", key=path, os_errno=errno.ENOTEMPTY)

    async def _rename_dir(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        def rename() -> None:
            if self._is_dir(target):
                self._check_empty(target)
            for key in [key for key in self.objects if key.startswith(f"{source}/")]:
                found = self.objects.pop(key)
                new = target + key[len(source) :]
                self.objects[new] = _Object(found.data, dataclasses.replace(found.meta, key=new))
            for path in [path for path in self.dirs if path == source or path.startswith(f"{source}/")]:
                self.dirs.remove(path)
                self.dirs.add(target + path[len(source) :])
            self._make_parents(target)

        await self._call("rename_dir", source, rename)
