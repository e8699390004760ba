"""zarr-python's own ``StoreTests``, through the adapter, over every store of ours.

``pytest tests/zarr_suite -o trio_mode=false -o asyncio_mode=auto``
"""

from __future__ import annotations

import asyncio
import pickle
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fsspec
import obstore.store
import pytest
from zarr.abc.store import SupportsDeleteSync, SupportsGetSync, SupportsSetSync
from zarr.core.buffer import Buffer, cpu
from zarr.storage import LocalStore as ZarrLocalStore
from zarr.storage import MemoryStore as ZarrMemoryStore
from zarr.testing.store import StoreTests

from stores.base import Store
from stores.filesystems import FsspecStore
from stores.foreign import ForeignStore
from stores.local import LocalStore
from stores.memory import MemoryStore
from stores.objects import ObjectStore
from stores.zarr_adapter import ZarrStoreAdapter
from stores.zipped import ZipStore
from tests.servers import S3Server


class AdapterTests(StoreTests[ZarrStoreAdapter, cpu.Buffer]):
    """What the suite asks of a subclass; `make` returns the fresh, empty store that is adapted."""

    store_cls = ZarrStoreAdapter
    buffer_cls = cpu.Buffer

    def make(self, tmp_path: Path) -> Store:
        raise NotImplementedError

    @pytest.fixture
    async def store_kwargs(self, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
        store = self.make(tmp_path)
        await store.open()
        yield {"store": store, "read_only": False}
        await store.aclose()

    async def get(self, store: ZarrStoreAdapter, key: str) -> Buffer:
        data, _ = await store.store.get(key)
        return self.buffer_cls.from_bytes(data)

    async def set(self, store: ZarrStoreAdapter, key: str, value: Buffer) -> None:
        await store.store.put(key, value.to_bytes())

    def test_store_repr(self, store: ZarrStoreAdapter) -> None:
        assert repr(store) == f"ZarrStoreAdapter({store.store!r})"
        assert str(store) == store.store.location

    def test_store_supports_writes(self, store: ZarrStoreAdapter) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: ZarrStoreAdapter) -> None:
        assert store.supports_listing

    # The adapter has no synchronous methods: a store of ours is asynchronous throughout.

    def test_get_sync(self, store: ZarrStoreAdapter) -> None:
        assert not isinstance(store, SupportsGetSync)

    test_get_sync_missing = test_get_sync

    def test_set_sync(self, store: ZarrStoreAdapter) -> None:
        assert not isinstance(store, SupportsSetSync)

    def test_delete_sync(self, store: ZarrStoreAdapter) -> None:
        assert not isinstance(store, SupportsDeleteSync)

    test_delete_sync_missing = test_delete_sync

    async def test_close_leaves_the_store_open(self, store: ZarrStoreAdapter) -> None:
        store.close()
        await store.store.put("a", b"x")
        assert await store.exists("a")

    async def test_delete_dir_leaves_no_trace(self, store: ZarrStoreAdapter) -> None:
        for key in ("d/e/f/g", "d/e/h", "d/i", "j"):
            await self.set(store, key, self.buffer_cls.from_bytes(b"x"))
        await store.delete_dir("d")
        assert [name async for name in store.list_dir("")] == ["j"]

    async def test_set_if_not_exists_once(self, store: ZarrStoreAdapter) -> None:
        """Of many at once, where the store can do it in one step, one wins, and all see it."""
        if store.store.capabilities.create_if_absent:
            values = [self.buffer_cls.from_bytes(b"%d" % number) for number in range(8)]
            await asyncio.gather(*(store.set_if_not_exists("k", value) for value in values))
            first = (await self.get(store, "k")).to_bytes()
            await store.set_if_not_exists("k", self.buffer_cls.from_bytes(b"late"))
            assert (await self.get(store, "k")).to_bytes() == first


class NoPickle:
    """For stores that live in this process, or that are being written."""

    async def test_serializable_store(self, store: ZarrStoreAdapter) -> None:
        with pytest.raises((TypeError, NotImplementedError, RuntimeError)):
            pickle.dumps(store)


class TestLocal(AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path)


class TestMemory(AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return MemoryStore.named(uuid.uuid4().hex)


class TestMemoryWithoutName(NoPickle, AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return MemoryStore()


class TestZip(NoPickle, AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return ZipStore(tmp_path / "data.zip", "w")


class TestFsspecLocal(AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return FsspecStore.from_url(f"file://{tmp_path}")


class TestFsspecMemory(AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return FsspecStore(fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}")


class TestFsspecS3(AdapterTests):
    server: S3Server

    @pytest.fixture(autouse=True)
    def _server(self, moto_server: S3Server) -> None:
        self.server = moto_server

    def make(self, tmp_path: Path) -> Store:
        url = f"s3://{self.server.create()}/some/where"
        return FsspecStore.from_url(url, storage_options=self.server.storage_options)


class TestObstoreMemory(NoPickle, AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return ObjectStore(obstore.store.MemoryStore())


class TestObstoreLocal(AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return ObjectStore(obstore.store.LocalStore(tmp_path, automatic_cleanup=True))


class TestObstoreS3(AdapterTests):
    server: S3Server

    @pytest.fixture(autouse=True)
    def _server(self, moto_server: S3Server) -> None:
        self.server = moto_server

    def make(self, tmp_path: Path) -> Store:
        url = f"s3://{self.server.create()}/some/where"
        return ObjectStore.from_url(url, storage_options=self.server.storage_options)


class TestForeignLocal(AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return ForeignStore(ZarrLocalStore(tmp_path))


class TestForeignMemory(AdapterTests):
    def make(self, tmp_path: Path) -> Store:
        return ForeignStore(ZarrMemoryStore())
