"""Flat listings by several ranges at once: the same keys, in fewer round trips."""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from client import Client
from fake_store import FakeStore
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from stores.errors import Unavailable, Unsupported
from stores.meta import ListPage, ObjectMeta, PrefixMeta
from zarrmount.background import Background
from zarrmount.ranges import MOST_PAGES, Ranges
from zarrmount.settings import TreeSettings
from zarrmount.zarr.chunks import ChunkMap
from zarrmount.zarr.metadata import parse_v3
from zarrmount.zarr.order import KeyOrder

LATENCY = 0.02


def document(grid: Iterable[int], name: str = "default", separator: str = "/") -> bytes:
    shape = list(grid)
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}},
            "chunk_key_encoding": {"name": name, "configuration": {"separator": separator}},
            "codecs": [{"name": "bytes"}],
            "fill_value": 0,
        }
    ).encode()


def chunk_map(grid: Iterable[int], name: str = "default", separator: str = "/") -> ChunkMap:
    found = ChunkMap.of("a", parse_v3(document(grid, name, separator)))
    assert found is not None
    return found


class S3(FakeStore):
    """Lists as S3 does, also what is large, and knows how much it did at once.

    Attributes
    ----------
    extra : dict
        Sizes of objects that are only listed.
    most : int
        Most pages that it was asked for at once.
    """

    def __init__(
        self, keys: Iterable[str] = (), data: dict[str, bytes] | None = None, page: int = 1000
    ) -> None:
        super().__init__(data, page=page)
        self.latency = LATENCY
        self.extra = dict.fromkeys(keys, 1)
        self.most = self._under_way = 0
        self.relist()

    def relist(self) -> None:
        self.extra |= {key: found.meta.size for key, found in self.objects.items()}
        self._keys = sorted(self.extra)

    def _meta(self, key: str) -> ObjectMeta:
        known = self.objects.get(key)
        return known.meta if known is not None else ObjectMeta(key, self.extra[key], 1, "1")

    def _is_dir(self, path: str) -> bool:
        at = bisect_left(self._keys, f"{path}/")
        return at < len(self._keys) and self._keys[at].startswith(f"{path}/")

    async def _page(self, prefix: str, after: str) -> list[str]:
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            await self._call("list_after", prefix, lambda: None)
        finally:
            self._under_way -= 1
        head = f"{prefix}/" if prefix else ""
        start = max(bisect_left(self._keys, head), bisect_right(self._keys, after))
        return [key for key in self._keys[start : start + self.page] if key.startswith(head)]

    async def _list_after(self, prefix: str, after: str) -> AsyncGenerator[ListPage, None]:
        while True:
            keys = await self._page(prefix, after)
            if keys:
                after = keys[-1]
                yield ListPage(tuple(map(self._meta, keys)), asked_alone=True)
            if len(keys) < self.page:
                return

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        """As `ObjectStore` does: flat as long as nothing lies deeper."""
        head = f"{prefix}/" if prefix else ""
        after = ""
        while True:
            keys = await self._page(prefix, after)
            if any("/" in key[len(head) :] or not self._meta(key).size for key in keys):
                break
            yield ListPage(tuple(map(self._meta, keys)), asked_alone=True)
            if len(keys) < self.page:
                return
            after = keys[-1]
        below = [key for key in self._keys if key.startswith(head)]
        await self._call("list", prefix, lambda: None)
        yield ListPage(
            tuple(self._meta(key) for key in below if "/" not in key[len(head) :]),
            tuple(
                PrefixMeta(p)
                for p in {head + k[len(head) :].split("/")[0] for k in below if "/" in k[len(head) :]}
            ),
        )

    @property
    def pages(self) -> int:
        return self.count("list_after")


@asynccontextmanager
async def background() -> AsyncIterator[Background]:
    work = Background()
    async with trio.open_nursery() as nursery:
        await nursery.start(work.run)
        yield work
        nursery.cancel_scope.cancel()


