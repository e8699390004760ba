"""Reading through the cache: how many requests, of what, and what a failure means for whom."""

from __future__ import annotations

from array import array

import pytest
import trio
from hypothesis import given, settings, strategies
from trio.testing import MockClock, wait_all_tasks_blocked

from stores.base import ObjectReader
from stores.errors import NotFound, Precondition, Unavailable
from stores.meta import ObjectMeta
from zarrmount.cache.memory import BlockCache
from zarrmount.objects.reader import BLOCK_SIZE, MAX_RUN, WHOLE_OBJECT, Reader, ReaderPool

MB = BLOCK_SIZE


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

    async def read(self, start: int, size: int) -> bytes:
        self.asked.append((start, size))
        if self.hangs:
            self.hangs -= 1
            await trio.sleep_forever()
        await trio.sleep(self.latency)
        if self.errors:
            raise self.errors.pop()
        return pattern(start, size - self.short)


def make(
    size: int, *, limit: int = 256 * MB, direct: bool = False, version: str | None = "1"
) -> tuple[Reader, Source, ReaderPool]:
    source, pool = Source(size, version), ReaderPool(BlockCache(limit), 30, direct=direct)
    return pool.reader(source), source, pool


@pytest.mark.parametrize("offset", [0, 5 * MB, 7 * MB])
async def test_a_small_object_comes_whole_whatever_was_asked_for(offset: int) -> None:
    reader, source, _ = make(WHOLE_OBJECT)
    assert await reader.read(offset, 10) == pattern(offset, 10)
    assert source.asked == [(0, WHOLE_OBJECT)]
    assert await reader.read(0, WHOLE_OBJECT) == pattern(0, WHOLE_OBJECT)
    assert len(source.asked) == 1


async def test_runs_double_while_reads_follow_one_another() -> None:
    reader, source, _ = make(100 * MB)
    for offset in range(0, 100 * MB, MB // 2):
        assert await reader.read(offset, MB // 2) == pattern(offset, MB // 2)
    runs = [size // MB for _, size in source.asked]
    assert sum(runs) == 100
    assert max(runs) == MAX_RUN
    assert runs[:-1] == sorted(runs[:-1])
    assert len(runs) <= 12


async def test_a_read_elsewhere_fetches_what_it_needs() -> None:
    reader, source, _ = make(100 * MB)
    for offset in (50 * MB + 5, 20 * MB, 80 * MB):
        await reader.read(offset, 10)
    assert [size for _, size in source.asked] == [MB] * 3
    await reader.read(60 * MB + MB // 2, 3 * MB)
    assert source.asked[-1] == (60 * MB, 4 * MB)


async def test_many_readers_of_a_block_cost_one_fetch() -> None:
    for limit in (256 * MB, 0):  # whether the cache has room for it or not
        reader, source, pool = make(3 * MB, limit=limit)
        source.latency = 0.01
        got: list[bytes] = []

        async def read(reader: Reader = reader, got: list[bytes] = got) -> None:
            got.append(await reader.read(MB, 100))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
        assert got == [pattern(MB, 100)] * 20
        assert source.asked == [(0, 3 * MB)]
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
