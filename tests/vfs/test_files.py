"""Reading, writing, closing: what is pinned, what is kept, what is reported."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from client import OWNER, Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.errors import Denied, Precondition, Unavailable
from stores.meta import AttributeChange, Capabilities

PROFILES = pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE, MINIMAL], ids=["s3", "local", "minimal"])
RW = os.O_RDWR
NEW = os.O_CREAT | os.O_RDWR


@PROFILES
async def test_what_is_written_is_what_is_read(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore(capabilities=profile)
    client = Client(store, tmp_path, metadata_ttl=5)
    await client.write("d/e" if profile.directories and not await client.mkdir("d") else "e", b"hello")
    path = next(iter(store.data))
    assert await client.read(path) == b"hello"
    await client.write(path, b"XX", 3, os.O_RDWR)
    assert store.data[path] == b"helXX"
    await client.truncate(path, 7)
    assert store.data[path] == b"helXX\0\0"
    await client.truncate(path, 1)
    assert await client.read(path) == store.data[path] == b"h"
    async with client.open(path, os.O_WRONLY | os.O_APPEND) as handle:
        await client.vfs.files.write(handle, 0, b"ey")
    assert store.data[path] == b"hey"
    client.at_rest()


async def test_twenty_opens_of_one_cold_object_cost_one_get(tmp_path: Path) -> None:
    store = FakeStore({"a": b"x" * 3_000_000})
    store.latency = 0.01
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with client.at("a"), trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client.read, "a")
    assert store.count("get_range") + store.count("get") == 1
    client.at_rest()


async def test_an_open_file_is_of_one_version(tmp_path: Path) -> None:
    """What another client puts meanwhile gives ESTALE, never some of both."""
    store = FakeStore({"a": b"1" * (20 << 20)})
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("a") as handle:
        assert await client.vfs.files.read(handle, 0, 4) == b"1111"
        store.change("a", b"2" * (20 << 20))
        with pytest.raises(Precondition):
            await client.vfs.files.read(handle, 18 << 20, 4)
        assert await client.vfs.files.read(handle, 4, 4) == b"1111"  # of the cache: of its version
    assert await client.read("a", 0, 4) == b"2222"


async def test_a_snapshot_goes_on_being_read(tmp_path: Path) -> None:
    store = FakeStore({"a": b"1" * (20 << 20)}, LOCAL_LIKE)
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("a") as handle:
        await client.vfs.files.read(handle, 0, 4)
        store.change("a", b"2" * 100)
        assert await client.vfs.files.read(handle, 18 << 20, 4) == b"1111"
        assert await client.read("a", 0, 4) == b"2222"
    assert store.open_readers == 0


@PROFILES
async def test_the_written_comes_before_the_stored(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore({"a": b"stored"}, profile)
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("a", RW) as handle:
        await client.vfs.files.write(handle, 0, b"W")
        assert await client.read("a") == b"Wtored"
        await client.truncate("a", 2)
        assert await client.size("a") == 2
        assert "a" in await client.names()
        assert store.data["a"] == b"stored"
        async with client.open("new", NEW):
            assert await client.names() == ["a", "new"]
            assert store.data == {"a": b"stored"}
    assert store.data == {"a": b"Wt", "new": b""}


@PROFILES
@pytest.mark.parametrize("read_first", [False, True])
async def test_a_file_that_is_unlinked_while_open(
    tmp_path: Path, profile: Capabilities, read_first: bool
) -> None:
    store = FakeStore({"a": b"bytes"}, profile)
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("a") as handle, client.open("a", RW) as writer:
        if read_first:
            await client.vfs.files.read(handle, 0, 2)
        await client.unlink("a")
        assert store.data == {}
        assert client.vfs.attributes(handle.inode).nlink == 0
        assert await client.vfs.files.read(handle, 0, 100) == b"bytes"
        await client.vfs.files.write(writer, 5, b"!")
        assert await client.vfs.files.read(handle, 0, 100) == b"bytes!"
        await client.write("a", b"other")
        assert await client.vfs.files.read(handle, 0, 100) == b"bytes!"
    assert store.data == {"a": b"other"}
    assert store.open_readers == 0
    client.at_rest()


async def test_a_failed_put_leaves_everything_and_close_says_so_each_time(tmp_path: Path) -> None:
    store = FakeStore({"a": b"old"})
    client = Client(store, tmp_path)
    fault = store.fail("put", error=lambda: Denied("no"))
    async with client.open("a", RW, flush=False) as handle:
        await client.vfs.files.write(handle, 0, b"new")
        for _ in range(3):
            assert await failure(client.vfs.files.close(handle)) == errno.EACCES
        assert await failure(client.vfs.files.fsync(handle.inode)) == errno.EACCES
    assert store.count("put") == 4, "release asks nothing and tells nothing"
    assert store.data == {"a": b"old"}
    assert await client.read("a") == b"new"
    assert client.vfs.dirty() == [("a", 3)]
    assert "a" in await client.vfs.store_everything()
    store.faults.remove(fault)
    async with client.open("a", RW):
        pass
    assert store.data == {"a": b"new"}
    client.at_rest()


async def test_saving_what_could_not_be_stored(tmp_path: Path) -> None:
    store = FakeStore()
    client = Client(store, tmp_path / "spool")
    store.fail("put", error=lambda: Denied("no"))
    for path in ("a", "b", "c"):
        assert await failure(client.write(path, path.encode())) == errno.EACCES
    target = tmp_path / "saved"
    target.mkdir()
    (target / "b").write_bytes(b"in the way")
    saved = await client.vfs.rescue(target)
    assert {key: path.read_bytes() for key, path in saved.items()} == {"a": b"a", "c": b"c"}
    assert len(client.vfs.dirty()) == 3


async def test_draining_stores_all_that_can_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file whose staged bytes cannot be read hinders no other."""
    store = FakeStore()
    client = Client(store, tmp_path / "spool")
    fault = store.fail("put", error=lambda: Denied("no"))
    for path in ("a", "b", "c"):
        assert await failure(client.write(path, path.encode())) == errno.EACCES
    store.faults.remove(fault)
    broken = client.c.table.root.children["b"].staged
    assert broken is not None

    async def body() -> bytes:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(broken, "body", body)
    assert list(await client.vfs.store_everything()) == ["b"]
    assert store.data == {"a": b"a", "c": b"c"}