async def failure_of(call: Awaitable[object]) -> BaseException | None:
    """Return what a call raises, without the groups of the nurseries that it passes."""
    try:
        await call
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return error
    return None


async def listed(store: S3, after: str, order: KeyOrder | None, window: int, *, widen: bool) -> list[str]:
    async with background() as work:
        ranges = Ranges(store, TreeSettings(metadata_ttl=100), work, "a", after, order, window=window)
        keys: list[str] = []
        while True:
            if widen:
                ranges.widen()
            found = await ranges.next()
            if found is None:
                return keys
            assert found[1].objects
            keys += [meta.key for meta in found[1].objects]


# -- the same as one listing ------------------------------------------------------------------------

foreign = st.lists(st.text("cz019./-x", min_size=1, max_size=6).map(lambda name: f"a/{name}"), max_size=20)


@st.composite
def trees(draw: st.DrawFn) -> tuple[ChunkMap, list[str]]:
    grid = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=2)))
    chunks = chunk_map(grid, draw(st.sampled_from(["default", "v2"])), draw(st.sampled_from("/.")))
    keys = [chunks.key(at) for at in itertools.product(*map(range, grid))]
    keep = draw(st.integers(0, 4))
    if keep == 0:
        keys = sorted(keys)[draw(st.integers(0, 300)) :][: draw(st.integers(0, 300))]
    elif keep < 4:
        random = draw(st.randoms(use_true_random=False))
        keys = [key for key in keys if random.random() < keep / 3]
    return chunks, sorted({*keys, *draw(foreign)})


def run(test: Callable[..., Awaitable[None]], *arguments: object) -> None:
    trio.run(test, *arguments, clock=MockClock(autojump_threshold=0))


@settings(max_examples=150, deadline=None)
@given(trees(), st.integers(1, 30), st.integers(1, 8), st.booleans(), st.data())
def test_ranges_tell_what_one_listing_tells(
    tree: tuple[ChunkMap, list[str]], page: int, window: int, widen: bool, data: st.DataObject
) -> None:
    chunks, keys = tree
    after = data.draw(st.sampled_from(["", "a", "a/c", "a/c/1", "b"]))

    async def compare() -> None:
        store = S3(["b", "A", *keys], page=page)
        assert await listed(store, after, KeyOrder(chunks), window, widen=widen) == [
            k for k in keys if k > after
        ]
        assert store.most <= MOST_PAGES

    run(compare)


def row_keys(*grid: int) -> list[str]:
    return ["/".join(("a/c", *map(str, at))) for at in itertools.product(*map(range, grid))]


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.5, 0.97])
async def test_missing_chunks_cost_few_requests(clock: MockClock, missing: float) -> None:
    keys = [key for at, key in enumerate(row_keys(400, 250)) if at * 7919 % 100 >= 100 * missing]
    store = S3(keys)
    began = trio.current_time()
    assert len(await listed(store, "", KeyOrder(chunk_map([400, 250])), 1, widen=True)) == len(keys)
    one_by_one = len(keys) // 1000 + 1
    assert store.pages <= 1.1 * one_by_one + 4
    assert (trio.current_time() - began) / LATENCY <= max(6, one_by_one / 5)


async def test_what_is_not_there_costs_a_window_of_requests_at_most(clock: MockClock) -> None:
    """Of a hundred million chunks all but some were never written."""
    grid = KeyOrder(chunk_map([10_000, 10_000]))
    keys = sorted(f"a/c/{row}/{column}" for row in (0, 1, 10, 5000) for column in range(2000))
    store = S3([*keys, "a/zarr.json"])
    assert await listed(store, "", grid, 1, widen=True) == [*keys, "a/zarr.json"]
    assert store.pages <= 9 + 2 * MOST_PAGES + 8


# -- through the tree -------------------------------------------------------------------------------


async def walk(client: Client, directories: Iterable[str]) -> int:
    """List directories one after the other as ``find -ls`` does; return how many entries they have."""
    found = 0
    for directory in directories:
        found += len(await client.names(directory))
    return found


