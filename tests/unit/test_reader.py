"""Reading through the cache: how many requests, of what, and what a failure means for whom."""

from __future__ import annotations

import random
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings, strategies
from trio.testing import MockClock, wait_all_tasks_blocked

from stores.base import ObjectReader
from stores.errors import NotFound, Precondition, Unavailable
from stores.meta import ObjectMeta
from zarrmount.background import Background
from zarrmount.cache.memory import BlockCache
from zarrmount.objects.reader import (
    BLOCK_SIZE,
    LARGEST_RUN,
    LARGEST_WINDOW,
    SMALL_OBJECT,
    WHOLE_OBJECT,
    Reader,
    ReaderPool,
)

MB = 1 << 20
KB = 1 << 10


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def pattern(start: int, size: int) -> bytes:
    """Bytes that tell where they are from."""
    first, last = start // 8, (start + size + 7) // 8
    return array("Q", range(first, last)).tobytes()[start - first * 8 :][:size]


class Source(ObjectReader):
    """Bytes that follow `pattern`, and a record of what was asked for."""

    def __init__(self, size: int, version: str | None = "1") -> None:
        self.meta = ObjectMeta("key", size, None, version)
        self.asked: list[tuple[int, int]] = []
        self.latency = 0.0
        self.errors: list[Exception] = []
        self.short = 0
        self.hangs = 0
        self.closed = False
        self.under_way = self.most_under_way = 0

    async def read(self, start: int, size: int) -> bytes:
        assert not self.closed
        self.asked.append((start, size))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.hangs:
                self.hangs -= 1
                await trio.sleep_forever()
            await trio.sleep(self.latency)
            assert not self.closed
        finally:
            self.under_way -= 1
        if self.errors:
            raise self.errors.pop()
        return pattern(start, size - self.short)

    async def aclose(self) -> None:
        assert not self.under_way
        self.closed = True


def make(
    size: int,
    *,
    limit: int = 256 * MB,
    direct: bool = False,
    version: str | None = "1",
    background: Background | None = None,
) -> tuple[Reader, Source, ReaderPool]:
    source = Source(size, version)
    pool = ReaderPool(BlockCache(limit), 30, direct=direct, background=background)
    return pool.reader(source), source, pool


@asynccontextmanager
async def running() -> AsyncIterator[Background]:
    background = Background()
    async with trio.open_nursery() as nursery:
        await nursery.start(background.run)
        yield background
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("offset", [0, 5 * KB, 700 * KB])
async def test_a_small_object_comes_whole_whatever_was_asked_for(offset: int) -> None:
    reader, source, _ = make(SMALL_OBJECT)
    assert await reader.read(offset, 10) == pattern(offset, 10)
    assert source.asked == [(0, SMALL_OBJECT)]
    assert await reader.read(0, SMALL_OBJECT) == pattern(0, SMALL_OBJECT)
    assert len(source.asked) == 1


async def test_one_of_middle_size_comes_whole_if_it_is_read_from_its_start() -> None:
    reader, source, _ = make(WHOLE_OBJECT)
    assert await reader.read(0, 10) == pattern(0, 10)
    assert source.asked == [(0, WHOLE_OBJECT)]
    assert await reader.read(5 * MB, 10) == pattern(5 * MB, 10)
    assert len(source.asked) == 1
    other, source, _ = make(WHOLE_OBJECT)
    assert await other.read(5 * MB, 10) == pattern(5 * MB, 10)
    assert await other.read(0, 10) == pattern(0, 10)
    assert source.asked == [(5 * MB, BLOCK_SIZE), (0, BLOCK_SIZE)]


