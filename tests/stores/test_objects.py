"""The conformance kit over every kind of object store, on real servers where there is one."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from obstore.store import LocalStore, MemoryStore

from stores.base import Store
from stores.errors import NotFound
from stores.meta import Capabilities
from stores.objects import ObjectStore
from stores.testing import ODD_NAMES, ReadOnlyStoreConformance, StoreConformance, collect
from tests.servers import AzureServer, HttpServer, S3Server

CONTROL = {"new\nline": "obstore takes no control characters"}
SECOND = 10**9

CLOUD = Capabilities(
    listable=True,
    ranges=True,
    versions=True,
    create_if_absent=True,
    replace_if_version=True,
    server_copy=True,
)


class TestObstoreMemory(StoreConformance):
    capabilities = CLOUD
    refused_names: ClassVar[Mapping[str, str]] = CONTROL
    delete_tells = False

    async def make_store(self, tmp_path: Path) -> Store:
        return ObjectStore(MemoryStore())


class TestObstoreMemoryBelowAPrefix(StoreConformance):
    capabilities = CLOUD
    refused_names: ClassVar[Mapping[str, str]] = CONTROL
    delete_tells = False

    async def make_store(self, tmp_path: Path) -> Store:
        inner = MemoryStore()
        for key in ("data.zarr.old/a", "data", "x/data.zarr/b", "a"):
            inner.put(key, b"not ours")
        return ObjectStore(inner, prefix="x/data.zar")


class TestObstoreLocal(StoreConformance):
    capabilities = Capabilities(
        listable=True, ranges=True, versions=True, create_if_absent=True, server_copy=True
    )
    refused_names: ClassVar[Mapping[str, str]] = CONTROL | {
        "n" * 255: "obstore writes a file of a longer name first",
        "é" * 127: "obstore writes a file of a longer name first",
    }
    object_and_prefix = False

    async def make_store(self, tmp_path: Path) -> Store:
        return ObjectStore(LocalStore(tmp_path / "root", mkdir=True, automatic_cleanup=True))


class S3Conformance(StoreConformance):
    capabilities = dataclasses.replace(CLOUD, ordered=True)
    refused_names: ClassVar[Mapping[str, str]] = CONTROL
    delete_tells = False
    put_tells_mtime = False

    server: S3Server

    async def make_store(self, tmp_path: Path) -> Store:
        url = f"s3://{self.server.create()}/some/where"
        return ObjectStore.from_url(url, storage_options=self.server.storage_options)


class TestRadosGateway(S3Conformance):
    @pytest.fixture(autouse=True)
    def _server(self, rados_gateway: S3Server) -> None:
        self.server = rados_gateway


class TestMoto(S3Conformance):
    @pytest.fixture(autouse=True)
    def _server(self, moto_server: S3Server) -> None:
        self.server = moto_server


class TestAzurite(StoreConformance):
    capabilities = CLOUD
    refused_names: ClassVar[Mapping[str, str]] = CONTROL | {"back\\slash": "Azure takes it for a slash"}
    put_tells_mtime = False

    @pytest.fixture(autouse=True)
    def _server(self, azurite_server: AzureServer) -> None:
        self.server = azurite_server

    async def make_store(self, tmp_path: Path) -> Store:
        url = f"az://{self.server.create()}/some/where"
        return ObjectStore.from_url(url, storage_options=self.server.storage_options)


class TestWebDav(StoreConformance):
    capabilities = Capabilities(listable=True, ranges=True)
    refused_names: ClassVar[Mapping[str, str]] = CONTROL
    object_and_prefix = False
    put_tells_mtime = False

    @pytest.fixture(autouse=True)
    def _server(self, webdav_server: HttpServer) -> None:
        self.server = webdav_server

    async def make_store(self, tmp_path: Path) -> Store:
        return ObjectStore.from_url(self.server.create(), storage_options={})

    @pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
    async def test_odd_names(self, store: Store, name: str) -> None:
        if not name.startswith("."):
            await super().test_odd_names(store, name)
            return
        # This server leaves hidden files out of its listings, and serves them all the same.
        await store.put(f"d/{name}", b"x")
        assert (await store.get(f"d/{name}"))[0] == b"x"
        assert (await store.head(f"d/{name}")).size == 1
        assert not (await collect(store, "d")).objects

    async def test_the_last_object_of_a_prefix(self, store: Store) -> None:
        # To remove a directory that somebody may just be filling would be no service.
        await store.put("d/e/a", b"x")
        await store.delete("d/e/a")
        assert set((await collect(store, "d")).prefixes) == {"d/e"}
        assert (await store.lookup("d/e")).prefix is not None
        with pytest.raises(NotFound):
            await store.lookup("d/f")


class TestWeb(ReadOnlyStoreConformance):
    """A web server without listings; files come to be in its directory."""

    capabilities = Capabilities(ranges=True, versions=True)
    refused_names: ClassVar[Mapping[str, str]] = CONTROL
    object_and_prefix = False
    mtime_granularity_ns = SECOND

    _puts = 0

    @pytest.fixture(autouse=True)
    def _server(self, web_server: HttpServer) -> None:
        self.server = web_server

    async def make_store(self, tmp_path: Path) -> Store:
        address = self.server.create()
        self.root = self.server.root / address.rpartition("/")[2]
        return ObjectStore.from_url(address, storage_options={})

    async def backdoor_put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        new = self.root / ".new"
        new.write_bytes(data)
        # The ETag of nginx is the second and the size: let every file have a second of its own.
        self._puts += 1
        when = time.time() - 60 + self._puts
        os.utime(new, (when, when))
        new.replace(path)

    async def backdoor_get(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    async def backdoor_delete(self, key: str) -> None:
        (self.root / key).unlink()