@asynccontextmanager
async def mounted(store: S3, tmp_path: Path, ttl: float = 10) -> AsyncIterator[Client]:
    client = Client(store, tmp_path, metadata_ttl=ttl)
    async with client.running(), client.at("a"):
        store.calls.clear()
        yield client


@pytest.mark.parametrize(("rows", "round_trips"), [(80, 12), (400, 24)])
async def test_many_small_directories(tmp_path: Path, clock: MockClock, rows: int, round_trips: int) -> None:
    """20,000 and 100,000 chunks, 250 to a directory."""
    chunks = row_keys(rows, 250)
    store = S3(chunks, {"a/zarr.json": document([rows, 250])})
    async with mounted(store, tmp_path) as client, client.at("a/c") as above:
        for row in range(rows):  # as `ls -l a/c` leaves it
            inode = client.c.namespace.absorb(above, str(row), PrefixMeta(f"a/c/{row}"), 1e9)
            client.vfs.remember(inode)
        store.calls.clear()
        began = trio.current_time()
        assert await walk(client, sorted(f"a/c/{row}" for row in range(rows))) == len(chunks)
        assert store.pages <= len(chunks) // 1000 + 3
        assert len(store.calls) <= store.pages + 1
        assert (trio.current_time() - began) / LATENCY <= round_trips
        assert store.most <= MOST_PAGES


