"""The one budget for all that is written and not stored yet."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import FakeStore
from trio.testing import MockClock

from zarrmount.handles import FileHandle

NEW = os.O_CREAT | os.O_RDWR


async def test_a_writer_waits_until_another_file_is_stored(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, max_dirty=1000)
    done: list[float] = []
    async with client.open("b", NEW) as second, trio.open_nursery() as nursery:

        async def write() -> None:
            await client.vfs.files.write(second, 0, bytes(600))
            done.append(trio.current_time())

        async with client.open("a", NEW) as first:
            await client.vfs.files.write(first, 0, bytes(700))
            nursery.start_soon(write)
            await trio.sleep(0.5)
            assert not done
            assert client.c.staging.used == 700
        await trio.sleep(0.1)
        assert done == [0.5]
    assert {key: len(data) for key, data in store.data.items()} == {"a": 700, "b": 600}
    client.at_rest()


async def test_bytes_that_the_store_has_make_room(tmp_path: Path) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, max_dirty=1000)
    async with client.open("a", NEW) as first, client.open("b", NEW) as second:
        await client.vfs.files.write(first, 0, b"a" * 700)
        await client.vfs.files.fsync(first.inode)  # clean now, and open all the same
        await client.vfs.files.write(second, 0, bytes(600))
        await client.vfs.files.fsync(second.inode)
        await client.vfs.files.write(first, 700, b"b")
    assert store.data["a"] == b"a" * 700 + b"b"
    client.at_rest()


async def test_what_waits_for_its_rename_makes_room(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, max_dirty=1000, rename_wait=1000)
    async with client.running():
        await client.write("a.tmp", bytes(700))
        assert store.data == {}
        await client.write("b", bytes(600))
    assert set(store.data) == {"a.tmp", "b"}
    client.at_rest()


async def test_files_that_are_all_half_written_do_not_wait_for_each_other(
    tmp_path: Path, clock: MockClock
) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, max_dirty=1000)
    most = 0

    async def write(name: str) -> None:
        nonlocal most
        async with client.open(name, NEW) as handle:
            for part in range(10):
                await client.vfs.files.write(handle, 100 * part, name.encode() * 100)
                most = max(most, client.c.staging.used)
                await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        for name in "abcdef":
            nursery.start_soon(write, name)
    assert store.data == {name: name.encode() * 1000 for name in "abcdef"}
    assert most <= 2000  # the budget, and one file
    client.at_rest()


async def test_a_file_that_alone_is_larger_is_stored(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore({"large": b"l" * 2000})
    client = Client(store, tmp_path, max_dirty=1000)
    await client.write("a", b"a" * 3000)
    await client.write("large", b"x", flags=os.O_RDWR)  # all of it is loaded
    assert store.data == {"a": b"a" * 3000, "large": b"x" + b"l" * 1999}
    client.at_rest()


async def test_no_room_for_longer_than_the_deadline(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, max_dirty=1000, write_timeout=30)
    async with client.open("a", NEW) as first, client.open("b", NEW) as second:
        await client.vfs.files.write(first, 0, b"a" * 900)
        await client.vfs.files.write(first, 900, b"a" * 900)  # the one that may go past the budget
        began = trio.current_time()
        assert await failure(client.vfs.files.write(second, 0, bytes(200))) == errno.ENOSPC
        assert trio.current_time() - began == 30
        await client.vfs.files.write(first, 0, b"A" * 200)  # what needs no room goes on
    assert store.data == {"a": b"A" * 200 + b"a" * 1600, "b": b""}
    client.at_rest()


async def test_who_needs_no_room_does_not_make_others_wait_longer(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, max_dirty=1000, write_timeout=30)
    async with client.open("a", NEW) as busy, client.open("b", NEW) as one, client.open("c", NEW) as other:
        await client.vfs.files.write(busy, 0, b"a" * 900)
        ended: list[tuple[float, int]] = []

        async def write(handle: FileHandle) -> None:
            number = await failure(client.vfs.files.write(handle, 0, bytes(200)))
            ended.append((trio.current_time() - began, number))

        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(write, one)
            nursery.start_soon(write, other)
            while len(ended) < 2 and trio.current_time() < began + 100:
                await client.vfs.files.write(busy, 0, b"A" * 900)
                await trio.sleep(0.3)
        assert ended == [(pytest.approx(1, abs=0.5), 0), (pytest.approx(30, abs=1.5), errno.ENOSPC)]
    client.at_rest()
