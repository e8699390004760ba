"""Stores over fsspec: the conformance kit over three file systems, and what is special to this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest

from stores.bridge import Bridge
from stores.filesystems import FsspecStore
from stores.meta import Capabilities
from stores.testing import StoreConformance
from tests.servers import S3Server, moto_s3


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with moto_s3() as server:
        yield server


@pytest.fixture(autouse=True, scope="module")
def close_the_bridge() -> Iterator[None]:
    yield
    Bridge.shared().close()


class TestLocal(StoreConformance):
    capabilities = Capabilities(listable=True, ranges=True, versions=True, create_if_absent=True)
    object_and_prefix = False
    many_keys = 500

    async def make_store(self, tmp_path: Path) -> FsspecStore:
        return FsspecStore.from_url(f"file://{tmp_path}")


class TestMemory(StoreConformance):
    capabilities = Capabilities(listable=True, ranges=True, versions=True)
    object_and_prefix = False
    many_keys = 500

    async def make_store(self, tmp_path: Path) -> FsspecStore:
        fs = fsspec.filesystem("memory", global_store=False, skip_instance_cache=True)
        return FsspecStore(fs, "/data")


class TestS3(StoreConformance):
    capabilities = Capabilities(
        listable=True, ranges=True, versions=True, create_if_absent=True, server_copy=True
    )
    delete_tells = False
    mtime_granularity_ns = 10**9
    put_tells_mtime = False
    many_keys = 1100
    refused_names: ClassVar = {"new\nline": "moto finds no route for it"}
    server: ClassVar[S3Server]

    @pytest.fixture(autouse=True)
    def _server(self, s3: S3Server) -> None:
        type(self).server = s3

    async def make_store(self, tmp_path: Path) -> FsspecStore:
        url = f"s3://{self.server.create()}/some/prefix"
        return FsspecStore.from_url(url, storage_options=self.server.storage_options)
