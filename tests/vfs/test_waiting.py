"""Closed files that wait: temporary names for their rename, and what gives them up."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.errors import Denied
from stores.meta import Capabilities

PROFILES = pytest.mark.parametrize("profile", [S3_LIKE, MINIMAL], ids=["s3", "minimal"])
CHANGES = ("put", "copy", "delete", "rename")


def changes(store: FakeStore) -> list[tuple[str, str]]:
    return [call for call in store.calls if call[0] in CHANGES]


def partial(key: str) -> str:
    return f"{key}.{uuid.uuid4().hex}.partial"


@PROFILES
async def test_a_rename_after_the_close_costs_one_put(
    tmp_path: Path, profile: Capabilities, clock: MockClock
) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = Client(store, tmp_path)
    new = partial("a")
    async with client.running():
        await client.write(new, b"new")
        assert store.data == {"a": b"old"}
        assert await client.read(new) == b"new"
        await client.rename(new, "a")
        assert store.data == {"a": b"new"}  # at once
        assert await client.read("a") == b"new"
        await trio.sleep(60)
    assert changes(store) == [("put", "a")]
    client.at_rest()


async def test_zarr_python_makes_a_new_file_with_one_put(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore()
    client = Client(store, tmp_path)
    new = partial("c/0")
    async with client.running():
        await client.mkdir("c")
        await client.write(new, b"bytes")
        await client.link(new, "c/0")
        assert store.data == {"c/0": b"bytes"}
        await client.unlink(new)
        await trio.sleep(60)
    assert changes(store) == [("put", "c/0")]
    client.at_rest()


async def test_a_link_onto_a_name_that_is_taken(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, metadata_ttl=1000)
    new = partial("a")
    async with client.running():
        await client.write(new, b"mine")
        assert not await client.exists("a")
        store.change("a", b"somebody else's")
        assert await failure(client.link(new, "a")) == errno.EEXIST
        await client.unlink(new)
    assert store.data == {"a": b"somebody else's"}
    client.at_rest()


async def test_one_that_is_never_renamed_is_stored_a_little_later(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, rename_wait=5.0)
    async with client.running():
        await client.write("x.tmp", b"bytes")
        await trio.sleep(4.9)
        assert store.data == {}
        await trio.sleep(0.2)
        assert store.data == {"x.tmp": b"bytes"}
    client.at_rest()


@pytest.mark.parametrize(
    ("name", "profile", "settings"),
    [
        ("zarr.json", S3_LIKE, {}),
        ("a.tmp", S3_LIKE, {"rename_wait": 0.0}),
        ("a.tmp", LOCAL_LIKE, {}),
    ],
    ids=["every other name", "turned off", "a store that renames"],
)
async def test_all_others_are_stored_when_close_returns(
    tmp_path: Path, name: str, profile: Capabilities, settings: dict[str, float]
) -> None:
    store = FakeStore({}, profile)
    client = Client(store, tmp_path, **settings)
    async with client.running():
        await client.write(name, b"bytes")
        assert store.data == {name: b"bytes"}
    client.at_rest()


async def test_an_existing_file_with_a_temporary_name_is_stored_at_once(tmp_path: Path) -> None:
    store = FakeStore({"a.tmp": b"old"})
    client = Client(store, tmp_path)
    async with client.running():
        await client.write("a.tmp", b"new")
        assert store.data == {"a.tmp": b"new"}
    client.at_rest()


async def test_fsync_stores_at_once(tmp_path: Path) -> None:
    store = FakeStore()
    client = Client(store, tmp_path)
    async with client.running():
        async with client.open("a.tmp", os.O_CREAT | os.O_RDWR) as handle:
            await client.vfs.files.write(handle, 0, b"bytes")
            await client.vfs.files.fsync(handle.inode)
            assert store.data == {"a.tmp": b"bytes"}
    client.at_rest()


async def test_one_that_is_written_to_again_waits_for_its_next_close(
    tmp_path: Path, clock: MockClock
) -> None:
    store = FakeStore()
    client = Client(store, tmp_path)
    async with client.running():
        await client.write("a.tmp", b"one")
        async with client.open("a.tmp", os.O_RDWR) as handle:
            await client.vfs.files.write(handle, 3, b", two")
            await trio.sleep(60)
            assert store.data == {}  # never half of what is being written
            await client.vfs.files.write(handle, 8, b", three")
        await trio.sleep(60)
    assert store.data == {"a.tmp": b"one, two, three"}
    assert store.count("put") == 1
    client.at_rest()


async def test_a_failure_in_the_background_is_told_by_the_next_close(
    tmp_path: Path, clock: MockClock
) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, write_timeout=10)
    fault = store.fail("put", error=lambda: Denied("no right"))
    async with client.running():
        await client.write("a.tmp", b"one")
        await trio.sleep(7)
        assert await client.read("a.tmp") == b"one"
        assert await failure(client.write("a.tmp", b"two")) == errno.EACCES
        store.faults.remove(fault)
        await client.write("a.tmp", b"three")
        assert store.data == {"a.tmp": b"three"}
    client.at_rest()


async def test_a_failure_in_the_background_is_tried_again(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, write_timeout=10)
    fault = store.fail("put", error=lambda: Denied("no right"))
    async with client.running():
        await client.write("a.tmp", b"bytes")
        await trio.sleep(30)
        assert 3 <= store.count("put") <= 4
        store.faults.remove(fault)
        await trio.sleep(61)
        assert store.data == {"a.tmp": b"bytes"}
    client.at_rest()


async def test_what_waits_is_stored_at_the_end(tmp_path: Path) -> None:
    store = FakeStore()
    client = Client(store, tmp_path)
    async with client.running():
        await client.write("a.tmp", b"bytes")
    assert client.vfs.dirty() == [("a.tmp", 5)]
    assert await client.vfs.store_everything() == {}
    assert store.data == {"a.tmp": b"bytes"}
    client.at_rest()


async def test_a_directory_above_one_that_waits_can_be_renamed(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore({"d/other": b"other"})
    client = Client(store, tmp_path)
    async with client.running():
        await client.write("d/a.tmp", b"bytes")
        await client.rename("d", "e")
        assert await client.read("e/a.tmp") == b"bytes"
        await trio.sleep(60)
    assert store.data == {"e/a.tmp": b"bytes", "e/other": b"other"}
    client.at_rest()


async def test_a_file_that_is_stored_while_its_directory_is_listed(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore({"b": b"", "c": b"", "d": b""}, page=1)
    client = Client(store, tmp_path, rename_wait=1.5)
    async with client.running():
        await client.write("a.tmp", b"bytes")
        store.latency = 1.0
        names = await client.names()  # it is not in the first page yet, and stored before the last one
        assert store.data["a.tmp"] == b"bytes"
        assert names == ["a.tmp", "b", "c", "d"]
    client.at_rest()
