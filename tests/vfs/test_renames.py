"""Renaming: of dirty files, over open files, of directories with what is open below."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.errors import Unavailable
from stores.meta import Capabilities

PROFILES = pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE, MINIMAL], ids=["s3", "local", "minimal"])
NEW = os.O_CREAT | os.O_RDWR


@PROFILES
async def test_a_dirty_file_is_put_once_under_its_new_name(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with client.open("a.partial", NEW) as handle:
        await client.vfs.files.write(handle, 0, b"new")
        await client.rename("a.partial", "a")
        assert await client.read("a") == b"new"
    assert store.data == {"a": b"new"}
    assert [call for call in store.calls if call[0] in ("put", "copy", "delete", "rename")] == [("put", "a")]
    assert await client.names() == ["a"]
    client.at_rest()


@PROFILES
async def test_over_a_file_that_is_open(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore({"a": b"first", "b": b"second"}, profile)
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("b") as old:
        await client.rename("a", "b")
        assert await client.vfs.files.read(old, 0, 99) == b"second"
        assert await client.read("b") == b"first"
    assert store.data == {"b": b"first"}
    assert store.open_readers == 0
    client.at_rest()


@PROFILES
async def test_of_a_directory_with_open_and_dirty_files_below(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore({"d/open": b"open", "d/e/mod": b"mod", "d/e/still": b"still"}, profile)
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with (
        client.open("d/open") as reading,
        client.open("d/e/mod", os.O_RDWR) as changing,
        client.open("d/e/new", NEW) as making,
    ):
        assert await client.vfs.files.read(reading, 0, 2) == b"op"
        await client.vfs.files.write(changing, 0, b"MOD")
        await client.vfs.files.write(making, 0, b"new")
        await client.rename("d", "moved")
        assert await client.vfs.files.read(reading, 0, 9) == b"open"
        assert await client.read("moved/e/mod") == b"MOD"
        assert await client.names("moved/e") == ["mod", "new", "still"]
        assert not await client.exists("d")
    assert store.data == {
        "moved/open": b"open",
        "moved/e/mod": b"MOD",
        "moved/e/still": b"still",
        "moved/e/new": b"new",
    }
    client.at_rest()


@PROFILES
async def test_what_posix_refuses(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore({"a": b"1", "d/x": b"1", "e/y": b"1"}, profile)
    client = Client(store, tmp_path, metadata_ttl=0)
    assert await failure(client.rename("d", "d/x/y")) in (errno.EINVAL, errno.ENOTDIR)
    assert await failure(client.rename("d", "d/sub")) == errno.EINVAL
    assert await failure(client.rename("d", "a")) == errno.ENOTDIR
    assert await failure(client.rename("a", "d")) == errno.EISDIR
    assert await failure(client.rename("d", "e")) == errno.ENOTEMPTY
    assert await failure(client.rename("none", "x")) == errno.ENOENT
    assert await failure(client.rename("a", "d/x", 1)) == errno.EEXIST
    assert await failure(client.rename("a", "b", 8)) == errno.EINVAL
    assert await failure(client.rename("a", "a")) == 0
    assert store.data == {"a": b"1", "d/x": b"1", "e/y": b"1"}
    client.at_rest()


@pytest.mark.parametrize("profile", [S3_LIKE, MINIMAL], ids=["s3", "minimal"])
@pytest.mark.parametrize("method", ["copy", "get", "put", "delete", "list"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_directory_move_that_fails_loses_nothing(
    tmp_path: Path, clock: MockClock, profile: Capabilities, method: str, after: bool
) -> None:
    data = {f"d/{i}": bytes([i]) for i in range(5)}
    store = FakeStore(data, profile)
    client = Client(store, tmp_path, metadata_ttl=1000, write_timeout=10)
    async with client.open("d/new", NEW) as handle:
        await client.vfs.files.write(handle, 0, b"new")
        store.fail(method, skip=2, after=after)
        await failure(client.rename("d", "n"))
        store.faults.clear()
        values = list(store.data.values())
        assert set(values) >= set(data.values())
        shown = {
            name for path in ("d", "n") if await client.exists(path) for name in await client.names(path)
        }
        assert shown == {"0", "1", "2", "3", "4", "new"}
    assert b"new" in store.data.values()
    client.at_rest()


@pytest.mark.parametrize("method", ["put", "delete", "copy"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dirty", [False, True])
async def test_a_file_move_that_fails_loses_nothing(
    tmp_path: Path, clock: MockClock, method: str, after: bool, dirty: bool
) -> None:
    store = FakeStore({"a": b"old"})
    client = Client(store, tmp_path, metadata_ttl=1000, write_timeout=10)
    async with client.at("a"), client.open("a", os.O_RDWR) as handle:
        assert not await client.exists("b")
        if dirty:
            await client.vfs.files.write(handle, 0, b"new")
        store.fail(method, after=after)
        failed = await failure(client.rename("a", "b"))
        store.faults.clear()
        seen = {name: await client.read(name) for name in await client.names()}
        assert (b"new" if dirty else b"old") in seen.values()
        assert failed or list(seen) == ["b"]
        for name, data in seen.items():
            assert await client.exists(name)
            assert await client.size(name) == len(data)
    assert (b"new" if dirty else b"old") in store.data.values()
    client.at_rest()


async def test_one_into_a_directory_that_is_being_replaced(tmp_path: Path, clock: MockClock) -> None:
    """A file made in a directory while that is replaced must not appear at the root of the store."""
    store = FakeStore({"d/x": b"1"})
    client = Client(store, tmp_path, metadata_ttl=0)
    await client.mkdir("t")
    async with client.at("t") as target:
        store.latency = 1.0
        results: list[int] = []

        async def create() -> None:
            results.append(await failure(client.vfs.create(target.number, "new", 0o644, os.O_WRONLY, (0, 0))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(failure, client.rename("d", "t"))
            for _ in range(12):
                await trio.sleep(0.45)
                nursery.start_soon(create)
    await client.vfs.store_everything()
    assert "new" not in store.data
    assert "new" not in await client.names()
    assert "x" in await client.names("d" if await client.exists("d") else "t")


async def test_opposite_moves_and_removals_do_not_lock_one_another_out(
    tmp_path: Path, clock: MockClock
) -> None:
    """The lower inode number need not be the upper directory."""
    store = FakeStore({"c/keep": b"1"}, LOCAL_LIKE)
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.at("c"):
        await client.mkdir("p")
        await client.rename("c", "p/c")
        await client.write("p/c/x", b"1")
        store.latency = 1.0
        results: list[int] = []

        async def run(call: object) -> None:
            results.append(await failure(call))

        with trio.fail_after(500):
            async with trio.open_nursery() as nursery:
                for offset in range(8):
                    nursery.start_soon(run, client.rmdir("p/c"))
                    await trio.sleep(0.3 * offset)
                    nursery.start_soon(run, client.rename("p/c/x", "p/x"))
                    nursery.start_soon(run, client.rename("p/x", "p/c/x"))
        assert len(results) == 24
    client.at_rest()


@PROFILES
async def test_many_renames_at_once(tmp_path: Path, profile: Capabilities, clock: MockClock) -> None:
    store = FakeStore({f"{d}/{i}": bytes([i]) for d in "abc" for i in range(4)}, profile)
    client = Client(store, tmp_path, metadata_ttl=0)
    store.latency = 0.1
    async with trio.open_nursery() as nursery:
        for i in range(4):
            nursery.start_soon(failure, client.rename(f"a/{i}", f"b/a{i}"))
            nursery.start_soon(failure, client.rename(f"b/{i}", f"c/b{i}"))
            nursery.start_soon(failure, client.rename(f"c/{i}", f"a/c{i}"))
        nursery.start_soon(failure, client.rename("a", "z"))
    assert sorted(store.data.values()) == sorted([bytes([i]) for i in range(4)] * 3)
    client.at_rest()


@pytest.mark.parametrize("method", ["rename", "lookup"])
async def test_a_server_side_rename_that_fails_in_doubt(
    tmp_path: Path, clock: MockClock, method: str
) -> None:
    store = FakeStore({"a": b"1"}, LOCAL_LIKE)
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with client.at("a"):
        assert not await client.exists("b")
        store.fail("rename", after=True, error=lambda: Unavailable("in doubt"))
        assert await failure(client.rename("a", "b")) == errno.EIO
        store.faults.clear()
        assert await client.read("b") == b"1"
        assert not await client.exists("a")
