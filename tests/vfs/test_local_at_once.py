"""On a local disk names and bytes that are in memory are told without a thread, and no less true."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
import pytest

from stores.errors import NotFound, Precondition
from stores.local import LocalStore
from zarrmount.settings import TreeSettings
from zarrmount.vfs import Vfs


@pytest.fixture
async def vfs(tmp_path: Path) -> AsyncIterator[Vfs]:
    (tmp_path / "store/d").mkdir(parents=True)
    (tmp_path / "store/d/file").write_bytes(b"12345")
    async with LocalStore(tmp_path / "store") as store:
        yield Vfs(store, TreeSettings(metadata_ttl=0), staging_dir=tmp_path)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What went to threads since."""
    asked: list[object] = []
    run_sync = anyio.to_thread.run_sync

    async def noted(function: object, *args: object, **options: object) -> object:
        asked.append(function)
        return await run_sync(function, *args, **options)

    monkeypatch.setattr("anyio.to_thread.run_sync", noted)
    return asked


async def test_looking_up_opening_and_reading_take_no_thread(vfs: Vfs, threads: list[object]) -> None:
    threads.clear()
    directory = await vfs.lookup(1, "d")
    inode = await vfs.lookup(directory.number, "file")
    handle = await vfs.open(inode.number, os.O_RDONLY)
    assert await vfs.files.read(handle, 1, 99) == b"2345"
    await vfs.files.release(handle.number)
    assert threads == []
    vfs.check_invariants()


async def test_what_is_not_told_at_once_is_asked(
    vfs: Vfs, threads: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads.clear()
    monkeypatch.setattr(LocalStore, "_answer_now", lambda *_, **__: None)
    directory = await vfs.lookup(1, "d")
    inode = await vfs.lookup(directory.number, "file")
    handle = await vfs.open(inode.number, os.O_RDONLY)
    assert await vfs.files.read(handle, 0, 99) == b"12345"
    await vfs.files.release(handle.number)
    assert len(threads) == 3
    with pytest.raises(NotFound):
        await vfs.lookup(directory.number, "none")
    vfs.check_invariants()


async def test_a_read_waits_for_whoever_renames_directories(vfs: Vfs) -> None:
    directory = await vfs.lookup(1, "d")
    inode = await vfs.lookup(directory.number, "file")
    handle = await vfs.open(inode.number, os.O_RDONLY)
    async with vfs._c.shape.alone():
        assert vfs.files.read_now(handle, 0, 5) is None
    assert vfs.files.read_now(handle, 0, 5) == b"12345"
    await vfs.files.release(handle.number)


async def test_pages_are_pushed_once_and_only_of_what_is_read(vfs: Vfs, tmp_path: Path) -> None:
    directory = await vfs.lookup(1, "d")
    inode = await vfs.lookup(directory.number, "file")
    writer = await vfs.open(inode.number, os.O_RDWR)
    assert vfs.pages_to_push(writer) is None
    reader = await vfs.open(inode.number, os.O_RDONLY)
    assert vfs.pages_to_push(reader) is None  # there is another handle
    await vfs.files.release(writer.number)
    assert vfs.pages_to_push(reader) == b"12345"
    assert not vfs.keeps_pages(inode)
    assert vfs.pages_to_push(reader) is None
    assert vfs.keeps_pages(inode)
    await vfs.files.release(reader.number)
    (tmp_path / "store/large").write_bytes(bytes(300 << 10))
    large = await vfs.open((await vfs.lookup(1, "large")).number, os.O_RDONLY)
    assert vfs.pages_to_push(large) is None
    await vfs.files.release(large.number)


async def test_no_pages_are_pushed_of_what_was_written_here(vfs: Vfs) -> None:
    inode, writer = await vfs.create(1, "new", 0o644, os.O_WRONLY, (0, 0))
    await vfs.files.write(writer, 0, b"written")
    await vfs.files.close(writer)
    await vfs.files.release(writer.number)
    reader = await vfs.open(inode.number, os.O_RDONLY)
    assert vfs.pages_to_push(reader) is None
    await vfs.files.release(reader.number)


async def test_who_finds_another_file_is_told_when_he_reads(vfs: Vfs, tmp_path: Path) -> None:
    directory = await vfs.lookup(1, "d")
    inode = await vfs.lookup(directory.number, "file")
    (tmp_path / "store/d/file").write_bytes(b"another")
    handle = await vfs.open(inode.number, os.O_RDONLY)
    assert vfs.pages_to_push(handle) is None
    with pytest.raises(Precondition):
        await vfs.files.read(handle, 0, 5)
    await vfs.files.release(handle.number)
