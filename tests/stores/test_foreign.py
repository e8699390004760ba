"""zarr-python's stores as ours: the conformance kit over two of them, and unwrapping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy
import obstore.store
import pytest
import zarr
from zarr.storage import FsspecStore as ZarrFsspecStore
from zarr.storage import LocalStore as ZarrLocalStore
from zarr.storage import MemoryStore as ZarrMemoryStore
from zarr.storage import ObjectStore as ZarrObjectStore

from stores.base import Store
from stores.bridge import Bridge
from stores.errors import Denied, InvalidKey, NotFound, ReadOnly, Unavailable, Unsupported
from stores.filesystems import FsspecStore
from stores.foreign import ForeignStore, unwrap
from stores.local import LocalStore
from stores.memory import MemoryStore
from stores.meta import Capabilities
from stores.objects import ObjectStore
from stores.testing import ODD_NAMES, StoreConformance, collect
from stores.zarr_adapter import as_zarr_store

SHORT_NAMES = [name for name in ODD_NAMES if len(name.encode()) <= 200]


@pytest.fixture(autouse=True, scope="module")
def close_the_bridge() -> Iterator[None]:
    yield
    Bridge.shared().close()


class TestForeignLocal(StoreConformance):
    capabilities = Capabilities(listable=True, ranges=True)
    object_and_prefix = False
    many_keys = 500

    async def make_store(self, tmp_path: Path) -> ForeignStore:
        return ForeignStore(ZarrLocalStore(tmp_path / "data"))

    @pytest.mark.parametrize("name", SHORT_NAMES, ids=range(len(SHORT_NAMES)))
    async def test_odd_names(self, store: Store, name: str) -> None:
        await super().test_odd_names(store, name)

    async def test_long_names(self, store: Store) -> None:
        """zarr writes beside them a name that is longer still."""
        with pytest.raises(InvalidKey):
            await store.put("n" * 250, b"x")


class TestForeignMemory(StoreConformance):
    capabilities = Capabilities(listable=True, ranges=True)
    many_keys = 500

    async def make_store(self, tmp_path: Path) -> ForeignStore:
        return ForeignStore(ZarrMemoryStore())


# -- what is special to zarr's stores ----------------------------------------------------------------


async def test_deleting_a_prefix_deletes_nothing(tmp_path: Path) -> None:
    """LocalStore itself would delete all that is in the directory."""
    store = ForeignStore(ZarrLocalStore(tmp_path))
    await store.put("d/a", b"x")
    with pytest.raises(NotFound):
        await store.delete("d")
    assert (await store.get("d/a"))[0] == b"x"


async def test_read_only_as_the_zarr_store() -> None:
    zarr_store = ZarrMemoryStore(read_only=True)
    store = ForeignStore(zarr_store)
    assert store.read_only
    assert store.with_read_only(False).read_only
    with pytest.raises(ReadOnly):
        await store.put("a", b"x")
    assert ForeignStore(ZarrMemoryStore(), read_only=True).read_only


class Broken(ZarrMemoryStore):
    """Fails in ways that no family of errors knows."""

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the wheels came off")

    async def exists(self, key: str) -> bool:
        raise PermissionError(13, "not for you")


async def test_errors_of_unknown_kind_are_unavailable() -> None:
    store = ForeignStore(Broken())
    with pytest.raises(Unavailable, match="the wheels came off") as caught:
        await store.get("a")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert caught.value.key == "a"
    with pytest.raises(Denied):
        await store.head("a")


class Blind(ZarrMemoryStore):
    supports_listing = False
    supports_deletes = False
    supports_writes = False


async def test_what_the_zarr_store_lacks() -> None:
    store = ForeignStore(Blind())
    assert not store.capabilities.listable
    assert store.read_only
    with pytest.raises(Unsupported):
        await collect(store)
    with pytest.raises(NotFound):
        await store.lookup("a")


async def test_unwrap(tmp_path: Path) -> None:
    local = unwrap(ZarrLocalStore(tmp_path, read_only=True))
    assert isinstance(local, LocalStore)
    assert local.read_only
    assert local.location == str(tmp_path)
    s3 = fsspec.filesystem("s3", anon=True, asynchronous=True)
    over_s3 = unwrap(ZarrFsspecStore(s3, path="bucket/data"))
    assert isinstance(over_s3, FsspecStore)
    assert over_s3.location == "s3://bucket/data"
    over_obstore = unwrap(ZarrObjectStore(obstore.store.MemoryStore()))
    assert isinstance(over_obstore, ObjectStore)
    await over_obstore.put("a", b"x")
    assert unwrap(ZarrMemoryStore()) is None
    assert unwrap(LocalOfAnother(tmp_path)) is None


class LocalOfAnother(ZarrLocalStore):
    """A subclass may have changed what a key means."""


async def test_unwrapped_file_system_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"data")
    store = unwrap(ZarrFsspecStore.from_url(f"file://{tmp_path}"))
    assert store is not None
    assert (await store.get("d/a"))[0] == b"data"
    assert set((await collect(store, recursive=True)).objects) == {"d/a"}


# -- and back ----------------------------------------------------------------------------------------


def test_zarr_reads_and_writes_through_the_adapter() -> None:
    store = MemoryStore()
    adapter = as_zarr_store(store)
    group = zarr.create_group(adapter, attributes={"who": "me"})
    array = group.create_array("a", shape=(20, 20), chunks=(5, 5), dtype="i4")
    array[:] = numpy.arange(400).reshape(20, 20)
    array.append(numpy.zeros((5, 20), "i4"))
    again = zarr.open_group(as_zarr_store(store.with_read_only()), mode="r")
    assert again.attrs["who"] == "me"
    assert numpy.array_equal(again["a"][:20], numpy.arange(400).reshape(20, 20))
    assert [name for name, _ in again.members()] == ["a"]
    del group["a"]
    assert list(zarr.open_group(adapter).members()) == []


def test_there_and_back_is_the_same_store() -> None:
    zarr_store = ZarrMemoryStore()
    assert as_zarr_store(ForeignStore(zarr_store)) is zarr_store
    guarded = as_zarr_store(ForeignStore(zarr_store, read_only=True))
    assert guarded.read_only
    assert not zarr_store.read_only


def test_adapters_are_equal_where_their_stores_are(tmp_path: Path) -> None:
    one = MemoryStore()
    assert as_zarr_store(one) == as_zarr_store(one)
    assert as_zarr_store(one) != as_zarr_store(MemoryStore())
    assert as_zarr_store(one) != as_zarr_store(one.with_read_only())
    assert as_zarr_store(LocalStore(tmp_path)) == as_zarr_store(LocalStore(tmp_path))
    assert as_zarr_store(LocalStore(tmp_path)) != as_zarr_store(LocalStore(tmp_path / "d"))
    assert as_zarr_store(LocalStore(tmp_path)) != "a store"