@pytest.mark.parametrize(("count", "round_trips"), [(20_000, 10), (100_000, 21)])
@pytest.mark.parametrize(
    ("name", "separator"), [("default", "/"), ("default", "."), ("v2", "."), ("v2", "/")]
)
async def test_one_large_directory(
    tmp_path: Path, clock: MockClock, name: str, separator: str, count: int, round_trips: int
) -> None:
    grid = [count] if separator == "/" else [count // 200, 200]
    chunks = chunk_map(grid, name, separator)
    directory = "a/c" if (name, separator) == ("default", "/") else "a"
    store = S3(
        map(chunks.key, itertools.product(*map(range, grid))),
        {"a/zarr.json": document(grid, name, separator)},
    )
    async with mounted(store, tmp_path) as client:
        began = trio.current_time()
        assert await walk(client, [directory]) == count + (directory == "a")
        assert store.pages <= count // 1000 + 2
        assert store.count("get") <= 2
        assert (trio.current_time() - began) / LATENCY <= round_trips
        assert store.most <= MOST_PAGES


@settings(max_examples=60, deadline=None)
@given(trees(), st.integers(2, 12), st.sets(st.integers(0, 300), max_size=3))
def test_every_directory_shows_what_a_plain_listing_shows(
    tmp_path_factory: pytest.TempPathFactory,
    tree: tuple[ChunkMap, list[str]],
    page: int,
    empty: set[int],
) -> None:
    chunks, keys = tree
    usable = [key for key in keys if all(part not in ("", ".", "..") for part in key.split("/"))]

    async def compare() -> None:
        encoding = chunks.meta.chunk_keys
        store = S3(usable, {"a/zarr.json": document(chunks.grid, encoding.name, encoding.separator)}, page)
        for at in empty & set(range(len(usable))):
            store.extra[usable[at]] = 0
        everything = [*usable, "a/zarr.json"]
        directories = {
            "/".join(parts[:n]) for parts in (k.split("/") for k in everything) for n in range(1, len(parts))
        }
        async with mounted(store, tmp_path_factory.mktemp("spool")) as client:
            for directory in sorted(directories):
                below = {
                    k[len(directory) + 1 :].split("/")[0] for k in everything if k.startswith(f"{directory}/")
                }
                assert await client.names(directory) == sorted(below), directory

    run(compare)


async def test_one_directory_of_many_is_no_reason_to_list_the_others(
    tmp_path: Path, clock: MockClock
) -> None:
    store = S3(row_keys(400, 250), {"a/zarr.json": document([400, 250])})
    async with mounted(store, tmp_path) as client:
        await client.names("a/c/3")
        await trio.sleep(5)
        assert store.pages <= 2
        await walk(client, [f"a/c/{row}" for row in (30, 300, 301)])
        await trio.sleep(5)
        assert store.pages <= 12


async def test_a_reader_who_stops_leaves_a_window_at_most(tmp_path: Path, clock: MockClock) -> None:
    store = S3(row_keys(100_000), {"a/zarr.json": document([100_000])})
    async with mounted(store, tmp_path) as client, client.at("a/c") as inode:
        handle = client.open_dir(inode.number).number
        for position in range(15_500):
            assert await client.vfs.directories.entry(handle, position) is not None
        await trio.sleep(5)
        assert store.pages <= 16 + MOST_PAGES
        await client.vfs.directories.release(handle)
        await trio.sleep(5)
        assert store.pages <= 16 + MOST_PAGES


async def test_a_slow_reader_is_told_nothing_old(tmp_path: Path, clock: MockClock) -> None:
    """What was asked for ahead and not taken for longer than it holds is asked for again."""
    store = S3(row_keys(20_000), {"a/zarr.json": document([20_000])}, page=500)
    async with mounted(store, tmp_path, ttl=1) as client, client.at("a/c") as inode:
        handle = client.open_dir(inode.number).number
        seen = set()
        for position in range(20_000):
            if position % 3000 == 2999:
                await trio.sleep(1.5)
                size = int(1000 * trio.current_time())
                store.extra = dict.fromkeys(store.extra, size)
                store.relist()
            entry = await client.vfs.directories.entry(handle, position)
            assert entry is not None
            seen.add(entry.name)
            if (
                isinstance(entry.found, ObjectMeta)
                and entry.found.size > 1
                and trio.current_time() < entry.expires
            ):
                assert entry.found.size >= 1000 * (trio.current_time() - 1)
        assert await client.vfs.directories.entry(handle, 20_000) is None
        assert len(seen) == 20_000
        await client.vfs.directories.release(handle)


@pytest.mark.parametrize("skip", [1, 3, 6, 9, 15])
async def test_a_store_that_fails_meanwhile_is_asked_again(
    tmp_path: Path, clock: MockClock, skip: int
) -> None:
    store = S3(row_keys(12_000), {"a/zarr.json": document([12_000])})
    async with mounted(store, tmp_path) as client:
        store.fail("list_after", skip=skip, times=3)
        assert await client.names("a/c") == sorted(map(str, range(12_000)))


async def test_a_store_that_stays_away_is_an_error(clock: MockClock) -> None:
    store = S3(row_keys(20, 250))
    store.fail("list_after", skip=2)
    failure = await failure_of(listed(store, "", KeyOrder(chunk_map([20, 250])), 4, widen=True))
    assert isinstance(failure, Unavailable)


async def test_an_order_of_its_own_is_refused(clock: MockClock) -> None:
    store = S3(row_keys(20, 250))
    store._keys[1500:1502] = reversed(store._keys[1500:1502])
    failure = await failure_of(listed(store, "", KeyOrder(chunk_map([20, 250])), 2, widen=True))
    assert isinstance(failure, Unsupported)


async def test_changes_made_here_meanwhile_are_shown(tmp_path: Path, clock: MockClock) -> None:
    store = S3(row_keys(10_000), {"a/zarr.json": document([10_000])})
    async with mounted(store, tmp_path) as client, client.at("a/c") as inode:
        handle = client.open_dir(inode.number).number
        names = [(await client.vfs.directories.entry(handle, position)) for position in range(4_500)]
        await client.write("a/c/new", b"12345")
        store.relist()
        while (entry := await client.vfs.directories.entry(handle, len(names))) is not None:
            names.append(entry)
        given = [entry.name for entry in names if entry is not None]
        assert len(given) == len(set(given))
        assert set(given) >= set(map(str, range(10_000)))
        await client.vfs.directories.release(handle)
        assert await client.size("a/c/new") == 5
