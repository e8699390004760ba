"""What a mount asks of the store when an earlier one has left what it read on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from client import Client
from fake_store import LOCAL_LIKE, S3_LIKE, FakeStore
from test_reading_arrays import array, chunk_calls, content, key

from stores.errors import Precondition, Unavailable
from stores.meta import Capabilities
from zarrmount.cache.directory import CacheDirectory
from zarrmount.cache.disk import DiskCache
from zarrmount.settings import INDEFINITE

KB, MB = 1 << 10, 1 << 20
GRID = [(i, j) for i in range(4) for j in range(5)]
BIG = bytes(range(256)) * (12 * MB // 256)


def store_of(capabilities: Capabilities = S3_LIKE) -> FakeStore:
    return FakeStore(
        {**array((4, 5)), "big.nc": BIG, "small.txt": b"small", "n/deep/file": b"deep"}, capabilities
    )


@asynccontextmanager
async def mount(
    store: FakeStore, path: Path, *, immutable: bool = False, cache_bytes: int = 64 * MB, timeout: float = 60
) -> AsyncIterator[Client]:
    """One mount of the store, from its start to its end; the calls to its store are counted from there."""
    disk = DiskCache(CacheDirectory(path / "cache", 1 << 30, 0), "fake://", immutable=immutable)
    ttl = INDEFINITE if immutable else 10.0
    client = Client(
        store, path / "spool", disk=disk, metadata_ttl=ttl, cache_bytes=cache_bytes, read_timeout=timeout
    )
    store.calls.clear()
    async with client.running():
        yield client
        client.at_rest()


async def read_all(client: Client) -> None:
    for at in GRID:
        assert await client.read(key(at)) == content(at)


async def read_big(client: Client, start: int = 0, stop: int = len(BIG)) -> None:
    async with client.open("big.nc") as handle:
        for offset in range(start, stop, 128 * KB):
            data = await client.vfs.files.read(handle, offset, 128 * KB)
            assert data == BIG[offset : offset + 128 * KB], offset


@pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE], ids=["s3", "snapshots"])
async def test_the_next_mount_asks_only_whether_chunks_are_still_the_same(
    tmp_path: Path, profile: Capabilities
) -> None:
    store = store_of(profile)
    async with mount(store, tmp_path) as client:
        await read_all(client)
        assert chunk_calls(store)["get"] == len(GRID)
    async with mount(store, tmp_path) as client:
        await read_all(client)
        asked = Counter(
            call for call in store.calls if call[0] not in ("lookup", "list", "next_page", "open_reader")
        )
        assert asked == Counter(("head", k) for k in ["a/zarr.json", *map(key, GRID)])


async def test_an_object_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    store = store_of()
    async with mount(store, tmp_path) as client:
        await read_all(client)
        await read_big(client)
        assert await client.read("small.txt") == b"small"
    store.change(key((1, 2)), b"new bytes of this chunk")
    store.change(key((1, 4)), content((9, 9)))  # of the same size
    store.change("big.nc", BIG[::-1])
    store.change("small.txt", b"other")  # of the same size
    store.change(key((3, 3)), None)
    async with mount(store, tmp_path) as client:
        assert await client.read(key((1, 2))) == b"new bytes of this chunk"
        assert await client.read(key((1, 3))) == content((1, 3))
        assert await client.read(key((1, 4))) == content((9, 9))
        assert await client.read("small.txt") == b"other"
        assert not await client.exists(key((3, 3)))
        async with client.open("big.nc") as handle:
            assert await client.vfs.files.read(handle, 5 * MB, 100) == BIG[::-1][5 * MB : 5 * MB + 100]
    async with mount(store, tmp_path) as client:
        assert await client.read(key((1, 2))) == b"new bytes of this chunk"
        assert store.count("get", key((1, 2))) == 0


async def test_what_was_written_here_is_what_is_read_later(tmp_path: Path) -> None:
    store = store_of()
    async with mount(store, tmp_path) as client:
        await read_all(client)
        await client.write(key((0, 0)), b"written through the mount")
        assert await client.read(key((0, 0))) == b"written through the mount"
    async with mount(store, tmp_path) as client:
        assert await client.read(key((0, 0))) == b"written through the mount"


async def test_large_objects_come_from_the_disk_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, starts = store_of(), list[int]()
    get_range = store._get_range

    async def noted(key: str, start: int, stop: int, if_version: str | None) -> bytes:
        starts.append(start)
        return await get_range(key, start, stop, if_version)

    monkeypatch.setattr(store, "_get_range", noted)
    async with mount(store, tmp_path) as client:
        await read_big(client, 2 * MB, 9 * MB)
        assert min(starts) == 2 * MB
    async with mount(store, tmp_path) as client:
        starts.clear()
        await read_big(client, 2 * MB, 9 * MB)
        assert min(starts, default=9 * MB) >= 9 * MB  # to read ahead beyond what was read before
        async with client.open("big.nc") as handle:
            assert await client.vfs.files.read(handle, 2 * MB - 100, 200) == BIG[2 * MB - 100 :][:200]
            assert await client.vfs.files.read(handle, len(BIG) - 100, 200) == BIG[-100:]
    async with mount(store, tmp_path) as client:
        await read_big(client)
    async with mount(store, tmp_path) as client:
        await read_big(client)
        assert store.count("get_range") == store.count("get") == 0


async def test_what_memory_has_no_room_for_comes_from_the_disk(tmp_path: Path) -> None:
    store = store_of()
    async with mount(store, tmp_path, cache_bytes=4 * MB) as client:
        await read_big(client)
        await client.c.readers.disk._write_waiting()  # type: ignore[union-attr]
        store.calls.clear()
        await read_big(client)
        assert store.count("get_range") == 0


async def test_a_store_that_does_not_change_is_not_asked_again(tmp_path: Path) -> None:
    store = store_of()
    read = ["small.txt", "n/deep/file", "a/zarr.json"]
    async with mount(store, tmp_path, immutable=True) as client:
        for name in read:
            await client.read(name)
        await read_all(client)
        await read_big(client)
        assert await client.size("big.nc") == len(BIG)
        assert store.calls
    async with mount(store, tmp_path, immutable=True) as client:
        for name in read:
            assert await client.read(name) == store.data[name]
        await read_all(client)
        await read_big(client)
        assert await client.size("big.nc") == len(BIG)
        assert store.calls == []
        assert not await client.exists("a/c/7/7")
        assert store.calls != [], "that something is not there is no promise"


async def test_what_is_new_is_fetched_ahead_beside_what_is_kept(tmp_path: Path) -> None:
    store = store_of()
    async with mount(store, tmp_path, immutable=True) as client:
        for at in GRID[:7]:
            assert await client.read(key(at)) == content(at)
    async with mount(store, tmp_path, immutable=True) as client:
        await read_all(client)
        await read_all(client)
        asked = chunk_calls(store)
        assert asked["get"] <= len(GRID) - 7
        assert asked["head"] == 0
        assert len(client.c.lookups.ahead) == 0


async def test_what_was_fetched_ahead_is_taken_also_when_it_is_kept_by_then(tmp_path: Path) -> None:
    store = store_of()
    async with mount(store, tmp_path, immutable=True) as client:
        for at in GRID:
            assert await client.read(key(at)) == content(at)
            await trio.testing.wait_all_tasks_blocked()
            await client.c.readers.disk._write_waiting()  # type: ignore[union-attr]
        assert len(client.c.lookups.ahead) == 0
        assert chunk_calls(store)["get"] == len(GRID)


async def test_a_broken_promise_heals_with_the_next_mount(tmp_path: Path) -> None:
    store = store_of()
    async with mount(store, tmp_path, immutable=True) as client:
        await read_big(client, 0, MB)
    store.change("big.nc", BIG[::-1])
    async with mount(store, tmp_path, immutable=True) as client:
        with pytest.raises(Precondition):
            await read_big(client, 6 * MB, 7 * MB)
    async with mount(store, tmp_path, immutable=True) as client:
        async with client.open("big.nc") as handle:
            assert await client.vfs.files.read(handle, 6 * MB, 10) == BIG[::-1][6 * MB :][:10]


async def test_what_was_damaged_on_the_disk_is_fetched_anew(tmp_path: Path) -> None:
    store = store_of()
    async with mount(store, tmp_path) as client:
        await read_all(client)
        await read_big(client)
    for path in (tmp_path / "cache").glob("*/??/*"):
        with path.open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
    async with mount(store, tmp_path) as client:
        await read_all(client)
        await read_big(client)
        assert chunk_calls(store)["get"] >= len(GRID)
    async with mount(store, tmp_path) as client:
        await read_all(client)
        assert chunk_calls(store)["get"] == 0


async def test_a_store_that_does_not_answer_is_not_replaced_by_the_cache(tmp_path: Path) -> None:
    store = store_of()
    async with mount(store, tmp_path) as client:
        await read_all(client)
    store.fail(error=lambda: Unavailable("down"))
    async with mount(store, tmp_path, timeout=0.2) as client:
        with pytest.raises(Unavailable):
            await client.read(key((0, 0)))


async def test_two_mounts_at_once_share_what_either_reads(tmp_path: Path) -> None:
    store = store_of()
    async with mount(store, tmp_path) as one, mount(store, tmp_path) as other:
        await read_all(one)
        await one.c.readers.disk._write_waiting()  # type: ignore[union-attr]
        store.calls.clear()
        await read_all(other)
        assert chunk_calls(store)["get"] == 0


async def test_a_cache_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file in the way")
    store = store_of()
    async with mount(store, tmp_path) as client:
        await read_all(client)
        await read_big(client)
        assert chunk_calls(store)["get"] == len(GRID)