async def test_a_conflict_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    store = FakeStore({"a": b"old"})
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("a", RW, flush=False) as handle:
        await client.vfs.files.write(handle, 0, b"mine")
        store.change("a", b"theirs")
        assert await failure(client.vfs.files.close(handle)) == errno.ESTALE
        assert await failure(client.vfs.files.close(handle)) == errno.ESTALE
        assert store.data == {"a": b"theirs"}
        assert await client.read("a") == b"mine"


async def test_a_file_that_went_while_it_was_written_is_reported(tmp_path: Path) -> None:
    store = FakeStore({"a": b"old"})
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("a", RW, flush=False) as handle:
        await client.vfs.files.write(handle, 0, b"mine")
        await client.vfs.files.close(handle)
        store.change("a", None)
        await failure(client.vfs.getattr(handle.inode.number))
        await client.vfs.files.write(handle, 0, b"more")
        assert await failure(client.vfs.files.close(handle)) == errno.ESTALE


@pytest.mark.parametrize("kind", ["sibling gone", "directory now a file"])
async def test_a_dirty_file_outlives_its_remote_directory(tmp_path: Path, kind: str) -> None:
    store = FakeStore({"d/x": b"1"})
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("d/new", NEW) as handle:
        await client.vfs.files.write(handle, 0, b"mine")
        store.change("d/x", None)
        if kind == "directory now a file":
            store.change("d", b"file")
        assert await client.exists("d")
        assert await client.names() == ["d"]
        assert await client.names("d") == ["new"]
        assert await failure(client.rmdir("d")) == errno.ENOTEMPTY
    assert store.data["d/new"] == b"mine"
    client.at_rest()


async def test_directories_that_hold_only_the_unstored_deep_below(tmp_path: Path) -> None:
    store = FakeStore({"d/e/x": b"1", "t/u/x": b"1"})
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("d/e/new", NEW) as handle:
        await client.vfs.files.write(handle, 0, b"mine")
        store.change("d/e/x", None)
        assert await failure(client.rmdir("d")) == errno.ENOTEMPTY
        assert await failure(client.rename("t", "d")) == errno.ENOTEMPTY
        assert await client.names("d") == ["e"]
    assert store.data["d/e/new"] == b"mine"


