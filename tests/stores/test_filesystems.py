"""Stores over fsspec: the conformance kit over three file systems, and what is special to this one."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from botocore.exceptions import ClientError

from stores.base import Store
from stores.bridge import Bridge
from stores.errors import (
    AlreadyExists,
    BadLocation,
    Corrupt,
    Denied,
    NoSpace,
    NotFound,
    Precondition,
    ReadOnly,
    StoreError,
    Unavailable,
    Unsupported,
)
from stores.filesystems import FsspecStore
from stores.meta import Capabilities
from stores.testing import ODD_NAMES, StoreConformance, collect
from stores.translation import translate_error
from tests.servers import AzureServer, HttpServer, S3Server, free_port


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
    server: S3Server

    @pytest.fixture(autouse=True)
    def _server(self, moto_server: S3Server) -> None:
        self.server = moto_server

    async def make_store(self, tmp_path: Path) -> FsspecStore:
        url = f"s3://{self.server.create()}/some/prefix"
        return FsspecStore.from_url(url, storage_options=self.server.storage_options)


AZURE_NAMES = [
    name for name in ODD_NAMES if name not in (" leading and trailing ", "back\\slash", "new\nline")
]


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
class TestAzure(StoreConformance):
    capabilities = Capabilities(
        listable=True, ranges=True, versions=True, create_if_absent=True, server_copy=True
    )
    many_keys = 300
    mtime_granularity_ns = 10**9
    server: AzureServer

    @pytest.fixture(autouse=True)
    def _server(self, azurite_server: AzureServer) -> None:
        self.server = azurite_server

    async def make_store(self, tmp_path: Path) -> FsspecStore:
        url = f"az://{self.server.create()}/some/where"
        return FsspecStore.from_url(url, storage_options=self.server.storage_options)

    @pytest.mark.parametrize("name", AZURE_NAMES, ids=range(len(AZURE_NAMES)))
    async def test_odd_names(self, store: Store, name: str) -> None:
        """Others are taken and come back changed: by Azure (the backslash) or by adlfs."""
        await super().test_odd_names(store, name)

    async def test_lookup_of_both(self, store: Store) -> None:
        """Both can be read; adlfs lists but one of them."""
        await self.fill(store, {"a": b"x", "a/b": b"y"})
        assert (await store.get("a"))[0] == b"x"
        assert (await store.get("a/b"))[0] == b"y"
        assert set((await collect(store, recursive=True)).objects) == {"a", "a/b"}


# -- what a URL may be -----------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["s4://bucket", "zip::s4://bucket/x.zip", "s4::file:///x"])
def test_an_unknown_protocol_names_the_nearest(url: str) -> None:
    with pytest.raises(BadLocation, match=r"unknown protocol s4://: did you mean .*s3://"):
        FsspecStore.from_url(url)


@pytest.mark.parametrize(
    ("protocol", "package"),
    [("sftp", "paramiko"), ("smb", "smbprotocol"), ("oci", "ocifs")],
)
def test_a_missing_package_is_named(protocol: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {"smbprotocol": "smbclient"}.get(package, package)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"fsspec.implementations.{protocol}", raising=False)
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.setattr(registry, "_registry", {})
    monkeypatch.setattr(registry, "registry", registry._registry)
    with pytest.raises(BadLocation, match=f"pip install {package}"):
        FsspecStore.from_url(f"{protocol}://host/path")


async def test_options_that_cannot_be_used() -> None:
    store = FsspecStore.from_url("s3://bucket", storage_options={"key": "me", "username": "hidden-name"})
    with pytest.raises(BadLocation, match="either key or username"):
        await store.open()


async def test_no_secret_is_shown() -> None:
    secret = "swordfish"
    url = f"http://me:{secret}@127.0.0.1:1/data"
    store = FsspecStore.from_url(url, storage_options={"headers": {"X": secret}})
    with pytest.raises(Unavailable) as caught:
        await store.get("a")
    for text in (store.location, repr(store), str(caught.value)):
        assert secret not in text
    assert "127.0.0.1:1/data" in store.location
    await store.aclose()
    given = FsspecStore(fsspec.filesystem("http"), url)
    assert secret not in repr(given)


# -- what is there and what is not -------------------------------------------------------------------


async def test_open_needs_the_directory(tmp_path: Path) -> None:
    store = FsspecStore.from_url(f"file://{tmp_path}/missing")
    with pytest.raises(NotFound, match="no directory"):
        await store.open()
    with pytest.raises(NotFound, match="no directory"):
        await collect(store)


async def test_open_needs_the_bucket(moto_server: S3Server) -> None:
    options = moto_server.storage_options
    bucket = moto_server.create()
    async with FsspecStore.from_url(f"s3://{bucket}/nothing/here", storage_options=options) as store:
        assert await collect(store) == ({}, {})
    missing = FsspecStore.from_url("s3://there-is-no-such-bucket/x", storage_options=options)
    try:
        with pytest.raises(NotFound, match="there is no bucket 'there-is-no-such-bucket'"):
            await missing.open()
        for recursive in (False, True):
            with pytest.raises(NotFound, match="there is no bucket"):
                await collect(missing, recursive=recursive)
    finally:
        await missing.aclose()


async def test_unreachable_is_not_missing() -> None:
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{free_port()}"}
    options["config_kwargs"] = {"retries": {"max_attempts": 0}}
    store = FsspecStore.from_url("s3://bucket/x", storage_options=options)
    try:
        for ask in (
            store.head("a"),
            store.get("a"),
            store.lookup("a"),
            store.put("a", b""),
            store.delete("a"),
        ):
            with pytest.raises(Unavailable):
                await ask
        for recursive in (False, True):
            with pytest.raises(Unavailable):
                await collect(store, recursive=recursive)
    finally:
        await store.aclose()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError("Access Denied"), Denied),
        (FileNotFoundError("x"), NotFound),
        (NotADirectoryError(20, "x"), NotFound),
        (OSError(28, "No space left on device"), NoSpace),
        (OSError(30, "Read-only file system"), ReadOnly),
        (OSError(5, "Input/output error"), Unavailable),
        (OSError("no errno"), Unavailable),
        (TimeoutError(), Unavailable),
        (ConnectionResetError(104, "reset"), Unavailable),
        (NotImplementedError(), Unsupported),
        (zipfile.BadZipFile("x"), Corrupt),
        (ValueError("anything else"), Unavailable),
    ],
)
def test_errors_without_a_cause(error: Exception, kind: type[StoreError]) -> None:
    assert type(translate_error(error, "a")) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (403, Denied),
        (412, Precondition),
        (503, Unavailable),
        (429, Unavailable),
        (507, NoSpace),
    ],
)
def test_errors_with_an_http_status(status: int, kind: type[StoreError]) -> None:
    """Whatever is made of them on the way, the status of the answer decides."""
    answer = ClientError({"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {}}, "GetObject")
    for error in (answer, OSError(22, "x"), FileNotFoundError("x")):
        error.__cause__ = None if error is answer else answer
        assert type(translate_error(error, "a")) is kind


def test_not_found_because_not_reached() -> None:
    error = FileNotFoundError("http://host/a")
    error.__cause__ = ConnectionRefusedError(111, "refused")
    assert type(translate_error(error, "a")) is Unavailable
    error.__cause__ = KeyError("a")
    assert type(translate_error(error, "a")) is NotFound


def test_messages_hold_no_secrets() -> None:
    text = str(translate_error(OSError(5, "GET https://me:pw@host/a?sig=pw failed"), "a"))
    assert "pw" not in text
    assert "host/a" in text


# -- details of file systems -------------------------------------------------------------------------


async def test_directory_markers(moto_server: S3Server) -> None:
    """Empty objects whose name ends with a slash are shown as the prefixes that they stand for."""
    bucket = moto_server.create()
    async with FsspecStore.from_url(f"s3://{bucket}/d", storage_options=moto_server.storage_options) as store:
        raw = FsspecStore.from_url(f"s3://{bucket}", storage_options=moto_server.storage_options)
        fs, _ = await raw._calls.filesystem()
        for path in ("d/", "d/e/", "d/f/"):
            await raw._calls.await_on_loop(fs._pipe_file, f"{bucket}/{path}", b"")
        await store.put("f/a", b"x")
        listing = await collect(store)
        assert set(listing.prefixes) == {"e", "f"}
        assert not listing.objects
        assert set((await collect(store, "f")).objects) == {"f/a"}
        assert set((await collect(store, recursive=True)).objects) == {"f/a"}
        assert (await store.lookup("e")).prefix is not None
        await raw.aclose()


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_given_file_system_of_either_mode(moto_server: S3Server, asynchronous: bool) -> None:
    """Also one that caches its listings: the store shows none that is old."""
    fs = fsspec.filesystem(
        "s3", asynchronous=asynchronous, skip_instance_cache=True, **moto_server.storage_options
    )
    bucket = moto_server.create()
    store = FsspecStore(fs, f"{bucket}/data")
    other = FsspecStore.from_url(f"s3://{bucket}/data", storage_options=moto_server.storage_options)
    try:
        for number in range(3):
            await other.put(f"d/{number}", b"x" * number)
            assert set((await collect(store, "d")).objects) == {f"d/{n}" for n in range(number + 1)}
            await other.put("d/0", b"y" * number)
            assert (await store.head("d/0")).size == number
            assert len((await collect(store, recursive=True)).objects) == number + 1
        await other.delete("d/1")
        with pytest.raises(NotFound):
            await store.head("d/1")
    finally:
        await other.aclose()
        session = await store._calls.await_on_loop(fs.set_session)
        await store._calls.await_on_loop(session.close)


async def test_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"data")
    (tmp_path / "file").symlink_to("d/a")
    (tmp_path / "dir").symlink_to("d")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "d" / "circle").symlink_to("..")
    os.mkfifo(tmp_path / "fifo")
    store = FsspecStore.from_url(f"file://{tmp_path}")
    listing = await collect(store)
    assert {key: meta.size for key, meta in listing.objects.items()} == {"file": 4}
    assert set(listing.prefixes) == {"d", "dir"}
    assert set((await collect(store, recursive=True)).objects) == {"file", "d/a"}
    assert (await store.get("file"))[0] == b"data"
    with pytest.raises(NotFound):
        await store.head("fifo")


async def test_a_put_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = FsspecStore.from_url(f"file://{tmp_path}")
    await store.put("d/a", b"x")
    with pytest.raises(AlreadyExists):
        await store.put("d", b"y")
    with pytest.raises(AlreadyExists):
        await store.put("d/a", b"y", if_absent=True)
    with pytest.raises(AlreadyExists):
        await store.put("d/a/b", b"y")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "d"]


async def test_a_web_server_with_pages_of_links(web_server: HttpServer) -> None:
    address = web_server.create()
    root = web_server.root / address.rpartition("/")[2]
    (root / "d").mkdir()
    (root / "d" / "a b%?#c").write_bytes(b"data")
    (root / "index.html").write_text('<a href="../">up</a> <a href="?C=N">sort</a> <a href="d/">d/</a>')
    (root / "d" / "index.html").write_text('<a href="a%20b%25%3F%23c">a</a> <a href="gone">gone</a>')
    blind = FsspecStore.from_url(address)
    assert not blind.capabilities.listable
    assert blind.read_only
    assert not blind.with_read_only(False).capabilities.versions
    async with FsspecStore.from_url(f"{address}/", listing=True) as store:
        assert set((await collect(store)).prefixes) == {"d"}
        listing = await collect(store, "d")
        assert {key: meta.size for key, meta in listing.objects.items()} == {"d/a b%?#c": 4}
        assert (await store.get("d/a b%?#c"))[0] == b"data"
        assert await store.get_range("d/a b%?#c", 1, 3) == b"at"
        assert await store.get_range("d/a b%?#c", 10, 20) == b""
        with pytest.raises(NotFound):
            await store.get("d/missing")
        with pytest.raises(ReadOnly):
            await store.put("x", b"")


async def test_an_archive_in_a_chain(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a/zarr.json", "{}")
        archive.writestr("a/c/0", b"0123456789")
    async with FsspecStore.from_url(f"zip::file://{tmp_path}/data.zip") as store:
        assert store.read_only
        assert set((await collect(store)).prefixes) == {"a"}
        assert set((await collect(store, recursive=True)).objects) == {"a/zarr.json", "a/c/0"}
        assert (await store.get("a/c/0"))[0] == b"0123456789"
        assert await store.get_range("a/c/0", 3, 5) == b"34"
        meta = await store.head("a/zarr.json")
        assert (meta.size, meta.version) == (2, None)
        for ask in (store.get("a/c/1"), store.head("a/c"), store.get_range("b", 0, 1)):
            with pytest.raises(NotFound):
                await ask


async def test_kerchunk_references(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"0123456789")
    references = {"version": 1, "refs": {"a/zarr.json": "{}", "a/c/0": [f"file://{tmp_path}/raw", 2, 4]}}
    (tmp_path / "refs.json").write_text(json.dumps(references))
    options = {"fo": f"file://{tmp_path}/refs.json", "remote_protocol": "file"}
    async with FsspecStore.from_url("reference://", storage_options=options) as store:
        assert set((await collect(store, recursive=True)).objects) == {"a/zarr.json", "a/c/0"}
        assert (await store.get("a/c/0"))[0] == b"2345"
        assert await store.get_range("a/c/0", 1, 3) == b"34"
        assert (await store.head("a/zarr.json")).size == 2
        with pytest.raises(NotFound):
            await store.get("a/c/1")


async def test_a_cached_copy_has_no_version(moto_server: S3Server, tmp_path: Path) -> None:
    bucket = moto_server.create()
    options = moto_server.storage_options
    async with FsspecStore.from_url(f"s3://{bucket}", storage_options=options) as store:
        await store.put("d/a", b"data")
    chain = {"s3": options, "simplecache": {"cache_storage": str(tmp_path / "cache")}}
    async with FsspecStore.from_url(f"simplecache::s3://{bucket}", storage_options=chain) as cached:
        data, meta = await cached.get("d/a")
        assert (data, meta.version) == (b"data", None)
        assert cached.read_only
        assert set((await collect(cached, "d")).objects) == {"d/a"}


async def test_a_store_comes_back_from_its_recipe(tmp_path: Path) -> None:
    store = FsspecStore.from_url(f"file://{tmp_path}")
    await store.put("a", b"x")
    make, args = pickle.loads(pickle.dumps(store.recipe))
    assert (await make(*args).get("a"))[0] == b"x"
