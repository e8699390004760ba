"""Random reads, changes here and changes elsewhere of one array, against what each chunk was when."""

from __future__ import annotations

import errno
import shutil
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from client import Client
from fake_store import LOCAL_LIKE, S3_LIKE, FakeStore
from hypothesis import HealthCheck, given, settings, strategies
from test_reading_arrays import running, v2, v3
from trio.testing import MockClock

from stores.errors import NotFound, Unavailable
from stores.meta import Capabilities
from zarrmount.errors import errno_of

TTL = 2.0
COUNT = 12
CHUNKS = strategies.integers(0, COUNT - 1)
STEPS = strategies.lists(
    strategies.one_of(
        strategies.tuples(strategies.just("walk"), CHUNKS, strategies.integers(1, COUNT)),
        strategies.tuples(strategies.just("walk back"), CHUNKS, strategies.integers(1, COUNT)),
        strategies.tuples(strategies.just("read"), CHUNKS),
        strategies.tuples(strategies.just("stat"), CHUNKS),
        strategies.tuples(strategies.just("list")),
        strategies.tuples(strategies.just("write"), CHUNKS),
        strategies.tuples(strategies.just("unlink"), CHUNKS),
        strategies.tuples(strategies.just("rename"), CHUNKS, CHUNKS),
        strategies.tuples(strategies.just("put elsewhere"), CHUNKS),
        strategies.tuples(strategies.just("delete elsewhere"), CHUNKS),
        strategies.tuples(strategies.just("fail")),
        strategies.tuples(strategies.just("wait"), strategies.sampled_from([0.3, 1.0, 1.5, 2.1])),
    ),
    max_size=30,
)


class World:
    """One mount of one array, and the history of each of its chunks."""

    def __init__(self, client: Client, store: FakeStore, layout: str, held: AsyncExitStack | None) -> None:
        self.held = held
        self.client = client
        self.store = store
        self.layout = layout
        self.count = 0
        self.past: dict[int, list[tuple[float, bytes | None]]] = {}
        for at in range(COUNT):
            self.note(at, store.data.get(self.key(at)))

    def key(self, at: int) -> str:
        return {
            "dots": f"a/c.{at // 4}.{at % 4}",
            "rows": f"a/c/{at // 4}/{at % 4}",
            "v2": f"a/{at // 4}/{at % 4}",
        }[self.layout]

    def note(self, at: int, data: bytes | None, *, forget: bool = False) -> None:
        """Take note of what a chunk is now; with `forget`, of nothing else may be told any more."""
        if forget:
            self.past[at] = []
        self.past.setdefault(at, []).append((trio.current_time(), data))

    def possible(self, at: int, since: float) -> set[bytes | None]:
        """Return what a chunk was at any time from the time to live before `since` on."""
        times = self.past[at]
        ends = [when for when, _ in times[1:]] + [float("inf")]
        return {data for (_, data), end in zip(times, ends, strict=True) if end >= since - TTL - 1e-6}

    def new(self) -> bytes:
        self.count += 1
        return str(self.count).encode() * 20

    # -- steps ---------------------------------------------------------------------------------

    async def take(self, step: tuple[Any, ...]) -> None:
        kind, *rest = step
        await getattr(self, kind.replace(" ", "_"))(*rest)

    async def read(self, at: int) -> None:
        since, found = trio.current_time(), None
        try:
            found = await self.client.read(self.key(at))
        except NotFound:
            pass
        except Exception as error:
            assert errno_of(error) == errno.ESTALE
            assert len(self.past[at]) > 1
            return
        assert found in self.possible(at, since), (at, found, self.past[at], since)
        if self.held is not None and found is not None:  # as a kernel does
            with suppress(NotFound):
                await self.held.enter_async_context(self.client.at(self.key(at)))

    async def stat(self, at: int) -> None:
        since, size = trio.current_time(), None
        try:
            size = await self.client.size(self.key(at))
        except NotFound:
            pass
        assert size in {None if data is None else len(data) for data in self.possible(at, since)}

    async def list(self) -> None:
        since = trio.current_time()
        try:
            names = set(await self.client.names(self.key(0).rpartition("/")[0]))
        except NotFound:
            names = set()
        for at in range(COUNT if self.layout == "dots" else 4):
            is_there = {data is not None for data in self.possible(at, since)}
            assert (self.key(at).rpartition("/")[2] in names) in is_there

    async def walk(self, at: int, steps: int) -> None:
        for index in range(at, min(at + steps, COUNT)):
            await self.read(index)

    async def walk_back(self, at: int, steps: int) -> None:
        for index in range(at, max(at - steps, -1), -1):
            await self.read(index)

    async def write(self, at: int) -> None:
        data, path = self.new(), self.key(at)
        while True:
            try:
                await self.make_directories(path)
                await self.client.write(path, data)
                break
            except Exception as error:  # it is not what it was known to be
                assert errno_of(error) in (errno.ESTALE, errno.EEXIST, errno.ENOENT), error
                await trio.sleep(TTL + 0.1)
        self.note(at, data, forget=True)

    async def make_directories(self, path: str) -> None:
        above = path.rpartition("/")[0]
        if above and not await self.client.exists(above):
            await self.make_directories(above)
            await self.client.mkdir(above)

    async def unlink(self, at: int) -> None:
        try:
            await self.client.unlink(self.key(at))
        except NotFound:
            return
        self.note(at, None, forget=True)

    async def rename(self, at: int, to: int) -> None:
        if at // 4 != to // 4 or at == to:
            return
        try:
            await self.client.rename(self.key(at), self.key(to))
        except NotFound:
            return
        self.note(to, self.store.data[self.key(to)], forget=True)
        self.note(at, None, forget=True)

    async def put_elsewhere(self, at: int) -> None:
        data = self.new()
        self.store.change(self.key(at), data)
        self.note(at, data)

    async def delete_elsewhere(self, at: int) -> None:
        if self.key(at) in self.store.objects:
            self.store.change(self.key(at), None)
            self.note(at, None)

    async def fail(self) -> None:
        self.store.fail("get", times=1, error=lambda: Unavailable("a moment"))

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)


