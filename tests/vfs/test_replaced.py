"""A file that somebody else replaces while it is open here: old or new, never cut short, never mixed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from client import Client, failure
from fake_store import LOCAL_LIKE, S3_LIKE, FakeStore

from stores.meta import Capabilities
from zarrmount.inode_table import ROOT_INODE

PROFILES = pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE], ids=["s3", "local"])


@PROFILES
@pytest.mark.parametrize("size", [5, 5000])
async def test_whoever_reads_it_sees_its_own_size(tmp_path: Path, profile: Capabilities, size: int) -> None:
    store = FakeStore({"a": b"a" * 1000}, profile)
    client = Client(store, tmp_path, metadata_ttl=0, cache_bytes=1)
    inode = await client.vfs.lookup(ROOT_INODE, "a")
    handle = await client.vfs.open(inode.number, os.O_RDONLY)
    assert await client.vfs.files.read(handle, 0, 10) == b"a" * 10
    store.change("a", b"b" * size)
    assert await client.size("a") == size  # by its name it is another file
    assert await client.read("a") == b"b" * size
    assert client.vfs.attributes(await client.vfs.getattr(inode.number)).size == 1000
    if profile.snapshot_reads:
        assert await client.vfs.files.read(handle, 500, 1000) == b"a" * 500
    else:
        assert await failure(client.vfs.files.read(handle, 500, 1000)) == errno.ESTALE
    await client.vfs.files.close(handle)
    await client.vfs.files.release(handle.number)
    client.vfs.forget([(inode.number, 1)])
    assert store.open_readers == 0
    client.at_rest()


@PROFILES
async def test_what_is_written_to_it_is_refused(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore({"a": b"mine"}, profile)
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("a", os.O_RDWR) as handle:
        assert await client.vfs.files.read(handle, 0, 10) == b"mine"
        store.change("a", b"theirs")
        assert await client.size("a") == 6
        assert await failure(client.vfs.files.write(handle, 0, b"M")) == errno.ESTALE
        assert await failure(client.vfs.files.truncate(handle.inode, 0)) == errno.ESTALE
    assert store.data == {"a": b"theirs"}
    client.at_rest()


@PROFILES
async def test_nobody_who_has_not_read_yet_is_troubled(tmp_path: Path, profile: Capabilities) -> None:
    store = FakeStore({"a": b"old"}, profile)
    client = Client(store, tmp_path, metadata_ttl=0)
    async with client.open("a", os.O_RDWR) as handle:
        store.change("a", b"newer")
        assert await client.size("a") == 5
        assert await client.vfs.files.read(handle, 0, 10) == b"newer"
        await client.vfs.files.write(handle, 0, b"N")
    assert store.data == {"a": b"Newer"}
    client.at_rest()
