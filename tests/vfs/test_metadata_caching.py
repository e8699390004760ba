"""For how long what the store said is told again, and what makes it void."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import trio
import trio.testing
from client import Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.errors import Denied, NotFound, Unavailable


async def test_a_stat_is_told_again_for_its_time_and_no_longer(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore({"a": b"123"})
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("a") as inode:
        for _ in range(5):
            await client.vfs.getattr(inode.number)
            await client.vfs.lookup(1, "a")
            client.vfs.forget([(inode.number, 1)])
        assert store.count() == 1
        clock.jump(9.9)
        await client.vfs.getattr(inode.number)
        assert store.count() == 1
        clock.jump(0.2)
        await client.vfs.getattr(inode.number)
        await client.vfs.getattr(inode.number)
        assert store.count() == 2
    client.at_rest()


async def test_an_absence_is_told_again_for_its_time(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, metadata_ttl=10)
    for _ in range(3):
        assert not await client.exists("a")
    assert store.count() == 1
    store.change("a", b"1")
    assert not await client.exists("a")
    clock.jump(10.1)
    assert await client.exists("a")


async def test_the_kernel_gets_what_remains(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore({"a": b"1"})
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("a") as inode:
        assert not await client.exists("b")
        clock.jump(7)
        await client.vfs.lookup(1, "a")
        assert client.vfs.validity(inode) == pytest.approx(3)
        with pytest.raises(NotFound):
            await client.vfs.lookup(1, "b")
        assert client.vfs.absence(1, "b") == pytest.approx(3)
        clock.jump(7)
        assert client.vfs.validity(inode) == 0
        assert client.vfs.absence(1, "b") == 0
        client.vfs.forget([(inode.number, 1)])


async def test_what_a_listing_lacks_is_absent_while_the_listing_holds(
    clock: MockClock, tmp_path: Path
) -> None:
    client = Client(FakeStore({"a": b"1"}), tmp_path, metadata_ttl=10)
    await client.names()
    clock.jump(4)
    assert not await client.exists("b")
    assert client.vfs.absence(1, "b") == pytest.approx(6)


async def test_a_listing_answers_lookups(tmp_path: Path) -> None:
    store = FakeStore({f"d/{i}": b"x" * i for i in range(50)}, page=7)
    client = Client(store, tmp_path, metadata_ttl=60)
    async with client.at("d"):
        assert len(await client.names("d")) == 50
        calls = store.count()
        assert [await client.size(f"d/{i}") for i in range(50)] == list(range(50))
        assert not await client.exists("d/none")
        assert await client.names("d") == sorted(map(str, range(50)))
        assert store.count() == calls


@pytest.mark.parametrize("ttl", [0, 10])
async def test_remote_changes_are_seen_in_time(clock: MockClock, tmp_path: Path, ttl: float) -> None:
    store = FakeStore({"a": b"1", "gone": b"1", "d/x": b"1"})
    client = Client(store, tmp_path, metadata_ttl=ttl)
    assert await client.size("a") == 1
    assert await client.exists("gone")
    assert await client.names() == ["a", "d", "gone"]
    store.change("a", b"22")
    store.change("gone", None)
    store.change("new", b"333")
    if ttl:
        assert await client.size("a") == 1
        clock.jump(ttl)
    assert await client.size("a") == 2
    assert await client.read("a") == b"22"
    assert not await client.exists("gone")
    assert await client.size("new") == 3
    assert await client.names() == ["a", "d", "new"]
    client.at_rest()


@pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE, MINIMAL])
async def test_our_own_changes_are_seen_at_once(tmp_path: Path, profile: object) -> None:
    store = FakeStore({"d/x": b"1"}, profile)  # type: ignore[arg-type]
    client = Client(store, tmp_path, metadata_ttl=1000)
    assert await client.names("d") == ["x"]
    assert not await client.exists("d/y")
    await client.write("d/y", b"22")
    assert await client.size("d/y") == 2
    assert await client.names("d") == ["x", "y"]
    await client.unlink("d/x")
    assert not await client.exists("d/x")
    assert await client.names("d") == ["y"]
    await client.rename("d/y", "z")
    assert await client.names("d") == []
    assert await client.names() == ["d", "z"]
    assert not await client.exists("d/y")
    assert await client.read("z") == b"22"
    await client.rmdir("d")
    assert await client.names() == ["z"]


async def test_close_to_open(tmp_path: Path) -> None:
    store = FakeStore({"a": b"old"})
    one = Client(store, tmp_path / "1", metadata_ttl=0)
    other = Client(store, tmp_path / "2", metadata_ttl=0)
    assert await other.read("a") == b"old"
    await one.write("a", b"newer")
    assert await other.read("a") == b"newer"
    assert await other.size("a") == 5


async def test_answers_that_are_overtaken_by_a_change_are_not_believed(
    clock: MockClock, tmp_path: Path
) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, metadata_ttl=1000)
    store.latency = 1.0
    seen: list[bool] = []

    async def look() -> None:
        seen.append(await client.exists("a"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await trio.sleep(0.5)
        store.latency = 0
        client.c.namespace.changed(client.c.table.root, "a")
        store.change("a", b"1")
    assert seen == [True]


async def test_a_lookup_is_not_starved_by_other_names(clock: MockClock, tmp_path: Path) -> None:
    """Whatever is stored beside it, one question is asked once."""
    store = FakeStore({"a": b"1"})
    client = Client(store, tmp_path, metadata_ttl=1000)
    store.latency = 1.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.exists, "a")
        for i in range(20):
            await trio.sleep(0.2)
            client.c.namespace.changed(client.c.table.root, f"other{i}")
    assert store.count("lookup", "a") == 1


async def test_many_ask_and_one_is_answered_for_all(tmp_path: Path) -> None:
    store = FakeStore({"a": b"1"})
    store.latency = 0.01
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client.vfs.lookup, 1, "a")
    assert store.count() == 1
    client.vfs.forget([(client.c.table.root.children["a"].number, 20)])
    client.at_rest()


async def test_whoever_waits_with_a_cancelled_asker_is_not_stranded(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore({"a": b"1"})
    store.fail("lookup", "a", hang=True, times=1)
    client = Client(store, tmp_path, metadata_ttl=1000)
    sizes: list[int] = []

    async def wait() -> None:
        sizes.append(await client.size("a"))

    async with trio.open_nursery() as nursery:
        cancelled = trio.CancelScope()

        async def first() -> None:
            with cancelled:
                await client.size("a")

        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        cancelled.cancel()
    assert sizes == [1]
    client.at_rest()


async def test_an_object_and_a_prefix_of_one_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore({"a": b"object", "a/b": b"below"})
    client = Client(store, tmp_path, metadata_ttl=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await client.names() == ["a"]
            assert await client.names("a") == ["b"]
            assert await client.read("a/b") == b"below"
    assert len([r for r in caplog.records if "both an object and a prefix" in r.getMessage()]) == 1
    assert store.data["a"] == b"object"
    await client.unlink("a/b")
    await client.rmdir("a")
    assert await client.read("a") == b"object"


async def test_unusable_names_are_told_once_and_the_log_is_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zarrmount.shown._MOST_REPORTED", 4)
    store = FakeStore({f"{'x' * 300}{i}": b"" for i in range(10)} | {"good": b"", "d//e": b""})
    client = Client(store, tmp_path, metadata_ttl=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await client.names() == ["d", "good"]
            assert await client.names("d") == []
    assert len(caplog.records) == 4


@pytest.mark.parametrize("method", ["lookup", "list"])
async def test_a_store_that_is_not_reached_is_never_enoent(
    tmp_path: Path, method: str, clock: MockClock
) -> None:
    store = FakeStore({"a": b"1", "d/b": b"1"})
    client = Client(store, tmp_path, metadata_ttl=0)
    store.fail(method)
    call = client.size("a") if method == "lookup" else client.names()
    with pytest.raises(Unavailable):
        await call
    store.faults.clear()
    assert await client.size("a") == 1
    assert await client.names() == ["a", "d"]


async def test_a_listing_that_broke_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    """Neither by whoever reads on, nor by lookups later."""
    store = FakeStore({f"{i:02}": b"x" for i in range(30)}, page=10)
    client = Client(store, tmp_path, metadata_ttl=1000)
    handle = client.open_dir(1)
    store.fail("next_page", times=1, error=lambda: Denied("not now"))
    names: list[str] = []

    async def read_on() -> None:
        while (entry := await client.vfs.directories.entry(handle.number, len(names))) is not None:
            names.append(entry[0])

    with pytest.raises(Denied):
        await read_on()
    assert len(names) == 10
    await read_on()
    assert sorted(names) == sorted(store.objects)
    await client.vfs.directories.release(handle.number)
    assert await client.exists("29")


async def test_a_stale_listing_does_not_bring_back_what_was_removed(tmp_path: Path) -> None:
    store = FakeStore({"a": b"1", "b": b"1"})
    client = Client(store, tmp_path, metadata_ttl=1000)
    handle = client.open_dir(1)
    entry = await client.vfs.directories.entry(handle.number, 0)
    assert entry is not None
    await client.unlink(entry[0])
    inode = client.vfs.directories.inode_of(handle.number, entry)
    assert inode is None or client.vfs.validity(inode) == 0
    if inode is not None:
        client.vfs.directories.drop(inode)
    assert not await client.exists(entry[0])
    await client.vfs.directories.release(handle.number)


async def test_a_removed_directory_shows_nothing_of_the_root(tmp_path: Path) -> None:
    store = FakeStore({"d/x": b"1", "top": b"1"})
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.at("d") as inode:
        store.change("d/x", None)
        assert not await client.exists("d")
        assert inode.unlinked
        handle = client.open_dir(inode.number)
        assert await client.vfs.directories.entry(handle.number, 0) is None
        with pytest.raises(NotFound):
            await client.vfs.lookup(inode.number, "top")
        assert await failure(client.vfs.create(inode.number, "new", 0o644, os.O_WRONLY, (0, 0))) != 0
        assert await failure(client.vfs.rename(1, "top", inode.number, "new")) != 0
        await client.vfs.directories.release(handle.number)
    assert store.data == {"top": b"1"}
    client.at_rest()


async def test_directories_moved_while_their_listing_was_kept(tmp_path: Path) -> None:
    """A listing of before the move has the versions of before the move."""
    store = FakeStore({"d/e/x": b"1"})
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with client.at("d/e"):
        assert await client.names("d/e") == ["x"]
        await client.rename("d", "n")
        assert await client.read("n/e/x") == b"1"
        assert await client.names("n/e") == ["x"]
    assert not await client.exists("d")
