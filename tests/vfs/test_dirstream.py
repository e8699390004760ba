"""Walks through directories that memory has no room for."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from client import Client
from fake_store import S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.meta import ListPage, ObjectMeta
from zarrmount.dirstream import DirStream
from zarrmount.zarr.hinted import HintedStore

NAMES = [f"{number:05}" for number in range(9_500)]


def big_store() -> FakeStore:
    return FakeStore(dict.fromkeys(NAMES, b"x"), page=500)


async def walk(client: Client, handle: int, start: int, stop: int) -> list[str]:
    names = []
    for position in range(start, stop):
        entry = await client.vfs.directories.entry(handle, position)
        if entry is None:
            break
        if client.vfs.directories.inode_of(handle, entry) is not None:
            names.append(entry.name)
    return names


def kept_of(client: Client, handle: int) -> int:
    stream = client.vfs._c.handles.dir(handle).stream
    assert isinstance(stream, DirStream)
    return sum(len(page.entries) for page in stream._recent)


async def test_only_what_is_walked_now_is_kept(tmp_path: Path) -> None:
    client = Client(big_store(), tmp_path, metadata_ttl=0)
    handle = client.open_dir(1).number
    most = 0
    for position in range(len(NAMES)):
        assert (await client.vfs.directories.entry(handle, position)) is not None
        most = max(most, kept_of(client, handle))
    assert await client.vfs.directories.entry(handle, len(NAMES)) is None
    assert 500 <= most < 5000
    await client.vfs.directories.release(handle)


@pytest.mark.parametrize("ttl", [0, 1000])
async def test_going_back_far_finds_the_same_names(tmp_path: Path, ttl: float) -> None:
    client = Client(big_store(), tmp_path, metadata_ttl=ttl)
    handle = client.open_dir(1).number
    names = await walk(client, handle, 0, len(NAMES) + 1)
    assert sorted(names) == NAMES
    assert await walk(client, handle, 17, 40) == names[17:40]
    assert await walk(client, handle, 5_000, 5_010) == names[5_000:5_010]
    assert await walk(client, handle, 9_490, 9_600) == names[9_490:]
    await client.vfs.directories.release(handle)


async def test_what_went_meanwhile_is_left_out_and_moves_nothing(tmp_path: Path) -> None:
    store = big_store()
    client = Client(store, tmp_path, metadata_ttl=0)
    handle = client.open_dir(1).number
    for position in range(len(NAMES)):
        await client.vfs.directories.entry(handle, position)
    store.change(NAMES[20], None)
    assert await walk(client, handle, 19, 23) == [NAMES[19], NAMES[21], NAMES[22]]
    await client.vfs.directories.release(handle)


async def test_a_listing_that_broke_off_late_repeats_nothing(tmp_path: Path) -> None:
    store = big_store()
    client = Client(store, tmp_path, metadata_ttl=0)
    handle = client.open_dir(1).number
    assert await walk(client, handle, 0, 8_000) == NAMES[:8_000]
    store.fail("next_page", times=1)
    assert await walk(client, handle, 8_000, 10_000) == NAMES[8_000:]
    await client.vfs.directories.release(handle)


@pytest.mark.parametrize(("near", "remaining"), [(True, 10), (False, 2)])
async def test_pages_of_a_disk_are_as_new_as_they_are(
    tmp_path: Path, clock: MockClock, near: bool, remaining: float
) -> None:
    """A store on a network may have listed all of it before the first page."""
    store = FakeStore({"a": b"1", "b": b"1"}, page=1)
    store.near = near
    client = Client(store, tmp_path, metadata_ttl=10)
    handle = client.open_dir(1).number
    for position, (pause, expected) in enumerate([(8, 10), (0, remaining)]):
        entry = await client.vfs.directories.entry(handle, position)
        assert entry is not None
        inode = client.vfs.directories.inode_of(handle, entry)
        assert inode is not None
        assert client.vfs.validity(inode) == pytest.approx(expected, abs=0.5)
        clock.jump(pause)
    await client.vfs.directories.release(handle)


async def test_names_of_a_grid_are_computed(tmp_path: Path) -> None:
    """A hundred million chunks: none of those that were passed is kept."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [10_000, 10_000],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [{"name": "bytes"}],
        "fill_value": 0,
    }
    inner = FakeStore({"zarr.json": json.dumps(document).encode(), "c.0.17": b"x"})
    inner.capabilities = dataclasses.replace(S3_LIKE, listable=False, ordered=False)
    async with HintedStore(inner) as store:
        client = Client(store, tmp_path, metadata_ttl=1000)
        handle = client.open_dir(1).number
        stream = None
        for position in range(30_000):
            entry = await client.vfs.directories.entry(handle, position)
            assert entry is not None
            at = position - 1
            assert entry.name == ("zarr.json" if at < 0 else f"c.{at // 10_000}.{at % 10_000}")
            stream = client.vfs._c.handles.dir(handle).stream
        assert stream is not None
        assert len(stream._names._pages) == 2
        assert len(stream._names) == 30_001
        assert kept_of(client, handle) < 6000
        # Going back tells the same names at the same places.
        assert await walk(client, handle, 18, 19) == ["c.0.17"]
        assert stream._names[25_001] == "c.2.5000"
        await client.vfs.directories.release(handle)


async def test_a_million_names_take_little_room(tmp_path: Path) -> None:
    store = FakeStore()
    names = [f"{number:07}" for number in range(1_000_000)]

    async def pages(prefix: str) -> AsyncGenerator[ListPage, None]:
        for start in range(0, len(names), 1000):
            yield ListPage(tuple(ObjectMeta(name, 1, 1, "1") for name in names[start : start + 1000]))

    store.list_dir = pages  # type: ignore[method-assign]
    client = Client(store, tmp_path, metadata_ttl=0)
    handle = client.open_dir(1).number
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for position in range(0, len(names), 500):
            assert await client.vfs.directories.entry(handle, position) is not None
        used = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert used < 40 << 20
    assert await client.vfs.directories.entry(handle, len(names)) is None
    await client.vfs.directories.release(handle)