@pytest.mark.parametrize("layout", ["dots", "rows", "v2"])
@pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE], ids=["s3", "snapshots"])
def test_what_is_told_was_true_within_the_time_to_live(layout: str, profile: Capabilities) -> None:
    document = {
        "dots": ("a/zarr.json", v3((3, 4), ".", 100)),
        "rows": ("a/zarr.json", v3((3, 4), "/", 100)),
        "v2": ("a/.zarray", v2((3, 4), "/")),
    }[layout]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(STEPS, strategies.sampled_from([0.0, 0.01, 0.4]), strategies.sets(CHUNKS), strategies.booleans())
    def check(steps: list[tuple[Any, ...]], latency: float, missing: set[int], hold: bool) -> None:
        spool = Path(tempfile.mkdtemp(prefix="vfs-reading-"))

        async def main() -> None:
            store = FakeStore({document[0]: document[1], "a/other": b""}, profile)
            client = Client(store, spool, metadata_ttl=TTL)
            keys = World(client, store, layout, None)
            for at in range(COUNT):
                if at not in missing:
                    await keys.put_elsewhere(at)
            async with running(client), AsyncExitStack() as held:
                world = World(client, store, layout, held if hold else None)
                store.latency = latency
                for step in steps:
                    await world.take(step)
                    client.vfs.check_invariants()
                store.faults.clear()
                await trio.sleep(TTL + 0.1)
                for at in range(COUNT):
                    world.note(at, store.data.get(world.key(at)), forget=True)
                    await world.read(at)
                assert len(client.c.lookups.ahead) <= 64

        try:
            trio.run(main, clock=MockClock(autojump_threshold=0))
        finally:
            shutil.rmtree(spool)

    check()
