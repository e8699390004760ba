"""A call that failed may have had its effect: what follows takes that into account."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.errors import Denied

Write = Callable[[Client, FakeStore, str, bytes], Awaitable[None]]
TIMES = {"read_timeout": 5.0, "write_timeout": 5.0, "metadata_ttl": 1.0}


@pytest.fixture
def store() -> FakeStore:
    return FakeStore({"d/anchor": b""}, S3_LIKE)


async def lose_the_answers_of_a_put(client: Client, store: FakeStore, path: str, data: bytes) -> None:
    fault = store.fail("put", after=True, hang=True)
    assert await failure(client.write(path, data)) == errno.EIO
    assert store.data[path] == data
    store.faults.remove(fault)


async def be_refused_what_an_earlier_attempt_did(
    client: Client, store: FakeStore, path: str, data: bytes
) -> None:
    """As a client library does that tries again by itself: its first attempt arrived."""
    fault = store.fail("put", after=True, error=lambda: Denied("expired"))
    assert await failure(client.write(path, data)) == errno.EACCES
    assert store.data[path] == data
    store.faults.remove(fault)


@pytest.fixture(params=[lose_the_answers_of_a_put, be_refused_what_an_earlier_attempt_did])
def fail_to_write(request: pytest.FixtureRequest) -> Write:
    return request.param  # type: ignore[no-any-return]


async def test_unlinking_what_may_be_stored_removes_it(
    store: FakeStore, tmp_path: Path, clock: MockClock, fail_to_write: Write
) -> None:
    client = Client(store, tmp_path, **TIMES)
    await fail_to_write(client, store, "d/new", b"first")
    await client.unlink("d/new")
    assert "d/new" not in store.data
    client.at_rest()


async def test_renaming_what_may_be_stored_leaves_no_second_copy(
    store: FakeStore, tmp_path: Path, clock: MockClock, fail_to_write: Write
) -> None:
    client = Client(store, tmp_path, **TIMES)
    await fail_to_write(client, store, "d/new", b"first")
    await client.rename("d/new", "d/other")
    assert store.data == {"d/anchor": b"", "d/other": b"first"}


async def test_what_an_earlier_close_left_is_no_conflict(
    store: FakeStore, tmp_path: Path, clock: MockClock, fail_to_write: Write
) -> None:
    client = Client(store, tmp_path, **TIMES)
    await fail_to_write(client, store, "d/new", b"first")
    await client.write("d/new", b"second")
    assert store.data["d/new"] == b"second"
    assert client.vfs.dirty() == []


async def test_what_a_replaced_file_left_is_no_conflict(
    store: FakeStore, tmp_path: Path, clock: MockClock
) -> None:
    client = Client(store, tmp_path, **TIMES)
    await lose_the_answers_of_a_put(client, store, "d/target", b"first")
    fault = store.fail("put", error=lambda: Denied("not now"))
    assert await failure(client.write("d/source", b"second")) == errno.EACCES
    store.faults.remove(fault)
    await client.rename("d/source", "d/target")
    assert store.data == {"d/anchor": b"", "d/target": b"second"}


async def test_somebody_elses_bytes_are_a_conflict_all_the_same(
    store: FakeStore, tmp_path: Path, clock: MockClock
) -> None:
    client = Client(store, tmp_path, **TIMES)
    await lose_the_answers_of_a_put(client, store, "d/new", b"first")
    store.change("d/new", b"foreign")
    assert await failure(client.write("d/new", b"second")) == errno.ESTALE
    assert store.data["d/new"] == b"foreign"
    assert await client.read("d/new") == b"second"


async def test_a_directory_outlives_an_unlink_whose_answer_was_lost(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore({}, S3_LIKE)
    client = Client(store, tmp_path, **TIMES)
    await client.mkdir("d")
    await client.write("d/only", b"1")
    store.fail("delete", after=True, times=1)
    assert await failure(client.unlink("d/only")) == errno.EIO
    await trio.sleep(10)
    assert await client.names("d") == []
    await client.write("d/only", b"2")  # and the file is not taken for what it was
    assert store.data == {"d/only": b"2"}


async def test_what_is_kept_stays_readable_while_its_directory_cannot_be_looked_up(
    store: FakeStore, tmp_path: Path, clock: MockClock
) -> None:
    client = Client(store, tmp_path, **TIMES)
    fault = store.fail("put", error=lambda: Denied("expired"))
    assert await failure(client.write("d/new", b"kept")) == errno.EACCES
    store.faults.remove(fault)
    for error in (None, lambda: Denied("expired")):
        fault = store.fail("lookup") if error is None else store.fail("lookup", error=error)
        await trio.sleep(10)
        assert await client.read("d/new") == b"kept"
        assert await failure(client.read("d/anchor")) in (errno.EIO, errno.EACCES)
        store.faults.remove(fault)


async def test_reads_wait_for_a_store_that_comes_back(
    store: FakeStore, tmp_path: Path, clock: MockClock
) -> None:
    store.change("d/file", b"bytes")
    client = Client(store, tmp_path, **TIMES)
    store.fail(times=5)
    assert await client.read("d/file") == b"bytes"
    store.fail(times=3)
    await trio.sleep(10)
    assert await client.names("d") == ["anchor", "file"]


async def test_a_deletion_of_our_own_is_no_conflict(
    store: FakeStore, tmp_path: Path, clock: MockClock
) -> None:
    store.change("d/file", b"old")
    client = Client(store, tmp_path, **TIMES)
    fault = store.fail("put", error=lambda: Denied("not now"))
    assert await failure(client.write("d/file", b"new")) == errno.EACCES
    store.faults.remove(fault)
    fault = store.fail("delete", after=True)
    assert await failure(client.unlink("d/file")) == errno.EIO
    assert "d/file" not in store.data
    store.faults.remove(fault)
    await client.write("d/file", b"newer")
    assert store.data["d/file"] == b"newer"
