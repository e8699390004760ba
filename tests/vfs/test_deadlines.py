"""A store that hangs makes every call fail in time, once."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import LOCAL_LIKE, S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.meta import Capabilities

READS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "lookup": lambda c: c.exists("a"),
    "getattr": lambda c: c.size("a"),
    "read": lambda c: c.read("a"),
    "readdir": lambda c: c.names(),
    "readdir below": lambda c: c.names("d"),
}
WRITES: dict[str, Callable[[Client], Awaitable[object]]] = {
    "unlink": lambda c: c.unlink("a"),
    "rename": lambda c: c.rename("a", "n"),
    "rename dir": lambda c: c.rename("d", "n"),
    "rmdir": lambda c: c.rmdir("d"),
    "link": lambda c: c.link("a", "n"),
    "truncate": lambda c: c.truncate("a", 1),
    "write": lambda c: c.write("a", b"new"),
    "create": lambda c: c.write("n", b"new"),
}


@pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE], ids=["s3", "local"])
@pytest.mark.parametrize("name", [*READS, *WRITES])
async def test_every_call_ends(clock: MockClock, tmp_path: Path, name: str, profile: Capabilities) -> None:
    store = FakeStore({"a": b"123", "d/b": b"1"}, profile)
    client = Client(store, tmp_path, metadata_ttl=0, read_timeout=10, write_timeout=20)
    store.fail(hang=True)
    start = trio.current_time()
    assert await failure((READS | WRITES)[name](client)) == errno.EIO
    assert trio.current_time() - start <= 10.5
    store.faults.clear()
    assert await client.read("a") == b"123"


@pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE], ids=["s3", "local"])
@pytest.mark.parametrize("name", WRITES)
async def test_every_change_ends(clock: MockClock, tmp_path: Path, name: str, profile: Capabilities) -> None:
    store = FakeStore({"a": b"123", "d/b": b"1"}, profile)
    client = Client(store, tmp_path, metadata_ttl=0, read_timeout=10, write_timeout=20)
    for method in ("put", "copy", "delete", "rename", "rename_dir", "remove_dir", "make_dir"):
        store.fail(method, hang=True)
    start = trio.current_time()
    expected = errno.ENOTEMPTY if (name, profile) == ("rmdir", S3_LIKE) else errno.EIO
    assert await failure(WRITES[name](client)) == expected
    assert trio.current_time() - start <= 20.5
    client.vfs.check_invariants()
    store.faults.clear()
    if client.vfs.dirty():
        assert await client.vfs.store_everything() == {}
    assert store.data["d/b"] == b"1"
    client.at_rest()


@pytest.mark.parametrize("name", READS)
async def test_many_who_wait_together_wait_once(clock: MockClock, tmp_path: Path, name: str) -> None:
    store = FakeStore({"a": b"123", "d/b": b"1"})
    client = Client(store, tmp_path, metadata_ttl=5, read_timeout=10)
    if name == "read":
        assert await client.size("a") == 3
        store.fail("get_range", hang=True)
    else:
        store.fail(hang=True)
    answers: list[int] = []

    async def call() -> None:
        answers.append(await failure(READS[name](client)))

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(call)
    assert answers == [errno.EIO] * 10
    assert trio.current_time() - start <= 10.5
    client.at_rest()


async def test_a_close_that_hangs_keeps_the_bytes(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, write_timeout=20)
    store.fail("put", hang=True)
    async with client.open("a", os.O_CREAT | os.O_WRONLY, flush=False) as handle:
        await client.vfs.files.write(handle, 0, b"kept")
        for _ in range(3):
            start = trio.current_time()
            assert await failure(client.vfs.files.close(handle)) == errno.EIO
            assert trio.current_time() - start == pytest.approx(20, abs=0.5)
    assert client.vfs.dirty() == [("a", 4)]
    store.faults.clear()
    assert await client.vfs.store_everything() == {}
    assert store.data == {"a": b"kept"}
    client.at_rest()


async def test_a_long_listing_may_take_longer_than_one_answer(clock: MockClock, tmp_path: Path) -> None:
    """The deadline is that of a request, not that of a directory of a million files."""
    store = FakeStore({f"d/{i}": b"1" for i in range(30)}, page=1)
    client = Client(store, tmp_path, read_timeout=10, write_timeout=10)
    store.latency = 0.9
    assert len(await client.names("d")) == 30
    await client.rename("d", "e")
    assert len(store.data) == 30
    assert all(key.startswith("e/") for key in store.data)
