"""The memory store: the contract, and what becomes of a dict that others change."""

from __future__ import annotations

import pytest

from stores.errors import NotFound, Precondition
from stores.memory import MemoryStore
from stores.meta import Capabilities
from stores.testing import ReadOnlyStoreConformance, StoreConformance

CAPABILITIES = Capabilities(
    listable=True,
    ranges=True,
    versions=True,
    create_if_absent=True,
    replace_if_version=True,
    rename=True,
    server_copy=True,
    directories=False,
    posix=False,
    snapshot_reads=True,
)


class TestMemory(StoreConformance):
    capabilities = CAPABILITIES

    async def make_store(self, tmp_path):
        self.data = {}
        return MemoryStore(self.data)

    async def backdoor_put(self, key, data):
        self.data[key] = data

    async def backdoor_get(self, key):
        return self.data[key]

    async def backdoor_delete(self, key):
        del self.data[key]


class TestMemoryReadOnly(ReadOnlyStoreConformance):
    capabilities = CAPABILITIES

    async def make_store(self, tmp_path):
        self.data = {}
        return MemoryStore(self.data, read_only=True)

    async def backdoor_put(self, key, data):
        self.data[key] = data

    async def backdoor_delete(self, key):
        del self.data[key]


async def test_a_dict_that_others_change():
    data = {"a": b"x" * 1000}
    store = MemoryStore(data)
    assert store.data is data
    first = await store.head("a")
    assert await store.head("a") == first
    data["a"] = bytes(bytearray(b"x" * 1000))  # the same bytes in another object: the same version
    assert await store.head("a") == first
    data["a"] = b"y" * 1000
    second = await store.head("a")
    assert second.version != first.version
    with pytest.raises(Precondition):
        await store.put("a", b"z", if_version=first.version)
    del data["a"]
    with pytest.raises(NotFound):
        await store.get("a")
    data["a"] = b"y" * 1000
    assert (await store.head("a")).version not in (first.version, second.version)


async def test_a_change_that_undoes_itself_unseen_is_no_change():
    data = {"a": b"x"}
    store = MemoryStore(data)
    first = await store.head("a")
    data["a"] = b"y"
    data["a"] = b"x"
    assert (await store.get("a", if_version=first.version))[0] == b"x"


async def test_stores_of_one_name_share_their_objects(monkeypatch):
    monkeypatch.setattr(MemoryStore, "_registry", {})
    one, other, third = MemoryStore.named("n"), MemoryStore.named("n"), MemoryStore.named("m")
    meta = await one.put("a", b"x")
    assert await other.head("a") == meta
    with pytest.raises(NotFound):
        await third.head("a")
    assert one.location == "memory://n"
    assert MemoryStore().location == "memory://"
    assert MemoryStore.named("n", read_only=True).read_only


async def test_the_put_bytes_are_in_the_dict():
    data = {}
    await MemoryStore(data).put("d/a", bytearray(b"x"))
    assert data == {"d/a": b"x"}
    assert type(data["d/a"]) is bytes
