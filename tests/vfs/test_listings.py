"""Listings that stay true while names change here, and lookups that they answer."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.errors import Denied, Unavailable


async def test_a_listing_stays_true_while_names_change_here(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore({"d/a": b"1", "d/b": b"1", "d/c": b"1"})
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("d"):
        assert await client.names("d") == ["a", "b", "c"]
        await client.write("d/new", b"22")
        await client.unlink("d/a")
        await client.rename("d/b", "d/moved")
        await client.mkdir("d/e")
        async with client.at("d/e"):
            await client.write("d/e/x", b"1")
            store.calls.clear()
            assert await client.names("d/e") == ["x"]
        assert await client.names("d") == ["c", "e", "moved", "new"]
        assert await client.size("d/new") == 2
        assert await client.size("d/moved") == 1
        assert not await client.exists("d/a")
        assert not await client.exists("d/b")
        assert store.calls == []


async def test_a_change_here_does_not_let_a_listing_hold_longer(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore({"d/a": b"1"})
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("d"):
        await client.names("d")
        store.change("d/theirs", b"1")
        clock.jump(6)
        await client.write("d/new", b"1")
        assert not await client.exists("d/theirs")
        clock.jump(4.1)
        assert await client.exists("d/theirs")
        assert await client.names("d") == ["a", "new", "theirs"]


async def test_a_listing_goes_on_without_the_store_after_a_change_here(
    tmp_path: Path, clock: MockClock
) -> None:
    store = FakeStore({"d/a": b"1"})
    client = Client(store, tmp_path, metadata_ttl=10, read_timeout=2)
    async with client.at("d"):
        await client.names("d")
        await client.write("d/new", b"1")
        store.fail()
        assert await client.names("d") == ["a", "new"]
        assert await client.size("d/new") == 1
        clock.jump(10.1)
        assert await failure(client.names("d")) == errno.EIO


@pytest.mark.parametrize("change", ["create", "unlink", "rename", "overwrite"])
async def test_a_listing_under_way_neither_hides_nor_brings_back(
    tmp_path: Path, clock: MockClock, change: str
) -> None:
    """Its pages are of before the change or of after it; what is told is of after it."""
    store = FakeStore({f"d/{number:02}": b"1" for number in range(30)}, page=10)
    client = Client(store, tmp_path, metadata_ttl=100)
    async with client.at("d") as directory:
        handle = client.open_dir(directory.number).number
        assert await client.vfs.directories.entry(handle, 0) is not None
        if change == "create":
            await client.write("d/005", b"22")
        elif change == "unlink":
            await client.unlink("d/25")
        elif change == "rename":
            await client.rename("d/25", "d/005")
        else:
            await client.write("d/25", b"22")
        position = 1
        while await client.vfs.directories.entry(handle, position) is not None:
            position += 1
        await client.vfs.directories.release(handle)
        store.calls.clear()
        expected = sorted(key.removeprefix("d/") for key in store.objects)
        assert await client.names("d") == expected
        for name in ("005", "25"):
            found = store.objects.get(f"d/{name}")
            assert await client.exists(f"d/{name}") == (found is not None)
            if found is not None:
                assert await client.size(f"d/{name}") == len(found.data)
        assert store.calls == []


async def test_what_is_not_known_is_asked_for(tmp_path: Path) -> None:
    """An answer that was lost: it may be gone, or not."""
    store = FakeStore({"d/a": b"1", "d/b": b"1"})
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with client.at("d"):
        await client.names("d")
        store.fail("delete", error=lambda: Denied("who knows"), after=True, times=1)
        assert await failure(client.unlink("d/a")) == errno.EACCES
        assert not await client.exists("d/a")
        assert store.count("lookup", "d/a") == 1
        assert await client.names("d") == ["b"]


async def test_a_directory_that_gets_its_first_key_here_is_in_the_listing_above(tmp_path: Path) -> None:
    store = FakeStore({"a": b"1"})
    client = Client(store, tmp_path, metadata_ttl=1000)
    assert await client.names() == ["a"]
    await client.mkdir("d")
    await client.write("d/x", b"1")
    assert await client.read("d/x") == b"1"
    assert await client.names() == ["a", "d"]
    client.at_rest()


async def test_a_new_directory_is_empty_for_the_time_to_live(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, metadata_ttl=10)
    await client.mkdir("d")
    store.calls.clear()
    assert await client.names("d") == []
    assert not await client.exists("d/theirs")
    assert store.calls == []
    store.change("d/theirs", b"1")
    clock.jump(10.1)
    assert await client.exists("d/theirs")


async def test_names_that_are_asked_for_one_after_the_other_are_listed(
    tmp_path: Path, clock: MockClock
) -> None:
    store = FakeStore({f"d/{number}": b"1" for number in range(50)})
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("d"):
        store.calls.clear()
        for number in range(100):
            assert await client.exists(f"d/{number}") == (number < 50)
        assert (store.count("lookup"), store.count("list")) == (2, 1)


@pytest.mark.parametrize("ttl", [0, 1])
async def test_few_names_now_and_then_are_not(tmp_path: Path, clock: MockClock, ttl: float) -> None:
    store = FakeStore({"d/a": b"1"})
    client = Client(store, tmp_path, metadata_ttl=ttl)
    async with client.at("d"):
        for number in range(20):
            assert not await client.exists(f"d/{number}")
            clock.jump(0.6)
        assert store.count("list") == 0


async def test_a_large_directory_is_not_listed_for_a_few_names(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore({f"d/{number}": b"1" for number in range(500)}, page=1)
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("d"):
        store.calls.clear()
        for number in range(8):
            assert not await client.exists(f"d/none{number}")
        assert store.count("lookup", None) == 8
        assert store.count("list") + store.count("next_page") <= 2 * store.count("lookup")


async def test_who_may_not_list_asks_for_names(tmp_path: Path) -> None:
    store = FakeStore({"d/a": b"1"}, S3_LIKE)
    store.fail("list", error=lambda: Denied("no"))
    client = Client(store, tmp_path, metadata_ttl=1000)
    for number in range(20):
        assert not await client.exists(f"none{number}")
    assert await client.exists("d/a")
    assert store.count("list") == 1


@pytest.mark.parametrize("size", [1, 40])
async def test_a_listing_that_does_not_come_is_waited_for_once(
    tmp_path: Path, clock: MockClock, size: int
) -> None:
    store = FakeStore({"d/a": b"1"})
    client = Client(store, tmp_path, metadata_ttl=10, read_timeout=30)
    errors: list[int] = []

    async def look(number: int) -> None:
        errors.append(await failure(client.vfs.lookup(directory.number, f"none{number}")))

    async with client.at("d") as directory:
        for number in range(2):
            assert not await client.exists(f"d/{number}")
        store.fail("list", hang=True)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(size):
                nursery.start_soon(look, number)
        assert errors == [errno.EIO] * size
        assert trio.current_time() - start == pytest.approx(30, abs=1)


async def test_somebody_elses_file_is_never_replaced_because_of_a_listing(
    tmp_path: Path, clock: MockClock
) -> None:
    store = FakeStore({"d/a": b"1"})
    client = Client(store, tmp_path, metadata_ttl=10)
    async with client.at("d"):
        await client.names("d")
        store.change("d/theirs", b"theirs")
        assert (
            await failure(client.write("d/theirs", b"ours", flags=os.O_WRONLY | os.O_CREAT)) == errno.ESTALE
        )
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        store.change("d/exclusive", b"theirs")
        assert await failure(client.write("d/exclusive", b"ours", flags=flags)) == errno.EEXIST
    assert store.data["d/theirs"] == store.data["d/exclusive"] == b"theirs"


async def test_what_is_stored_between_its_listing_and_its_being_shown_is_shown(tmp_path: Path) -> None:
    store = FakeStore({"a": b"1"})
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with client.open("new", os.O_WRONLY | os.O_CREAT, flush=False) as handle:
        directory = client.open_dir(1).number
        entries = [await client.vfs.directories.entry(directory, position) for position in (0, 1)]
        assert entries[1] is not None
        assert entries[1].name == "new"
        await client.vfs.files.close(handle)
    assert "new" not in client.c.table.root.children
    again = await client.vfs.directories.entry(directory, 1)
    assert again is not None
    assert client.vfs.directories.inode_of(directory, again) is not None
    await client.vfs.directories.release(directory)


async def test_who_joins_a_question_late_has_patience_left_when_it_fails(
    clock: MockClock, tmp_path: Path
) -> None:
    store = FakeStore({f"d/{i}": b"x" for i in range(10)})
    client = Client(store, tmp_path, metadata_ttl=10, read_timeout=5)
    async with client.at("d"):
        for i in range(2):  # the next would be answered by a listing
            assert await client.exists(f"d/{i}")
        store.fail("list", error=lambda: Unavailable("no answer"))
        ended: dict[int, tuple[float, int]] = {}

        async def look(i: int, delay: float) -> None:
            await trio.sleep(delay)
            number = await failure(client.exists(f"d/{i}"))
            ended[i] = (trio.current_time() - began, number)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, 8, 0)
            nursery.start_soon(look, 9, 3)
    assert ended == {8: (pytest.approx(5, abs=0.1), errno.EIO), 9: (pytest.approx(5, abs=0.1), 0)}
    client.at_rest()


async def test_a_directory_of_which_nothing_can_be_shown_is_not_empty_however_many_there_are(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zarrmount.shown._MOST_REPORTED", 2)
    store = FakeStore({f"{name}//x": b"" for name in "abcd"})
    client = Client(store, tmp_path, metadata_ttl=10)
    for name in "abcd":
        async with client.at(name):
            assert await client.names(name) == []
            assert await failure(client.rmdir(name)) == errno.ENOTEMPTY
