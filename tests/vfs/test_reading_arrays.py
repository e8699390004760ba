"""How many requests it takes to read arrays, and how long it takes on a slow store."""

from __future__ import annotations

import errno
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.errors import NotFound, Unavailable
from zarrmount.zarr.chunks import Coordinates

KB = 1 << 10


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def v3(shape: Iterable[int], separator: str = "/", chunk: int = 1, inner: int | None = None) -> bytes:
    """A metadata document of an array of bytes with chunks of `chunk` in the last dimension."""
    shape = list(shape)
    chunks = [1] * (len(shape) - 1) + [chunk]
    codecs: list[object] = [{"name": "bytes"}]
    if inner:
        inside = {"chunk_shape": [1] * (len(shape) - 1) + [inner], "codecs": codecs}
        codecs = [{"name": "sharding_indexed", "configuration": inside}]
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [*shape[:-1], shape[-1] * chunk],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "codecs": codecs,
        "fill_value": 0,
    }
    return json.dumps(document).encode()


def v2(shape: Iterable[int], separator: str = ".") -> bytes:
    shape = list(shape)
    document = {
        "zarr_format": 2,
        "shape": shape,
        "chunks": [1] * len(shape),
        "dtype": "|u1",
        "compressor": None,
        "filters": None,
        "fill_value": 0,
        "order": "C",
        "dimension_separator": separator,
    }
    return json.dumps(document).encode()


def key(at: Coordinates, separator: str = "/") -> str:
    return "a/" + separator.join(("c", *map(str, at)))


def content(at: Coordinates, size: int = 100) -> bytes:
    return repr(at).encode().ljust(size, b".")


def array(shape: Coordinates, separator: str = "/", size: int = 100) -> dict[str, bytes]:
    """An array `a` with all of its chunks."""
    every = itertools.product(*map(range, shape))
    chunks = {key(at, separator): content(at, size) for at in every}
    return {"a/zarr.json": v3(shape, separator, size), **chunks}


def chunk_calls(store: FakeStore) -> Counter[str]:
    return Counter(method for method, key in store.calls if not key.endswith(("zarr.json", ".zarray")))


@asynccontextmanager
async def running(client: Client) -> AsyncIterator[Client]:
    async with trio.open_nursery() as nursery:
        await nursery.start(client.vfs.run)
        yield client
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def kernel(client: Client, path: str) -> AsyncIterator[int]:
    """Hold the directories of a path, as a kernel does that has its names cached."""
    async with client.at(path) as inode:
        yield inode.number


# -- one chunk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE], ids=["s3", "snapshots"])
@pytest.mark.parametrize("separator", [".", "/"])
async def test_a_cold_chunk_is_one_request(
    clock: MockClock, tmp_path: Path, separator: str, profile: object
) -> None:
    store = FakeStore(array((3, 3), separator), profile)  # type: ignore[arg-type]
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("a/zarr.json"), client.at(key((0, 0), separator)):
        store.calls.clear()
        assert await client.read(key((0, 1), separator)) == content((0, 1))
        assert [call for call in store.calls if call[0] != "open_reader"] == [("get", key((0, 1), separator))]
    client.at_rest()


@pytest.mark.parametrize(
    ("document", "name", "chunk"),
    [
        (v3((2, 2)), "zarr.json", "c/1/0"),
        (v3((2, 2), "."), "zarr.json", "c.1.0"),
        (v2((2, 2)), ".zarray", "1.0"),
        (v2((2, 2), "/"), ".zarray", "1/0"),
    ],
)
async def test_an_array_that_nobody_looked_at_costs_its_document(
    tmp_path: Path, document: bytes, name: str, chunk: str
) -> None:
    store = FakeStore({f"x/a/{name}": document, f"x/a/{chunk}": b"data"})
    client = Client(store, tmp_path, metadata_ttl=10)
    async with kernel(client, "x/a"):
        store.calls.clear()
        assert await client.read(f"x/a/{chunk}") == b"data"
        assert store.count(key=f"x/a/{chunk}") == 1
        assert store.count("get", f"x/a/{chunk}") == 1
        assert store.count(key=f"x/a/{name}") == 1
        assert store.count() <= 3 + 2 * chunk.count("/")