async def test_a_reader_of_spooled_bytes_outlasts_the_last_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread must not find another file under the descriptor."""
    store = FakeStore()
    client = Client(store, tmp_path)
    client.c.staging.memory_limit = 0
    data = b"x" * 500_000
    may_read, got, real = threading.Event(), [], os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        may_read.wait(30)
        return real(fd, size, offset)

    async with client.at(""), trio.open_nursery() as nursery:
        async with client.open("a", NEW) as writer:
            await client.vfs.files.write(writer, 0, data)
            monkeypatch.setattr(os, "pread", pread)

            async def read() -> None:
                got.append(await client.read("a"))

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
        may_read.set()
    assert got == [data]
    client.at_rest()


async def test_handles_may_come_and_go_while_a_file_is_stored(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore({"a": b"old"}, LOCAL_LIKE)
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with client.open("a", RW) as writer, client.open("a") as one, client.open("a") as two:
        for handle in (one, two):
            await client.vfs.files.read(handle, 0, 1)
            reader = handle.reader
            assert reader is not None
            original = reader._source.aclose

            async def slow(original=original) -> None:  # type: ignore[no-untyped-def]
                await trio.sleep(1)
                await original()

            reader._source.aclose = slow  # type: ignore[method-assign]
        await client.vfs.files.write(writer, 0, b"new")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.vfs.files.close, writer)
            await trio.sleep(0.5)
            async with client.open("a"):
                await trio.sleep(1)
        assert await client.vfs.files.read(one, 0, 9) == b"new"
    assert store.open_readers == 0
    client.at_rest()


async def test_concurrent_closes_cost_one_put(tmp_path: Path) -> None:
    store = FakeStore()
    store.latency = 0.01
    client = Client(store, tmp_path)
    async with client.open("a", NEW) as handle:
        await client.vfs.files.write(handle, 0, b"x")
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(client.vfs.files.close, handle)
    assert store.count("put") == 1


@PROFILES
async def test_nothing_remains_after_work(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore({f"d/{i}": b"x" * i for i in range(30)}, profile)
    client = Client(store, tmp_path, metadata_ttl=5)
    inodes = len(client.c.table)

    async def work(number: int) -> None:
        path = f"w{number}"
        await client.mkdir(path)
        for i in range(10):
            await client.write(f"{path}/{i}", b"y" * 100 * i)
            await client.read(f"{path}/{i}")
            await client.size(f"d/{i}")
        await client.names(path)
        await client.rename(f"{path}/1", f"{path}/moved")
        await client.rename(path, f"{path}-done")
        assert await failure(client.mkdir("d")) == errno.EEXIST
        assert await failure(client.unlink("none")) == errno.ENOENT
        assert await failure(client.unlink("d")) == errno.EISDIR
        assert await failure(client.rename("none", "x")) == errno.ENOENT
        assert await failure(client.rename("d/1", "d/2", 1)) == errno.EEXIST

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(work, number)
        await client.names()
        client.at_rest()
        assert len(client.c.table) == inodes, list(client.c.table)
        for number in range(5):
            for name in await client.names(f"w{number}-done"):
                await client.unlink(f"w{number}-done/{name}")
            await client.rmdir(f"w{number}-done")
    assert len(store.data) == 30
    assert store.open_readers == 0


async def test_forgetting_more_than_was_looked_up_is_an_error(tmp_path: Path) -> None:
    client = Client(FakeStore({"a": b""}), tmp_path)
    inode = await client.vfs.lookup(1, "a")
    await client.vfs.lookup(1, "a")
    client.vfs.forget([(inode.number, 1)])
    assert inode.lookups == 1
    with pytest.raises(ValueError, match="taken back"):
        client.vfs.forget([(inode.number, 2)])
    client.vfs.forget([(inode.number, 1)])
    assert client.vfs._c.table.find(inode.number) is None
    client.vfs.forget([(inode.number, 1)])
    assert await failure(client.vfs.getattr(inode.number)) == errno.ESTALE


async def test_attributes_that_the_store_cannot_hold_outlive_the_inode(tmp_path: Path) -> None:
    client = Client(FakeStore({"a": b""}), tmp_path, metadata_ttl=0)
    async with client.at("a") as inode:
        await client.vfs.setattr(inode.number, AttributeChange(mode=0o600, mtime_ns=5))
    assert len(client.c.table) == 1
    async with client.at("a") as inode:
        assert client.vfs.attributes(inode).mode & 0o777 == 0o600
        assert client.vfs.attributes(inode).mtime_ns == 5


async def test_a_read_only_store(tmp_path: Path) -> None:
    store = FakeStore({"a": b"x", "d/b": b"1"}, read_only=True)
    client = Client(store, tmp_path)
    calls = [
        client.write("a", b""),
        client.write("n", b""),
        client.mkdir("n"),
        client.rmdir("d"),
        client.unlink("a"),
        client.rename("a", "n"),
        client.link("a", "n"),
        client.truncate("a", 0),
    ]
    assert [await failure(call) for call in calls] == [errno.EROFS] * len(calls)
    assert await client.read("a") == b"x"
    client.at_rest()


async def test_names_that_cannot_be(tmp_path: Path) -> None:
    client = Client(FakeStore(), tmp_path)
    assert await failure(client.vfs.lookup(1, "x" * 256)) == errno.ENAMETOOLONG
    assert await failure(client.vfs.create(1, "x" * 256, 0o644, 0, OWNER)) == errno.ENAMETOOLONG
    assert await failure(client.vfs.lookup(1, "\udcff")) == errno.ENOENT
    assert await failure(client.vfs.create(1, "\udcff", 0o644, 0, OWNER)) == errno.EINVAL


async def test_a_failing_store_at_open_leaks_no_handle(tmp_path: Path, clock: MockClock) -> None:
    store = FakeStore({"a": b"old"})
    client = Client(store, tmp_path)
    client.c.staging.memory_limit = 0
    store.fail("put", error=lambda: Unavailable("no"))
    assert await failure(client.vfs.open(99, 0)) == errno.ESTALE
    assert await failure(client.vfs.open(1, 0)) == errno.EISDIR
    store.fail("get_range")
    async with client.at("a") as inode:
        assert await failure(client.read("a")) == errno.EIO
        assert not inode.handles
    client.at_rest()


CAREFUL = pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE], ids=["s3", "local"])

# -- conflicts ------------------------------------------------------------------------------------


@CAREFUL
async def test_a_file_opened_to_be_written_anew_replaces_what_is_there_now(
    tmp_path: Path, profile: Capabilities
) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = Client(store, tmp_path, metadata_ttl=1000)
    assert await client.size("a") == 3
    await trio.sleep(1)
    store.change("a", b"somebody else's")  # not known here for a long time
    await client.write("a", b"mine", flags=os.O_WRONLY | os.O_TRUNC)
    assert store.data == {"a": b"mine"}
    client.at_rest()


@CAREFUL
async def test_what_changes_after_it_was_opened_is_a_conflict_still(
    tmp_path: Path, profile: Capabilities
) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = Client(store, tmp_path, metadata_ttl=1000)
    async with client.open("a", os.O_WRONLY | os.O_TRUNC, flush=False) as handle:
        await client.vfs.files.write(handle, 0, b"mine")
        store.change("a", b"somebody else's")
        assert await failure(client.vfs.files.close(handle)) == errno.ESTALE
    assert store.data == {"a": b"somebody else's"}


@CAREFUL
@pytest.mark.parametrize("theirs", [b"somebody else's", None], ids=["changed", "deleted"])
async def test_after_a_conflict_opening_it_anew_overwrites(
    tmp_path: Path, profile: Capabilities, theirs: bytes | None
) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = Client(store, tmp_path, metadata_ttl=1)
    async with client.open("a", os.O_RDWR, flush=False) as handle:
        await client.vfs.files.write(handle, 0, b"mine")
        store.change("a", theirs)
        assert await failure(client.vfs.files.close(handle)) == errno.ESTALE
    assert await failure(client.write("a", b"more", flags=os.O_WRONLY)) == errno.ESTALE
    await client.write("a", b"anew", flags=os.O_WRONLY | os.O_TRUNC)
    assert store.data == {"a": b"anew"}
    client.at_rest()


@CAREFUL
async def test_a_rename_replaces_whatever_is_there(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = Client(store, tmp_path, metadata_ttl=1000)
    assert await client.size("a") == 3
    async with client.open("new", os.O_CREAT | os.O_WRONLY) as handle:
        await client.vfs.files.write(handle, 0, b"mine")
        store.change("a", b"somebody else's")
        await client.rename("new", "a")
    assert store.data == {"a": b"mine"}
    client.at_rest()


async def test_a_failed_truncate_changes_nothing(tmp_path: Path) -> None:
    store = FakeStore({"a": b"0123456789"}, S3_LIKE)
    client = Client(store, tmp_path, write_timeout=1)
    fault = store.fail("put", "a")
    assert await failure(client.truncate("a", 4)) == errno.EIO
    store.faults.remove(fault)
    assert await client.read("a") == b"0123456789"
    assert await client.vfs.store_everything() == {}
    assert store.data == {"a": b"0123456789"}
    client.at_rest()
