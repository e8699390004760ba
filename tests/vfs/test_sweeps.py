"""Flat listings that answer for the directories of chunks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from client import Client
from fake_store import FakeStore
from trio.testing import MockClock

ROWS, COLUMNS = 60, 50


def document(*grid: int) -> bytes:
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": grid,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * len(grid)}},
            "chunk_key_encoding": {"name": "default"},
            "codecs": [{"name": "bytes"}],
            "fill_value": 0,
        }
    ).encode()


def array(rows: int = ROWS, columns: int = COLUMNS) -> dict[str, bytes]:
    chunks = {f"a/c/{i}/{j}": b"x" * (i + 1) for i in range(rows) for j in range(columns)}
    return {"a/zarr.json": document(rows, columns)} | chunks


@asynccontextmanager
async def walked(store: FakeStore, tmp_path: Path, ttl: float = 1) -> AsyncIterator[Client]:
    """A client whose kernel knows the directories of the array, as after ``ls -l a/c``."""
    client = Client(store, tmp_path, metadata_ttl=ttl)
    async with client.running(), client.at("a/c") as above:
        handle = client.open_dir(above.number).number
        position = 0
        while (entry := await client.vfs.directories.entry(handle, position)) is not None:
            inode = client.vfs.directories.inode_of(handle, entry)
            assert inode is not None
            client.vfs.remember(inode)
            position += 1
        await client.vfs.directories.release(handle)
        store.calls.clear()
        yield client


def rows_of(store: FakeStore) -> list[str]:
    return sorted({key.rpartition("/")[0] for key in store.objects if key.startswith("a/c/")})


async def test_one_flat_listing_is_handed_out_by_directory(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore(array())
    store.latency = 0.02
    async with walked(store, tmp_path) as client:
        for row in rows_of(store):
            number = int(row.rpartition("/")[2])
            assert await client.names(row) == sorted(map(str, range(COLUMNS)))
            assert await client.size(f"{row}/7") == number + 1
            await trio.sleep(0.03)  # 1.8 s in all: longer than what was told of the rows holds
        # The first row is listed before it is known where this goes.
        assert store.count("list_after") == -(-ROWS * COLUMNS // store.page)
        assert store.count("list") <= 1
        assert store.count("head") == store.count("lookup") == 0


async def test_a_walk_that_ends_is_not_listed_on(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore(array(400, 100))
    async with walked(store, tmp_path) as client:
        for row in rows_of(store)[100:105]:
            await client.names(row)
        await trio.sleep(30)
        assert store.count("list_after") <= 5
        store.calls.clear()
        for row in rows_of(store)[100:105]:
            await client.names(row)
        assert store.count("list_after") >= 1


async def test_what_is_told_is_never_older_than_the_time_to_live(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore(array(200, 20), page=100)
    rows = rows_of(store)
    async with walked(store, tmp_path) as client:
        for number, row in enumerate(rows):
            old = trio.current_time()
            await trio.sleep(0.15 if number % 20 else 0.95)
            for later in rows[number:]:
                store.change(f"{later}/time", b"x" * int(1000 * (trio.current_time() - clock_start(client))))
            await client.names(row)
            told = await client.size(f"{row}/time")
            assert told >= int(1000 * (trio.current_time() - 1 - clock_start(client))), old


def clock_start(client: Client) -> float:
    return client.__dict__.setdefault("start", trio.current_time() - 10)


async def test_a_change_here_is_seen_at_once(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore(array())
    rows = rows_of(store)
    async with walked(store, tmp_path, 100) as client:
        for row in rows[:5]:
            await client.names(row)
        assert store.count("list_after")
        await client.write(f"{rows[20]}/new", b"1")
        await client.unlink(f"{rows[21]}/7")
        await client.rename(f"{rows[22]}/7", f"{rows[23]}/moved")
        for row in rows[5:]:
            assert await client.names(row) == sorted(
                key.rpartition("/")[2] for key in store.objects if key.startswith(f"{row}/")
            )


@pytest.mark.parametrize("odd", ["a/c/7/x/y", "a/c/7/empty", "a/c/7.x", "a/c/zz", "a/c/7/3/z"])
async def test_what_is_odd_is_shown_as_it_is(tmp_path: Path, clock: MockClock, odd: str) -> None:
    store = FakeStore(array() | {odd: b"" if odd.endswith("empty") else b"1"})
    async with walked(store, tmp_path) as client:
        for row in [f"a/c/{number}" for number in sorted(map(str, range(ROWS)))]:
            below = {key[len(row) + 1 :].split("/")[0] for key in store.objects if key.startswith(f"{row}/")}
            assert await client.names(row) == sorted(below)


@pytest.mark.parametrize("order", ["backwards", "every other", "twice"])
async def test_other_walks_find_everything_too(tmp_path: Path, clock: MockClock, order: str) -> None:
    store = FakeStore(array())
    rows = rows_of(store)
    walks = {"backwards": rows[::-1], "every other": rows[::2], "twice": [r for r in rows for _ in range(2)]}
    async with walked(store, tmp_path) as client:
        for row in walks[order]:
            assert await client.names(row) == sorted(map(str, range(COLUMNS)))
    assert store.count("list") + store.count("list_after") <= len(rows) + 5


async def test_several_walkers(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore(array())
    store.latency = 0.02

    async def walk(client: Client, start: int) -> None:
        for row in rows_of(store)[start:]:
            assert await client.names(row) == sorted(map(str, range(COLUMNS)))

    async with walked(store, tmp_path) as client, trio.open_nursery() as nursery:
        for start in (0, 1, 30):
            nursery.start_soon(walk, client, start)


async def test_a_store_that_fails_meanwhile_is_asked_anew(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore(array(), page=100)
    async with walked(store, tmp_path) as client:
        for number, row in enumerate(rows_of(store)):
            if number % 7 == 3:
                store.fail("list_after", times=2)
            assert await client.names(row) == sorted(map(str, range(COLUMNS)))