async def test_where_nothing_is_written_the_way_to_a_chunk_costs_nothing(
    tmp_path: Path, clock: MockClock
) -> None:
    store = FakeStore({**array((3, 3, 3)), "a/c/0/0/0": b"1"}, read_only=True)
    del store.objects["a/c/2/0/0"], store.objects["a/c/2/0/1"], store.objects["a/c/2/0/2"]
    client = Client(store, tmp_path, metadata_ttl=10)
    async with kernel(client, "a"):
        await client.read("a/zarr.json")
        store.calls.clear()
        assert await client.read("a/c/1/2/0") == content((1, 2, 0))
        assert store.calls == [("get", "a/c/1/2/0")]
        assert await failure(client.read("a/c/2/0/1")) == errno.ENOENT
        assert await client.names("a/c/2/0") == []  # the grid has it
        assert not await client.exists("a/c/3")
        assert not await client.exists("a/c/1/x")
        del store.objects["a/zarr.json"]
        clock.jump(10.1)
        assert not await client.exists("a/c/2/0")


async def test_the_document_is_read_with_the_request_that_looked_it_up(tmp_path: Path) -> None:
    store = FakeStore(array((2,)))
    client = Client(store, tmp_path, metadata_ttl=10)
    async with kernel(client, "a"):
        store.calls.clear()
        assert await client.read("a/zarr.json") == store.data["a/zarr.json"]
        assert store.calls == [("get", "a/zarr.json")]


async def test_a_chunk_that_is_not_there_is_one_request(tmp_path: Path) -> None:
    data = array((3, 3))
    del data["a/c/0/1"]
    store = FakeStore(data)
    client = Client(store, tmp_path, metadata_ttl=10)
    async with kernel(client, "a/c/0/0"), client.at("a/zarr.json"):
        store.calls.clear()
        for _ in range(3):
            assert not await client.exists("a/c/0/1")
        assert store.calls == [("get", "a/c/0/1")]


async def test_a_large_chunk_is_not_fetched_by_a_lookup(tmp_path: Path) -> None:
    store = FakeStore({"a/zarr.json": v3((3,), chunk=9 << 20), "a/c/0": b"1" * (9 << 20)})
    client = Client(store, tmp_path, cache_bytes=64 << 20, metadata_ttl=10)
    async with client.at("a/zarr.json"), kernel(client, "a/c"):
        store.calls.clear()
        async with client.at("a/c/0"):
            assert store.calls == [("head", "a/c/0")]
            assert await client.read("a/c/0", 1 << 20, 10) == b"1" * 10
        assert Counter(method for method, _ in store.calls) == {"head": 1, "get_range": 1}


async def test_compressed_chunks_come_whole_once_it_is_known_that_they_are_small(tmp_path: Path) -> None:
    chunks = {f"a/c/{i}": b"1" * 1000 for i in range(5)}
    store = FakeStore({"a/zarr.json": v3((5,), chunk=20 << 20), **chunks})
    client = Client(store, tmp_path, cache_bytes=64 << 20, metadata_ttl=10)
    async with client.at("a/zarr.json"), kernel(client, "a/c"):
        store.calls.clear()
        for i in range(5):
            assert len(await client.read(f"a/c/{i}")) == 1000
        assert Counter(method for method, _ in store.calls) == {"head": 1, "get_range": 1, "get": 4}


