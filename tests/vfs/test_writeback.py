"""Write-back: what a close leaves in the journal, and what becomes of it, also after a crash."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.errors import Denied, Unavailable
from stores.meta import Capabilities
from zarrmount.objects.journal import Journal

PROFILES = pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE, MINIMAL], ids=["s3", "local", "minimal"])
NEW = os.O_CREAT | os.O_RDWR


class Machine:
    """Where mounts with write-back live and die."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lives = 0
        self._open: list[tuple[Client, Journal]] = []

    def mount(self, store: FakeStore, **settings: object) -> Client:
        """Mount a store, after a crash or for the first time."""
        self._lives += 1
        place = self.directory / f"journal-{self._lives}"
        before = self.directory / f"journal-{self._lives - 1}"
        if before.exists():  # what is on the disk at this moment is all that the crash leaves
            shutil.copytree(before, place)
        journal = Journal.open(place, store.location)
        client = Client(store, self.directory / "spool", journal=journal, **{"writeback": 5.0, **settings})  # type: ignore[arg-type]
        self._open.append((client, journal))
        client.vfs.resume()
        return client

    def waiting(self) -> dict[str, int]:
        entries = Journal.peek(self.directory / f"journal-{self._lives}")
        return {entry.key: entry.size for entry in entries}

    def close(self) -> None:
        for client, journal in self._open:
            client.vfs.close()
            journal.close()


@pytest.fixture
def machine(tmp_path: Path, threads_in_no_time: None) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


@PROFILES
async def test_close_returns_before_the_store_has_it(
    machine: Machine, profile: Capabilities, clock: MockClock
) -> None:
    store = FakeStore({}, profile)
    client = machine.mount(store)
    async with client.running():
        await client.write("a", b"bytes")
        assert store.data == {}
        assert machine.waiting() == {"a": 5}
        assert await client.read("a") == b"bytes"
        assert await client.names() == ["a"]
        await trio.sleep(6)
        assert store.data == {"a": b"bytes"}
        assert machine.waiting() == {}
    client.at_rest()


@PROFILES
async def test_a_later_close_supersedes(machine: Machine, profile: Capabilities, clock: MockClock) -> None:
    store = FakeStore({"a": b"zero"}, profile)
    client = machine.mount(store)
    async with client.running():
        await client.write("a", b"one")
        await trio.sleep(4)
        await client.write("a", b"three")
        assert machine.waiting() == {"a": 5}
        await trio.sleep(4)
        assert store.count("put") == 0
        await trio.sleep(2)
    assert store.data == {"a": b"three"}
    assert store.count("put") == 1
    client.at_rest()


@PROFILES
async def test_a_crash_loses_nothing(machine: Machine, profile: Capabilities, clock: MockClock) -> None:
    store = FakeStore({"old": b"old", "same": b"same"}, profile)
    client = machine.mount(store)
    async with client.running():
        await client.mkdir("d")
        await client.write("d/new", b"new")
        await client.write("old", b"replaced")
        async with client.open("same", os.O_RDWR) as handle:
            await client.vfs.files.write(handle, 4, b", closed")
            await client.vfs.files.close(handle)
            await client.vfs.files.write(handle, 12, b", not closed")
            later = machine.mount(store)
    assert store.data == {"old": b"old", "same": b"same"}
    assert await later.names("d") == ["new"]
    assert await later.read("old") == b"replaced"
    assert await later.size("d/new") == 3
    async with later.running():
        await trio.sleep(1)
    assert store.data == {"old": b"replaced", "same": b"same, closed", "d/new": b"new"}
    assert machine.waiting() == {}
    later.at_rest()


async def test_a_crash_between_put_and_acknowledgement(machine: Machine, clock: MockClock) -> None:
    store = FakeStore({"a": b"old"})
    client = machine.mount(store, write_timeout=1)
    store.fail("put", after=True, error=lambda: Unavailable("the answer got lost"))
    async with client.running():
        await client.write("a", b"new")
        await client.write("b", b"new too")
        await trio.sleep(7)
        assert store.data == {"a": b"new", "b": b"new too"}
        later = machine.mount(store)
    store.faults.clear()
    async with later.running():
        await trio.sleep(1)
    assert store.data == {"a": b"new", "b": b"new too"}
    assert machine.waiting() == {}
    assert later.vfs.dirty() == []
    later.at_rest()


