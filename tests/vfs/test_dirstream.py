"""Walks through directories that memory has no room for."""

from __future__ import annotations

from pathlib import Path

import pytest
from client import Client
from fake_store import FakeStore
from trio.testing import MockClock

from zarrmount.dirstream import DirStream

NAMES = [f"{number:05}" for number in range(9_500)]


def big_store() -> FakeStore:
    return FakeStore(dict.fromkeys(NAMES, b"x"), page=500)


async def walk(client: Client, handle: int, start: int, stop: int) -> list[str]:
    names = []
    for position in range(start, stop):
        entry = await client.vfs.dir_entry(handle, position)
        if entry is None:
            break
        if client.vfs.entry_inode(handle, entry) is not None:
            names.append(entry.name)
    return names


def kept_of(client: Client, handle: int) -> int:
    stream = client.vfs._c.handles.dir(handle).stream
    assert isinstance(stream, DirStream)
    return sum(len(page.entries) for page in stream._recent)


async def test_only_what_is_walked_now_is_kept(tmp_path: Path) -> None:
    client = Client(big_store(), tmp_path, metadata_ttl=0)
    handle = client.vfs.open_dir(1).number
    most = 0
    for position in range(len(NAMES)):
        assert (await client.vfs.dir_entry(handle, position)) is not None
        most = max(most, kept_of(client, handle))
    assert await client.vfs.dir_entry(handle, len(NAMES)) is None
    assert 500 <= most < 5000
    await client.vfs.release_dir(handle)


@pytest.mark.parametrize("ttl", [0, 1000])
async def test_going_back_far_finds_the_same_names(tmp_path: Path, ttl: float) -> None:
    client = Client(big_store(), tmp_path, metadata_ttl=ttl)
    handle = client.vfs.open_dir(1).number
    names = await walk(client, handle, 0, len(NAMES) + 1)
    assert sorted(names) == NAMES
    assert await walk(client, handle, 17, 40) == names[17:40]
    assert await walk(client, handle, 5_000, 5_010) == names[5_000:5_010]
    assert await walk(client, handle, 9_490, 9_600) == names[9_490:]
    await client.vfs.release_dir(handle)


async def test_what_went_meanwhile_is_left_out_and_moves_nothing(tmp_path: Path) -> None:
    store = big_store()
    client = Client(store, tmp_path, metadata_ttl=0)
    handle = client.vfs.open_dir(1).number
    for position in range(len(NAMES)):
        await client.vfs.dir_entry(handle, position)
    store.change(NAMES[20], None)
    assert await walk(client, handle, 19, 23) == [NAMES[19], NAMES[21], NAMES[22]]
    await client.vfs.release_dir(handle)


async def test_a_listing_that_broke_off_late_repeats_nothing(tmp_path: Path) -> None:
    store = big_store()
    client = Client(store, tmp_path, metadata_ttl=0)
    handle = client.vfs.open_dir(1).number
    assert await walk(client, handle, 0, 8_000) == NAMES[:8_000]
    store.fail("next_page", times=1)
    assert await walk(client, handle, 8_000, 10_000) == NAMES[8_000:]
    await client.vfs.release_dir(handle)


@pytest.mark.parametrize(("near", "remaining"), [(True, 10), (False, 2)])
async def test_pages_of_a_disk_are_as_new_as_they_are(
    tmp_path: Path, clock: MockClock, near: bool, remaining: float
) -> None:
    """A store on a network may have listed all of it before the first page."""
    store = FakeStore({"a": b"1", "b": b"1"}, page=1)
    store.near = near
    client = Client(store, tmp_path, metadata_ttl=10)
    handle = client.vfs.open_dir(1).number
    for position, (pause, expected) in enumerate([(8, 10), (0, remaining)]):
        entry = await client.vfs.dir_entry(handle, position)
        assert entry is not None
        inode = client.vfs.entry_inode(handle, entry)
        assert inode is not None
        assert client.vfs.validity(inode) == pytest.approx(expected, abs=0.5)
        clock.jump(pause)
    await client.vfs.release_dir(handle)
