"""Storing what was staged: conditions, repetitions, doubts."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

sys.path.insert(0, str(Path(__file__).parent.parent / "vfs"))
from fake_store import MINIMAL, S3_LIKE, FakeStore

from stores.errors import (
    AlreadyExists,
    Corrupt,
    Denied,
    NoSpace,
    Precondition,
    StoreError,
    Unavailable,
    Unsupported,
)
from stores.meta import Capabilities, ObjectMeta
from zarrmount.inodes import Inode, Kind
from zarrmount.objects.staging import Staging
from zarrmount.objects.upload import Uploader
from zarrmount.settings import TreeSettings


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0.02)


@asynccontextmanager
async def staged_file(tmp_path: Path, data: bytes, *, spooled: bool = False) -> AsyncIterator[Inode]:
    inode = Inode(2, None, "k", Kind.FILE)
    inode.staged = Staging(tmp_path, 0 if spooled else 1 << 30).new()
    await inode.staged.write(0, data)
    yield inode
    assert await inode.staged.read(0, 1 << 30) == data, "whatever happens, the bytes are kept"
    inode.staged.close()


def uploader(store: FakeStore, **settings: Any) -> Uploader:
    return Uploader(store, TreeSettings(write_timeout=60, **settings))


def base(store: FakeStore) -> ObjectMeta:
    return store.objects["k"].meta


@pytest.mark.parametrize("spooled", [False, True])
async def test_it_goes_on_trying_for_as_long_as_it_may(
    clock: MockClock, tmp_path: Path, spooled: bool
) -> None:
    store = FakeStore()
    store.fail("put", times=4)
    async with staged_file(tmp_path, b"x" * 70_000, spooled=spooled) as inode:
        meta = await uploader(store).upload(inode, "k", None)
    assert meta == base(store)
    assert store.count("put") == 5
    assert trio.current_time() == pytest.approx(0.2 + 0.4 + 0.8 + 1.6, rel=0.3)
    assert store.data == {"k": b"x" * 70_000}


async def test_what_is_tried_again_can_be_told(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore()
    store.fail("put", error=lambda: Unavailable("503"), times=2)
    up = uploader(store)
    async with staged_file(tmp_path, b"x") as inode, trio.open_nursery() as nursery:
        assert up.retrying == {}
        nursery.start_soon(up.upload, inode, "k", None)
        await trio.sleep(0.01)
        assert up.retrying == {"k": "503"}
        await trio.sleep(5)
        assert up.retrying == {}
        store.fail("put", error=lambda: Unavailable("504"))
        with pytest.raises(Unavailable):
            await up.upload(inode, "other", None)
        assert up.retrying == {}


async def test_and_no_longer(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore()
    store.fail("put", error=lambda: Unavailable("503", key="k"))
    async with staged_file(tmp_path, b"x") as inode:
        with pytest.raises(Unavailable, match="not stored within 60 s: 503") as caught:
            await uploader(store).upload(inode, "k", None)
        assert inode.upload_error is caught.value
    assert trio.current_time() == pytest.approx(60, abs=0.5)
    assert 10 < store.count("put") < 25


@pytest.mark.parametrize("kind", [Denied, NoSpace, Corrupt])
async def test_a_no_is_a_no(tmp_path: Path, kind: type[StoreError]) -> None:
    store = FakeStore()
    store.fail("put", error=lambda: kind("no"))
    async with staged_file(tmp_path, b"x") as inode:
        with pytest.raises(kind):
            await uploader(store).upload(inode, "k", None)
    assert store.count("put") == 1


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("spooled", [False, True])
async def test_a_put_that_arrived_though_it_failed(
    clock: MockClock, tmp_path: Path, exclusive: bool, replaces: bool, spooled: bool
) -> None:
    store = FakeStore({"k": b"old"} if replaces else {})
    before = base(store) if replaces else None
    store.fail("put", times=1, after=True)
    async with staged_file(tmp_path, b"x" * 70_000, spooled=spooled) as inode:
        inode.exclusive = exclusive
        assert await uploader(store).upload(inode, "k", before) == base(store)
    assert store.data == {"k": b"x" * 70_000}
    assert store.count("put") == 2


async def test_a_put_that_arrived_after_its_time_was_over(clock: MockClock, tmp_path: Path) -> None:
    """The next close finds the bytes of the last one."""
    store = FakeStore()
    store.fail("put", times=1, after=True, hang=True)
    async with staged_file(tmp_path, b"x") as inode:
        inode.exclusive = True
        with pytest.raises(Unavailable):
            await uploader(store).upload(inode, "k", None)
        assert await uploader(store).upload(inode, "k", None) == base(store)


async def test_whoever_makes_a_file_exclusively_is_the_only_one(tmp_path: Path) -> None:
    """Though it be equal: it may be a lock."""
    store = FakeStore({"k": b""})
    async with staged_file(tmp_path, b"") as inode:
        inode.exclusive = True
        with pytest.raises(AlreadyExists):
            await uploader(store).upload(inode, "k", None)


@pytest.mark.parametrize("case", ["changed", "created", "deleted"])
@pytest.mark.parametrize("overwrite", [False, True])
async def test_conflicts(tmp_path: Path, case: str, overwrite: bool) -> None:
    store = FakeStore({} if case == "created" else {"k": b"old"})
    before = None if case == "created" else base(store)
    store.change("k", None if case == "deleted" else b"theirs")
    async with staged_file(tmp_path, b"mine") as inode:
        upload = uploader(store, overwrite_conflicts=overwrite).upload(inode, "k", before)
        if overwrite:
            assert await upload == base(store)
        else:
            with pytest.raises(Precondition):
                await upload
    assert store.data.get("k") == (b"mine" if overwrite else None if case == "deleted" else b"theirs")


async def test_stores_without_conditional_puts(tmp_path: Path) -> None:
    store = FakeStore({"k": b"old"}, MINIMAL)
    async with staged_file(tmp_path, b"mine") as inode:
        await uploader(store).upload(inode, "k", base(store))
        assert store.data == {"k": b"mine"}
        await uploader(store).upload(inode, "k", None)


@pytest.mark.parametrize(
    "capabilities",
    [
        Capabilities(listable=True, versions=True, create_if_absent=True),
        Capabilities(listable=True, versions=True, replace_if_version=True),
    ],
    ids=["create", "replace"],
)
async def test_stores_with_one_condition_only(tmp_path: Path, capabilities: Capabilities) -> None:
    store = FakeStore({"k": b"old"}, capabilities)
    before = base(store)
    store.change("k", b"theirs")
    async with staged_file(tmp_path, b"mine") as inode:
        failed = 0
        for base_version in (before, None):
            try:
                await uploader(store).upload(inode, "k", base_version)
            except Precondition:
                failed += 1
    assert failed == (1 if capabilities.replace_if_version else 0)


async def test_a_condition_that_the_server_refuses_leaves_the_other(tmp_path: Path) -> None:
    """There are servers that know If-None-Match and not If-Match."""
    store = FakeStore({"k": b"old", "other": b"theirs"}, S3_LIKE)
    up = uploader(store)
    store.fail("put", "k", error=lambda: Unsupported("no If-Match"), times=1)
    async with staged_file(tmp_path, b"mine") as inode:
        await up.upload(inode, "k", base(store))
        assert store.data["k"] == b"mine"
        with pytest.raises(Precondition):
            await up.upload(inode, "other", None)
    assert store.data["other"] == b"theirs"


@pytest.mark.parametrize("there", ["nothing", "what was known", "something else"])
async def test_a_late_copy_of_a_put_replaces_nothing_that_came_after(
    clock: MockClock, tmp_path: Path, there: str
) -> None:
    store = FakeStore({} if there == "nothing" else {"k": b"old"})
    known = None if there == "nothing" else base(store)
    if there == "something else":
        store.change("k", b"theirs")
    put, on_their_way = store.put, []

    async def delayed(*args: Any, **conditions: Any) -> ObjectMeta:
        if not on_their_way:
            on_their_way.append((args, conditions))
            raise Unavailable("no answer")
        return await put(*args, **conditions)

    async with staged_file(tmp_path, b"new") as inode:
        store.put = delayed  # type: ignore[method-assign]
        stored = await uploader(store).upload(inode, "k", known, whatever_is_there=True)
        assert store.data == {"k": b"new"}
        await put("k", b"newer", if_version=stored.version)
        ((args, conditions),) = on_their_way
        with pytest.raises((Precondition, AlreadyExists)):
            await put(*args, **conditions)
    assert store.data == {"k": b"newer"}


async def test_what_changes_all_the_time_is_replaced_all_the_same(tmp_path: Path) -> None:
    store = FakeStore({"k": b"old"})
    put, counter = store.put, iter(range(1000))

    async def overtaken(*args: Any, **conditions: Any) -> ObjectMeta:
        store.change("k", str(next(counter)).encode())
        return await put(*args, **conditions)

    store.put = overtaken  # type: ignore[method-assign]
    async with staged_file(tmp_path, b"new") as inode:
        await uploader(store).upload(inode, "k", base(store), whatever_is_there=True)
    assert store.data == {"k": b"new"}
