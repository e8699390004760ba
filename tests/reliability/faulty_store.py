"""A store with faults in front of another: what a bad network does, without any network.

==========  ==================================================================================
latency     the call takes a while
refused     Unavailable; nothing happened
slow_down   as `refused`, in the words of a server that is asked too much
dropped     the call has its effect, and then Unavailable: the answer was lost on the way
stall       no answer; nothing happened
lost        no answer, and the call has its effect at once
late        Unavailable, and the put takes place a while later all the same
expired     Denied; nothing happened
short       a read gives fewer bytes than there are, and says nothing
==========  ==================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import trio
from reliability.faults import Schedule

from stores.base import ObjectReader, Store
from stores.errors import Denied, StoreError, Unavailable
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

__all__ = ["KINDS", "FaultyStore"]

KINDS = ("latency", "refused", "slow_down", "dropped", "stall", "lost", "late", "expired", "short")
_ANY = frozenset(KINDS) - {"late", "short"}
_READ = _ANY | {"short"}
_PUT = _ANY | {"late"}

Result = TypeVar("Result")


class _FaultyReader(ObjectReader):
    def __init__(self, store: FaultyStore, source: ObjectReader) -> None:
        self._store = store
        self._source = source
        self.meta = source.meta

    async def read(self, start: int, size: int) -> bytes:
        return await self._store._bytes(self.meta.key, lambda: self._source.read(start, size))

    async def aclose(self) -> None:
        await self._source.aclose()


class FaultyStore(Store):
    """A store over `inner` whose calls fail as a schedule says.

    Parameters
    ----------
    inner : Store
        What does the work.
    schedule : Schedule
        Of the kinds above.

    Attributes
    ----------
    struck : Counter
        Faults by the key that they hit.
    on_late : callable or None
        Called with the key, the bytes and the number of a put that took place although the caller
        was told that it failed.
    nursery : trio.Nursery or None
        Where late puts wait; without one there are none.
    puts : int
        Puts that were asked for; each has its number.
    on_their_way : Counter
        Late puts that have not taken place yet, by the first name of their key.
    """

    def __init__(self, inner: Store, schedule: Schedule) -> None:
        super().__init__()
        self.inner = inner
        self.schedule = schedule
        self.struck: Counter[str] = Counter()
        self.on_late: Callable[[str, bytes, int], None] | None = None
        self.nursery: trio.Nursery | None = None
        self.puts = 0
        self.on_their_way: Counter[str] = Counter()

    @property
    def location(self) -> str:
        return f"faulty+{self.inner.location}"

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        return self.inner.capabilities

    async def _call(
        self, key: str, effect: Callable[[], Awaitable[Result]], possible: frozenset[str] = _ANY
    ) -> Result:
        """Let a call happen, or not."""
        return await self._play(self.schedule.draw(possible), key, effect)

    async def _play(self, kind: str | None, key: str, effect: Callable[[], Awaitable[Result]]) -> Result:
        if kind is None or kind == "short":
            return await effect()
        if kind == "latency":
            await trio.sleep(self.schedule.number(0.01, 0.5))
            return await effect()
        self.struck[key] += 1
        if kind in ("dropped", "lost"):
            await effect()
        if kind in ("stall", "lost"):
            try:
                await trio.sleep_forever()
            finally:
                self.struck[key] += 1  # it hits those, too, who have come to wait for it meanwhile
        await trio.sleep(self.schedule.number(0.0, 0.1))
        raise self._error(kind, key)

    def _error(self, kind: str, key: str) -> StoreError:
        if kind == "expired":
            return Denied("access denied (ExpiredToken)", key=key)
        if kind == "slow_down":
            return Unavailable("the server asks to slow down (injected)", key=key)
        return Unavailable(f"no answer (injected: {kind})", key=key)

    async def _bytes(self, key: str, effect: Callable[[], Awaitable[bytes]]) -> bytes:
        """Read bytes, perhaps too few."""
        kind = self.schedule.draw(_READ)
        data = await self._play(kind, key, effect)
        if kind == "short" and data:
            self.struck[key] += 1
            return data[: int(self.schedule.number(0, len(data) - 1e-9))]
        return data

    # -- reading -------------------------------------------------------------------------------

    async def _head(self, key: str) -> ObjectMeta:
        return await self._call(key, lambda: self.inner.head(key))

    async def _lookup(self, path: str) -> Lookup:
        return await self._call(path, lambda: self.inner.lookup(path))

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        return await self._call(key, lambda: self.inner.get(key, if_version=if_version))

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        return await self._bytes(key, lambda: self.inner.get_range(key, start, stop, if_version=if_version))

    async def _open_reader(self, key: str, if_version: str | None) -> ObjectReader:
        if not self.capabilities.snapshot_reads:
            return await super()._open_reader(key, if_version)
        source = await self._call(key, lambda: self.inner.open_reader(key, if_version=if_version))
        return _FaultyReader(self, source)

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        await self._call(prefix, trio.lowlevel.checkpoint)
        async with aclosing(self.inner.list_dir(prefix)) as pages:
            async for page in pages:
                yield page
                await self._call(prefix, trio.lowlevel.checkpoint)

    async def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        await self._call(prefix, trio.lowlevel.checkpoint)
        async with aclosing(self.inner.list_all(prefix)) as pages:
            async for page in pages:
                yield page
                await self._call(prefix, trio.lowlevel.checkpoint)

    # -- writing -------------------------------------------------------------------------------

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,
        attributes: AttributeChange | None,
    ) -> ObjectMeta:
        data = bytes(read_body(body))
        self.puts += 1
        number = self.puts

        async def put() -> ObjectMeta:
            return await self.inner.put(
                key, data, if_absent=if_absent, if_version=if_version, attributes=attributes
            )

        async def put_late() -> None:
            await trio.sleep(self.schedule.number(0.05, 3.0))
            try:
                await put()
            except StoreError:
                pass  # its condition did not hold any more: that is what conditions are for
            else:
                if self.on_late is not None:
                    self.on_late(key, data, number)
            finally:
                self.on_their_way[key.partition("/")[0]] -= 1

        kind = self.schedule.draw(_PUT if self.nursery is not None else _ANY)
        if kind == "late" and self.nursery is not None:
            self.on_their_way[key.partition("/")[0]] += 1
            self.nursery.start_soon(put_late)
        return await self._play(kind, key, put)

    async def _delete(self, key: str) -> None:
        await self._call(key, lambda: self.inner.delete(key))

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        return await self._call(target, lambda: self.inner.copy(source, target, if_absent=if_absent))

    async def _rename(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        await self._call(
            source, lambda: self.inner.rename(source, target, if_absent=if_absent, exchange=exchange)
        )

    async def _make_dir(self, path: str, mode: int) -> PrefixMeta:
        return await self._call(path, lambda: self.inner.make_dir(path, mode))

    async def _remove_dir(self, path: str) -> None:
        await self._call(path, lambda: self.inner.remove_dir(path))

    async def _rename_dir(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        await self._call(
            source, lambda: self.inner.rename_dir(source, target, if_absent=if_absent, exchange=exchange)
        )