async def test_what_somebody_else_stored_meanwhile_is_not_overwritten(
    machine: Machine, clock: MockClock
) -> None:
    store = FakeStore({"a": b"old"})
    client = machine.mount(store)
    async with client.running():
        await client.write("a", b"mine")
        later = machine.mount(store)
    store.change("a", b"theirs")
    async with later.running():
        await trio.sleep(100)
        assert store.data == {"a": b"theirs"}
        assert await later.read("a") == b"mine"
        assert machine.waiting() == {"a": 4}
        async with later.open("a", os.O_RDWR, flush=False) as handle:
            await later.vfs.files.write(handle, 0, b"M")
            assert await failure(later.vfs.files.close(handle)) == errno.ESTALE
        assert list(await later.vfs.store_everything()) == ["a"]
        await later.write("a", b"on purpose")  # as after any conflict
        await trio.sleep(10)
    assert store.data == {"a": b"on purpose"}
    assert machine.waiting() == {}


@PROFILES
async def test_what_was_deleted_does_not_come_back(
    machine: Machine, profile: Capabilities, clock: MockClock
) -> None:
    store = FakeStore({"old": b"old"}, profile)
    client = machine.mount(store)
    async with client.running():
        await client.write("new", b"new")
        await client.write("old", b"replaced")
        await client.unlink("new")
        await client.unlink("old")
        later = machine.mount(store)
    async with later.running():
        await trio.sleep(10)
    assert store.data == {}
    assert await later.names() == []
    later.at_rest()


@PROFILES
@pytest.mark.parametrize("crash", [False, True], ids=["", "crash"])
async def test_a_rename_is_one_step_in_the_journal(
    machine: Machine, profile: Capabilities, crash: bool, clock: MockClock
) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = machine.mount(store)
    async with client.running():
        await client.write("a", b"pending")
        await client.write("a.tmp", b"new")
        before = len(store.calls)
        await client.rename("a.tmp", "a")
        assert not [call for call in store.calls[before:] if call[0] not in ("lookup", "head", "list_dir")]
        assert machine.waiting() == {"a": 3}
        assert await client.read("a") == b"new"
        assert await client.names() == ["a"]
        if crash:
            client = machine.mount(store)
            assert await client.read("a") == b"new"
    async with client.running():
        await trio.sleep(10)
    assert store.data == {"a": b"new"}
    assert machine.waiting() == {}
    client.at_rest()


@PROFILES
async def test_renames_one_after_the_other_leave_one_file(
    machine: Machine, profile: Capabilities, clock: MockClock
) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = machine.mount(store)
    async with client.running():
        await client.write("a.tmp", b"new")
        await client.rename("a.tmp", "a")
        await client.rename("a", "b")  # what `a` was before must not show again
        assert await client.names() == ["b"]
        await trio.sleep(10)
        assert await client.names() == ["b"]
    assert store.data == {"b": b"new"}
    assert machine.waiting() == {}
    client.at_rest()


@PROFILES
async def test_a_stored_file_renamed_onto_one_that_waits(
    machine: Machine, profile: Capabilities, clock: MockClock
) -> None:
    store = FakeStore({"a": b"old", "b": b"stored"}, profile)
    client = machine.mount(store)
    async with client.running():
        await client.write("a", b"pending")
        await client.rename("b", "a")
        assert machine.waiting() == {}
        later = machine.mount(store)
    async with later.running():
        await trio.sleep(10)
    assert store.data == {"a": b"stored"}
    later.at_rest()


@PROFILES
async def test_a_directory_above_what_waits_is_renamed(
    machine: Machine, profile: Capabilities, clock: MockClock
) -> None:
    store = FakeStore({}, profile)
    client = machine.mount(store)
    async with client.running():
        await client.mkdir("d")
        await client.mkdir("d/e")
        await client.write("d/e/a", b"bytes")
        await client.rename("d", "f")
        later = machine.mount(store)
    async with later.running():
        await trio.sleep(10)
    assert store.data == {"f/e/a": b"bytes"}
    assert await later.names() == ["f"]


async def test_a_file_made_with_o_excl_is_stored_at_once(machine: Machine) -> None:
    store = FakeStore()
    client = machine.mount(store)
    async with client.running():
        assert not await client.exists("lock")
        async with client.open("lock", NEW | os.O_EXCL, flush=False) as handle:
            await client.vfs.files.write(handle, 0, b"me")
            store.change("lock", b"them")
            assert await failure(client.vfs.files.close(handle)) == errno.EEXIST
    assert store.data == {"lock": b"them"}