async def test_runs_double_while_reads_follow_one_another() -> None:
    reader, source, _ = make(100 * MB)
    for offset in range(0, 100 * MB, MB // 2):
        assert await reader.read(offset, MB // 2) == pattern(offset, MB // 2)
    runs = [size for _, size in source.asked]
    assert sum(runs) == 100 * MB
    assert runs[:-1] == sorted(runs[:-1])
    assert len(runs) <= 16


async def test_a_sequential_reader_does_not_wait_for_each_request(clock: MockClock) -> None:
    async with running() as background:
        reader, source, pool = make(256 * MB, background=background)
        source.latency = 0.02
        for offset in range(0, 256 * MB, 128 * KB):
            assert len(await reader.read(offset, 128 * KB)) == 128 * KB
        assert sum(size for _, size in source.asked) == 256 * MB
        assert max(size for _, size in source.asked) == LARGEST_RUN
        assert len(source.asked) < 256 / 4 + 30
        assert source.most_under_way <= LARGEST_WINDOW // LARGEST_RUN + 1
        # In a row it would be 2048 requests, or 64 of the largest; the window lets 8 overlap.
        assert trio.current_time() < 0.02 * 35
        assert pool.bytes_ahead == 0
        await reader.aclose()


async def test_no_more_is_read_ahead_than_was_read_in_a_row(clock: MockClock) -> None:
    async with running() as background:
        reader, source, _ = make(4096 * MB, background=background)
        source.latency = 0.02
        for at in range(1, 60):
            for offset in range(at * 60 * MB, at * 60 * MB + MB, 128 * KB):
                await reader.read(offset, 128 * KB)
        await trio.sleep(1)
        fetched = sum(size for _, size in source.asked)
        assert 59 * MB <= fetched <= 2 * 59 * MB
        await reader.aclose()


async def test_reads_at_random_fetch_at_most_twice_of_what_is_asked(clock: MockClock) -> None:
    rng = random.Random(7)
    async with running() as background:
        reader, source, _ = make(4096 * MB, background=background)
        source.latency = 0.02
        for _ in range(500):
            offset = rng.randrange(4095 * MB)
            assert await reader.read(offset, 64 * KB) == pattern(offset, 64 * KB)
        assert sum(size for _, size in source.asked) <= 2 * 500 * 64 * KB
        assert len(source.asked) <= 500
        await reader.aclose()


async def test_runs_that_lie_apart_are_fetched_at_once(clock: MockClock) -> None:
    reader, source, _ = make(100 * MB)
    source.latency = 0.02
    for at in (10, 12, 14):
        await reader.read(at * MB, BLOCK_SIZE)
    started = trio.current_time()
    assert await reader.read(9 * MB, 7 * MB) == pattern(9 * MB, 7 * MB)
    assert trio.current_time() - started == pytest.approx(0.02)
    assert len(source.asked) == 3 + 4


async def test_closing_gives_up_what_is_read_ahead(clock: MockClock) -> None:
    async with running() as background:
        reader, source, pool = make(100 * MB, background=background)
        for offset in range(0, MB, 128 * KB):
            await reader.read(offset, 128 * KB)
        source.hangs = 100
        for offset in range(MB, 2 * MB, 128 * KB):
            with trio.move_on_after(1):
                await reader.read(offset, 128 * KB)
        assert pool.bytes_ahead > 0
        await reader.aclose()
        assert source.closed
        assert pool.bytes_ahead == 0
        assert not pool.in_flight


async def test_what_fails_to_be_read_ahead_is_asked_for_again(clock: MockClock) -> None:
    async with running() as background:
        reader, source, _ = make(100 * MB, background=background)
        for offset in range(0, 20 * MB, 128 * KB):
            if offset == 5 * MB:
                source.errors = [Unavailable("a moment", key="key")] * 3
            assert await reader.read(offset, 128 * KB) == pattern(offset, 128 * KB)
        await reader.aclose()


async def test_a_read_elsewhere_fetches_what_it_needs() -> None:
    reader, source, _ = make(100 * MB)
    for offset in (50 * MB + 5, 20 * MB, 80 * MB):
        await reader.read(offset, 10)
    assert [size for _, size in source.asked] == [BLOCK_SIZE] * 3
    await reader.read(60 * MB + BLOCK_SIZE // 2, 3 * MB)
    assert source.asked[-1] == (60 * MB, 3 * MB + BLOCK_SIZE)


async def test_what_was_kept_whole_is_read_without_asking() -> None:
    reader, source, pool = make(5 * MB)
    assert not pool.holds(reader.meta)
    assert pool.keep(reader.meta, pattern(0, 5 * MB))
    assert pool.holds(reader.meta)
    assert await reader.read(3 * MB, 100) == pattern(3 * MB, 100)
    assert source.asked == []
    assert not pool.keep(reader.meta, b"too short")


async def test_many_readers_of_a_block_cost_one_fetch() -> None:
    for limit in (256 * MB, 0):  # whether the cache has room for it or not
        reader, source, pool = make(MB, limit=limit)
        source.latency = 0.01
        got: list[bytes] = []

        async def read(reader: Reader = reader, got: list[bytes] = got) -> None:
            got.append(await reader.read(MB // 2, 100))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
        assert got == [pattern(MB // 2, 100)] * 20
        assert source.asked == [(0, MB)]
        assert not pool.in_flight


async def test_neighbours_that_are_in_flight_are_not_fetched_again() -> None:
    reader, source, pool = make(100 * MB)
    other = pool.reader(source)
    source.latency = 0.01
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.read, 10 * MB, 2 * MB)
        await wait_all_tasks_blocked()
        assert await other.read(9 * MB, 4 * MB) == pattern(9 * MB, 4 * MB)
    assert sorted(source.asked) == [(9 * MB, MB), (10 * MB, 2 * MB), (12 * MB, MB)]


@pytest.mark.parametrize("direct", [False, True])
async def test_a_short_answer_is_unavailable_and_is_not_cached(direct: bool, clock: MockClock) -> None:
    reader, source, pool = make(MB, direct=direct)
    source.short = 1
    with pytest.raises(Unavailable, match="sent"):
        await reader.read(0, 10)
    assert len(pool.cache) == 0
    source.short = 0
    assert await reader.read(0, 10) == pattern(0, 10)


async def test_a_source_that_hangs_is_unavailable_for_all_at_once(clock: MockClock) -> None:
    reader, source, pool = make(MB)
    source.hangs = 100
    failed = 0

    async def read() -> None:
        nonlocal failed
        with pytest.raises(Unavailable):
            await reader.read(0, 10)
        failed += 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read)
    assert failed == 10
    assert trio.current_time() == pytest.approx(30)
    assert not pool.in_flight
    source.hangs = 0
    assert await reader.read(0, 10) == pattern(0, 10)


@pytest.mark.parametrize("error", [Precondition("changed", key="key"), NotFound("gone", key="key")])
async def test_errors_pass_unchanged(error: Exception) -> None:
    reader, source, pool = make(MB)
    source.errors = [error]
    with pytest.raises(type(error)):
        await reader.read(0, 1)
    assert not pool.in_flight


async def test_cancelling_the_one_who_fetches_strands_nobody(clock: MockClock) -> None:
    reader, source, pool = make(MB)
    source.hangs = 1
    scope, got = trio.CancelScope(), []

    async def first() -> None:
        with scope:
            await reader.read(0, 10)

    async def wait() -> None:
        got.append(await reader.read(0, 10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        scope.cancel()
    assert scope.cancelled_caught
    assert got == [pattern(0, 10)] * 3
    assert len(source.asked) == 2
    assert not pool.in_flight


async def test_near_stores_and_objects_without_version_are_read_directly() -> None:
    for reader, source, pool in (make(9 * MB, direct=True), make(9 * MB, version=None)):
        assert await reader.read(MB, 10) == pattern(MB, 10)
        assert source.asked == [(MB, 10)]
        assert len(pool.cache) == 0


async def test_at_and_beyond_the_end() -> None:
    reader, _source, _ = make(10)
    assert await reader.read(8, 100) == pattern(8, 2)
    assert await reader.read(10, 1) == b""
    assert await reader.read(11, 1) == b""
    assert await reader.read(0, 0) == b""
    empty, nothing, _ = make(0)
    assert await empty.read(0, 10) == b""
    assert nothing.asked == []


@settings(deadline=None, max_examples=60)
@given(
    strategies.sampled_from([0, 1, MB - 1, MB, MB + 1, 3 * MB + 7, 9 * MB, 12 * MB + 5]),
    strategies.lists(
        strategies.tuples(strategies.integers(0, 13 * MB), strategies.integers(0, 3 * MB)), max_size=8
    ),
    strategies.sampled_from([0, 2 * MB, 64 * MB]),
)
async def test_whatever_is_read_is_right(size: int, reads: list[tuple[int, int]], limit: int) -> None:
    reader, _source, pool = make(size, limit=limit)

    async def read(offset: int, length: int) -> None:
        wanted = pattern(offset, max(0, min(length, size - offset)))
        assert await reader.read(offset, length) == wanted

    async with trio.open_nursery() as nursery:
        for offset, length in reads:
            nursery.start_soon(read, offset, length)
    for offset, length in reads:
        await read(offset, length)
    pool.cache.check_invariants()
    assert not pool.in_flight