async def test_parts_of_a_shard_are_not_the_whole_of_it(tmp_path: Path) -> None:
    size = 4 << 20
    store = FakeStore({"a/zarr.json": v3((4,), chunk=size, inner=size // 64), "a/c/1": bytes(size)})
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("a/zarr.json"), kernel(client, "a/c"):
        store.calls.clear()
        async with client.at("a/c/1"):
            assert len(await client.read("a/c/1", size - 1000, 1000)) == 1000
            assert len(await client.read("a/c/1", size // 2, 64 * KB)) == 64 * KB
        assert Counter(method for method, _ in store.calls) == {"head": 1, "get_range": 2}


async def test_chunks_that_are_looked_at_and_not_read_are_not_fetched(tmp_path: Path) -> None:
    store = FakeStore(array((200,)))
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("a/zarr.json"), kernel(client, "a/c"):
        for i in reversed(range(200)):  # in the order of their keys a listing answers
            assert await client.size(key((i,))) == 100
        assert chunk_calls(store)["get"] <= 4
        assert chunk_calls(store)["head"] >= 196
        store.calls.clear()
        for i in range(10):  # but when one is opened, somebody does read
            await client.read(key((i,)))
        assert store.count("get_range") <= 5


async def test_what_the_kernel_or_the_cache_has_is_asked_for_by_its_head(
    clock: MockClock, tmp_path: Path
) -> None:
    store = FakeStore(array((3, 3)))
    client = Client(store, tmp_path, metadata_ttl=1)
    async with client.at("a/zarr.json"), client.at("a/c/0/0"):
        await client.read("a/c/0/0")
        clock.jump(2)
        store.calls.clear()
        assert await client.read("a/c/0/0") == content((0, 0))
        assert store.count("head", "a/c/0/0") == 1
        assert store.count("get", "a/c/0/0") == 0
        store.change("a/c/0/0", b"new")
        clock.jump(2)
        assert await client.read("a/c/0/0") == b"new"


async def test_a_directory_is_there_as_long_as_a_chunk_in_it_was(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((3, 100)))
    client = Client(store, tmp_path, metadata_ttl=1)
    async with client.at("a/zarr.json"), kernel(client, "a/c/0"):
        store.calls.clear()
        for i in range(100):
            await client.read(key((0, i)))
            clock.jump(0.5)
        assert store.count("lookup") == 0
        assert store.count("get") == 100


# -- walks -----------------------------------------------------------------------------------------

ORDERS = {
    "c order": lambda shape: list(itertools.product(*map(range, shape))),
    "reversed": lambda shape: list(itertools.product(*map(range, shape)))[::-1],
    "f order": lambda shape: [at[::-1] for at in itertools.product(*map(range, shape[::-1]))],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("separator", [".", "/"])
async def test_one_reader_of_a_slow_store_is_as_fast_as_many(
    clock: MockClock, tmp_path: Path, order: str, separator: str
) -> None:
    shape = (10, 10, 10)
    store = FakeStore(array(shape, separator))
    client = Client(store, tmp_path, metadata_ttl=1)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        store.latency = 0.02
        store.calls.clear()
        started = trio.current_time()
        for at in ORDERS[order](shape):
            assert await client.read(key(at, separator)) == content(at)
        passed = trio.current_time() - started
        calls = chunk_calls(store)
        assert calls["get"] == 1000
        assert set(calls) <= {"get", "lookup"}
        # Directories are asked for until the walk is known: with each of the first chunks, at most.
        assert calls["lookup"] <= (0 if separator == "." else 12)
        # One at a time it would take 20 s, and 32 at a time 0.6 s.
        assert passed < 1.1
    client.at_rest()


async def test_what_the_kernel_still_has_is_confirmed_ahead(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((300,), "."))
    client = Client(store, tmp_path, metadata_ttl=1)
    async with running(client), client.at("a/zarr.json"), AsyncExitStack() as held:
        for i in range(300):
            inode = await held.enter_async_context(client.at(key((i,), ".")))
            async with client.open(key((i,), ".")):
                client.vfs.keeps_pages(inode)
        store.latency = 0.02
        await trio.sleep(2)
        store.calls.clear()
        started = trio.current_time()
        for i in range(300):
            async with client.open(key((i,), ".")):
                pass
        assert trio.current_time() - started < 0.6
        assert chunk_calls(store)["head"] == 300
        assert chunk_calls(store)["get"] == 0


async def test_a_region_with_strides_is_read_ahead(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((60, 60), "."))
    client = Client(store, tmp_path, metadata_ttl=1)
    visits = [(i, j) for j in range(50, 10, -2) for i in range(5, 45)]
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        store.latency = 0.02
        store.calls.clear()
        started = trio.current_time()
        for at in visits:
            assert await client.read(key(at, ".")) == content(at)
        assert trio.current_time() - started < 1.5
        assert set(chunk_calls(store)) == {"get"}
        assert chunk_calls(store)["get"] < len(visits) + 64 + 64


async def test_missing_chunks_are_part_of_the_walk(clock: MockClock, tmp_path: Path) -> None:
    data = array((1000,), ".")
    for i in range(1000):
        if i % 7:
            del data[key((i,), ".")]
    store = FakeStore(data)
    client = Client(store, tmp_path, metadata_ttl=1)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        store.latency = 0.02
        store.calls.clear()
        started = trio.current_time()
        for i in range(1000):
            assert await client.exists(key((i,), ".")) is (i % 7 == 0)
        assert trio.current_time() - started < 1.1
        assert chunk_calls(store) == {"get": 1000}


async def test_several_readers_at_once_share_what_is_fetched(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((400,), "."))
    client = Client(store, tmp_path, metadata_ttl=1)

    async def read() -> None:
        for i in range(400):
            assert await client.read(key((i,), ".")) == content((i,))

    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        store.latency = 0.02
        store.calls.clear()
        async with trio.open_nursery() as readers:
            for _ in range(4):
                readers.start_soon(read)
        assert chunk_calls(store) == {"get": 400}


async def test_a_reader_in_many_threads_costs_hardly_more_requests(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((20, 20)))
    client = Client(store, tmp_path, metadata_ttl=1)
    left = iter(itertools.product(range(20), range(20)))

    async def read() -> None:
        for at in left:
            assert await client.read(key(at)) == content(at)

    async with running(client), client.at("a/zarr.json"), kernel(client, "a/c"):
        store.latency = 0.02
        store.calls.clear()
        async with trio.open_nursery() as readers:
            for _ in range(10):
                readers.start_soon(read)
        assert chunk_calls(store)["get"] == 400
        assert "head" not in chunk_calls(store)
        assert "get_range" not in chunk_calls(store)


async def test_a_reader_that_takes_its_time_gets_no_old_answers(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((100,), "."))
    client = Client(store, tmp_path, metadata_ttl=1)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        store.calls.clear()
        for i in range(100):
            assert await client.read(key((i,), ".")) == content((i,))
            await trio.sleep(0.3)
        assert chunk_calls(store)["get"] <= 105
        assert set(chunk_calls(store)) <= {"get", "head"}
        assert chunk_calls(store)["head"] <= 5


async def test_random_reads_fetch_little_more_than_what_is_read(clock: MockClock, tmp_path: Path) -> None:
    rng = random.Random(7)
    store = FakeStore(array((50, 50), "."))
    client = Client(store, tmp_path, metadata_ttl=1)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        store.latency = 0.02
        store.calls.clear()
        for _ in range(500):
            at = (rng.randrange(50), rng.randrange(50))
            assert await client.read(key(at, ".")) == content(at)
        assert chunk_calls(store)["get"] < 600


async def test_what_was_listed_is_read_ahead_all_the_same(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((500,)))
    client = Client(store, tmp_path, metadata_ttl=60)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a/c"):
        assert len(await client.names("a/c")) == 500
        store.latency = 0.02
        store.calls.clear()
        started = trio.current_time()
        for i in range(500):
            assert await client.read(key((i,))) == content((i,))
        assert trio.current_time() - started < 0.8
        assert chunk_calls(store).total() == 500
        assert chunk_calls(store)["get"] >= 495


async def test_nothing_is_read_ahead_with_a_minimal_time_to_live(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((50,), "."))
    client = Client(store, tmp_path, metadata_ttl=0)
    async with running(client):
        for i in range(50):
            assert await client.read(key((i,), ".")) == content((i,))
        assert chunk_calls(store)["get"] == 50
        store.change(key((7,), "."), b"new")
        assert await client.read(key((7,), ".")) == b"new"


async def test_it_works_without_a_background(tmp_path: Path) -> None:
    store = FakeStore(array((50,), "."))
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("a/zarr.json"), kernel(client, "a"):
        store.calls.clear()
        for i in range(50):
            assert await client.read(key((i,), ".")) == content((i,))
        assert chunk_calls(store) == {"get": 50}


async def test_stores_without_versions_are_asked_as_ever(tmp_path: Path) -> None:
    store = FakeStore(array((5,)), MINIMAL)
    client = Client(store, tmp_path, metadata_ttl=10)
    async with running(client):
        for i in range(5):
            assert await client.read(key((i,))) == content((i,))
        assert store.count("get") == 0


# -- what changes ----------------------------------------------------------------------------------


async def walk(client: Client, visits: range, separator: str = ".") -> None:
    for i in visits:
        await client.read(key((i,), separator))


async def test_a_change_here_voids_what_was_fetched_ahead(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((100,), "."))
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        await walk(client, range(10))
        await trio.sleep(0.1)
        assert len(client.c.lookups.ahead) > 10
        await client.write(key((12,), "."), b"mine")
        await client.unlink(key((13,), "."))
        await client.rename(key((14,), "."), key((15,), "."))
        assert await client.read(key((12,), ".")) == b"mine"
        assert not await client.exists(key((13,), "."))
        assert not await client.exists(key((14,), "."))
        assert await client.read(key((15,), ".")) == content((14,))
        await client.rename("a", "b")
        assert await client.read("b/c.17") == content((17,))
        assert not await client.exists("a")
        await client.write("b/c.18", b"mine")
        assert await client.read("b/c.18") == b"mine"


async def test_a_change_elsewhere_is_seen_in_time(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((100,), "."))
    client = Client(store, tmp_path, metadata_ttl=1)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        await walk(client, range(10))
        await trio.sleep(0.1)
        for i in range(10, 100):
            store.change(key((i,), "."), b"new")
        clock.jump(1)
        for i in range(10, 100):
            assert await client.read(key((i,), ".")) == b"new"


async def test_what_was_fetched_ahead_is_told_for_the_rest_of_its_time(
    clock: MockClock, tmp_path: Path
) -> None:
    store = FakeStore(array((100,), "."))
    client = Client(store, tmp_path, metadata_ttl=10)
    ahead, missing = key((11,), "."), key((12,), ".")
    store.change(missing, None)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a") as parent:
        await walk(client, range(10))
        await trio.sleep(0.1)
        assert ahead in client.c.lookups.ahead
        store.change(ahead, b"new")
        store.change(missing, b"new")
        await trio.sleep(6)
        async with client.at(ahead) as inode:
            assert client.vfs.validity(inode) <= 4
            assert not await client.exists(missing)
            assert 0 < client.vfs.absence(parent, missing.rpartition("/")[2]) <= 4
            await trio.sleep(4)
            assert await client.read(ahead) == b"new"
            assert await client.read(missing) == b"new"


async def test_a_chunk_under_way_when_it_changes_here_is_not_believed(
    clock: MockClock, tmp_path: Path
) -> None:
    store = FakeStore(array((100,), "."))
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        await walk(client, range(5))
        store.latency = 1.0
        await walk(client, range(5, 9))
        on_its_way = list(client.c.lookups.ahead._fetches)[-1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.exists, on_its_way)
            store.latency = 0.0
            await client.write(on_its_way, b"mine")
        assert await client.read(on_its_way) == b"mine"


async def test_an_array_that_becomes_a_group_elsewhere_is_one_in_time(
    clock: MockClock, tmp_path: Path
) -> None:
    store = FakeStore({"a/.zarray": v2((5,)), "a/0": b"chunk"})
    client = Client(store, tmp_path, metadata_ttl=1)
    assert await client.read("a/0") == b"chunk"
    store.change("a/.zarray", None)
    store.change("a/0", None)
    store.change("a/0/.zarray", v2((5,)))
    store.change("a/0/3", b"other")
    clock.jump(1.1)
    assert await client.read("a/0/3") == b"other"
    assert await client.names("a") == ["0"]


async def test_an_array_that_becomes_a_group_here_is_one_at_once(tmp_path: Path) -> None:
    store = FakeStore({"a/.zarray": v2((5,)), "a/0": b"chunk"})
    client = Client(store, tmp_path, metadata_ttl=1000)
    assert await client.read("a/0") == b"chunk"
    await client.unlink("a/.zarray")
    await client.unlink("a/0")
    await client.mkdir("a/0")
    await client.write("a/0/3", b"other")
    assert await client.read("a/0/3") == b"other"


async def test_a_store_that_fails_is_not_taken_for_one_without_chunks(
    clock: MockClock, tmp_path: Path
) -> None:
    store = FakeStore(array((100,), "."))
    client = Client(store, tmp_path, metadata_ttl=1, read_timeout=5)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        await walk(client, range(10))
        fault = store.fail("get", error=lambda: Unavailable("no answer"))
        await trio.sleep(2)
        started = trio.current_time()
        assert await failure(client.read(key((50,), "."))) == errno.EIO
        assert trio.current_time() - started == pytest.approx(5)
        fault.times = 0
        await walk(client, range(10, 100))


async def test_a_request_ahead_that_hangs_costs_no_more_than_any_other(
    clock: MockClock, tmp_path: Path
) -> None:
    store = FakeStore(array((100,), "."))
    client = Client(store, tmp_path, metadata_ttl=1, read_timeout=5)
    failed = []

    async def read_or_wait(i: int) -> None:
        if await failure(client.read(key((i,), "."))) == errno.EIO:
            failed.append(i)

    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        await walk(client, range(10))
        fault = store.fail("get", hang=True)
        async with trio.open_nursery() as nursery:  # its first calls are those that were fetched by then
            for i in range(10, 100):
                nursery.start_soon(read_or_wait, i)
        assert failed
        assert trio.current_time() <= 5.1
        fault.times = 0
        await walk(client, range(10, 100))


async def test_reading_while_somebody_writes_never_mixes(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((200,), ".", size=300 * KB))
    client = Client(store, tmp_path, metadata_ttl=1)
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        store.latency = 0.02
        for i in range(200):
            async with client.open(key((i,), ".")) as handle:
                if i % 3 == 0:
                    store.change(key((i,), "."), b"n" * 300 * KB)
                try:
                    first = await client.vfs.files.read(handle, 0, 128 * KB)
                    rest = await client.vfs.files.read(handle, 128 * KB, 300 * KB)
                except Exception as error:
                    assert "changed" in str(error)
                else:
                    assert first + rest in (content((i,), 300 * KB), b"n" * 300 * KB)


async def test_names_that_are_no_chunks_are_files_like_any_other(tmp_path: Path) -> None:
    store = FakeStore(
        {
            **array((3,)),
            "a/c/7": b"outside",
            "a/notes": b"text",
            "a/c/x/y": b"below",
            "0": b"plain",
            "1/2": b"deep",
        }
    )
    client = Client(store, tmp_path, metadata_ttl=10)
    assert await client.read("a/c/7") == b"outside"
    assert await client.read("a/notes") == b"text"
    assert await client.read("a/c/x/y") == b"below"
    assert await client.read("0") == b"plain"
    assert await client.read("1/2") == b"deep"
    assert not await client.exists("a/c/8")
    client.at_rest()


async def test_nothing_is_held_for_ever(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore(array((1000,), ".", size=100))
    client = Client(store, tmp_path, metadata_ttl=10**9)
    ahead = client.c.lookups.ahead
    async with running(client), client.at("a/zarr.json"), kernel(client, "a"):
        for start in range(0, 1000, 100):  # ten walks that break off
            await walk(client, range(start, start + 20))
            await trio.sleep(10)
            assert len(ahead) <= 64
        await walk(client, range(500, 600))
        with pytest.raises(NotFound):
            await client.read("a/c.1000")