async def test_fsync_reaches_the_store(machine: Machine) -> None:
    store = FakeStore()
    client = machine.mount(store)
    async with client.running():
        async with client.open("a", NEW) as handle:
            await client.vfs.files.write(handle, 0, b"bytes")
            await client.vfs.files.fsync(handle.inode)
            assert store.data == {"a": b"bytes"}
    assert machine.waiting() == {}
    client.at_rest()


async def test_a_refusal_is_told_by_the_next_close_and_nothing_is_lost(
    machine: Machine, clock: MockClock
) -> None:
    store = FakeStore()
    client = machine.mount(store)
    fault = store.fail("put", error=lambda: Denied("no right"))
    async with client.running():
        await client.write("a", b"one")
        await trio.sleep(10)
        assert await failure(client.write("a", b"two!")) == errno.EACCES
        assert await client.read("a") == b"two!"
        assert await client.vfs.store_everything() != {}
        assert client.vfs.kept() == []  # the journal has what was closed well, and that is another content
        later = machine.mount(store)
    store.faults.remove(fault)
    async with later.running():
        await trio.sleep(10)
    assert store.data == {"a": b"one"}


async def test_what_is_in_the_journal_is_not_saved_elsewhere(machine: Machine, tmp_path: Path) -> None:
    store = FakeStore()
    client = machine.mount(store)
    store.fail("put", error=lambda: Denied("no right"))
    async with client.running():
        await client.write("a", b"one")
        assert list(await client.vfs.store_everything()) == ["a"]
        assert client.vfs.kept() == ["a"]
        assert await client.vfs.rescue(tmp_path / "unsaved") == {}


async def test_attributes_that_came_after_the_close_survive(machine: Machine, clock: MockClock) -> None:
    from stores.meta import AttributeChange

    store = FakeStore()
    client = machine.mount(store)
    async with client.running():
        await client.write("a", b"bytes")
        async with client.at("a") as inode:
            await client.vfs.setattr(inode.number, AttributeChange(mode=0o600, mtime_ns=10**18))
        later = machine.mount(store)
    async with later.at("a") as inode:
        shown = later.vfs.attributes(inode)
        assert (shown.mode & 0o777, shown.mtime_ns) == (0o600, 10**18)


async def test_large_files_are_kept_without_a_copy(machine: Machine, clock: MockClock) -> None:
    store = FakeStore()
    client = machine.mount(store)
    client.c.staging.memory_limit = 1 << 20
    data = os.urandom(3 << 20)
    async with client.running():
        await client.write("large", data)
        assert client.c.staging.in_memory == 0
        (kept,) = machine.directory.glob("journal-1/data-*")
        assert kept.stat().st_nlink == 1
        assert kept.read_bytes() == data
        async with client.open("large", os.O_RDWR) as handle:  # the journal keeps what was closed
            await client.vfs.files.write(handle, 0, b"changed")
            assert kept.read_bytes() == data
            later = machine.mount(store)
            assert await later.read("large") == data
        await trio.sleep(6)
    assert store.data["large"] == b"changed" + data[7:]
    client.at_rest()


async def test_a_full_disk_below_the_journal_means_storing_at_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore()
    client = machine.mount(store)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Journal, "record", full)
    async with client.running():
        await client.write("a", b"bytes")
    assert store.data == {"a": b"bytes"}
    client.at_rest()


async def test_what_neither_the_journal_nor_the_store_took_is_saved(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore()
    client = machine.mount(store)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Journal, "record", full)
    store.fail("put", error=lambda: Denied("no right"))
    async with client.running():
        assert await failure(client.write("a", b"bytes")) == errno.EACCES
        assert await client.vfs.store_everything() != {}
    assert client.vfs.kept() == []  # the journal has no entry of it
    saved = await client.vfs.rescue(tmp_path / "unsaved")
    assert saved["a"].read_bytes() == b"bytes"


async def test_attributes_of_a_file_that_was_stored_while_it_was_open(
    machine: Machine, clock: MockClock
) -> None:
    from stores.meta import AttributeChange

    store = FakeStore()
    client = machine.mount(store)
    async with client.running(), client.open("a", NEW) as handle:
        await client.vfs.files.write(handle, 0, b"bytes")
        await client.vfs.files.close(handle)  # of a duplicate
        await trio.sleep(6)
        assert store.data == {"a": b"bytes"}
        await client.vfs.setattr(handle.inode.number, AttributeChange(mode=0o600))
        assert machine.waiting() == {}
    client.at_rest()


async def test_a_resumed_file_that_is_deleted_while_it_is_open(machine: Machine) -> None:
    store = FakeStore()
    client = machine.mount(store)
    async with client.running():
        await client.write("a", b"bytes")
    later = machine.mount(store)
    async with later.open("a") as handle:
        await later.unlink("a")
        assert await later.vfs.files.read(handle, 0, 10) == b"bytes"
    assert machine.waiting() == {}
    later.at_rest()


async def unlink(client: Client) -> None:
    await client.unlink("a")


async def rename(client: Client) -> None:
    await client.rename("a", "b")


@PROFILES
@pytest.mark.parametrize("call", [unlink, rename])
async def test_a_crash_between_a_deletion_and_its_note(
    machine: Machine,
    profile: Capabilities,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Client], Awaitable[None]],
) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = machine.mount(store)
    crashed: list[Client] = []
    drop = Journal.drop

    def crash(journal: Journal, key: str) -> None:
        if key == "a" and "a" not in store.data and not crashed:
            crashed.append(machine.mount(store))
        drop(journal, key)

    monkeypatch.setattr(Journal, "drop", crash)
    async with client.running():
        await client.write("a", b"new")
        await call(client)
    (later,) = crashed
    async with later.running():
        await trio.sleep(1)
    assert later.vfs.dirty() == []
    assert store.data["a"] == b"new"
    assert machine.waiting() == {}
    later.at_rest()


@PROFILES
async def test_a_crash_between_a_rename_over_a_file_that_waits_and_its_note(
    machine: Machine, profile: Capabilities, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore({"a": b"old a", "b": b"old b"}, profile)
    client = machine.mount(store)
    crashed: list[Client] = []
    drop = Journal.drop

    def crash(journal: Journal, key: str) -> None:
        if key == "b" and store.data["b"] == b"new a" and not crashed:
            crashed.append(machine.mount(store))
        drop(journal, key)

    monkeypatch.setattr(Journal, "drop", crash)
    async with client.running():
        await client.write("a", b"new a")
        await client.write("b", b"new b")
        await rename(client)
    for later in crashed:
        async with later.running():
            await trio.sleep(1)
        assert later.vfs.dirty() == []
        later.at_rest()
    assert store.data["b"] == b"new a"
    assert machine.waiting() == {}


@PROFILES
async def test_a_crash_while_later_bytes_are_stored_at_once(
    machine: Machine, profile: Capabilities, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = machine.mount(store)
    crashed: list[Client] = []
    drop = Journal.drop

    def crash(journal: Journal, key: str) -> None:
        if not crashed:
            crashed.append(machine.mount(store))
        drop(journal, key)

    monkeypatch.setattr(Journal, "drop", crash)
    async with client.running():
        await client.write("a", b"closed")
        async with client.open("a", os.O_RDWR | os.O_TRUNC) as handle:
            await client.vfs.files.write(handle, 0, b"synced")
            await client.vfs.files.fsync(handle.inode)
    (later,) = crashed
    async with later.running():
        await trio.sleep(1)
    assert store.data == {"a": b"closed"}  # what was acknowledged last
    assert later.vfs.dirty() == []
    assert machine.waiting() == {}
    later.at_rest()


async def test_older_bytes_that_the_journal_cannot_let_go_of_are_an_error(
    machine: Machine, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore({"a": b"old"})
    client = machine.mount(store)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with client.running():
        await client.write("a", b"closed")
        async with client.open("a", os.O_RDWR | os.O_TRUNC) as handle:
            await client.vfs.files.write(handle, 0, b"synced")
            with monkeypatch.context() as patch:
                patch.setattr(Journal, "drop", full)
                assert await failure(client.vfs.files.fsync(handle.inode)) == errno.ENOSPC
                assert await failure(client.vfs.files.close(handle)) == errno.ENOSPC
        assert machine.waiting() == {}
    assert store.data == {"a": b"synced"}
    client.at_rest()
