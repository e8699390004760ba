"""The conformance kit itself: a store that can do next to nothing passes, and broken stores do not."""

from __future__ import annotations

import dataclasses

import pytest

from stores.base import ObjectReader, Store
from stores.errors import AlreadyExists, NotFound, Precondition, StoreError, Unsupported
from stores.memory import MemoryStore
from stores.meta import Capabilities, ListPage, ObjectMeta, read_body
from stores.testing import StoreConformance


class MinimalStore(Store):
    """A dict, and none of the capabilities."""

    capabilities = Capabilities()
    location = "minimal://"

    def __init__(self):
        super().__init__()
        self.data = {}

    async def _get(self, key, if_version):
        if if_version is not None:
            raise Unsupported("no versions", key=key)
        if key not in self.data:
            raise NotFound("no such key", key=key)
        return self.data[key], ObjectMeta(key, len(self.data[key]))

    async def _head(self, key):
        return (await self._get(key, None))[1]

    async def _get_range(self, key, start, stop, if_version):
        return (await self._get(key, if_version))[0][start:stop]

    async def _put(self, key, body, if_absent, if_version, attributes):
        self.data[key] = bytes(read_body(body))
        return ObjectMeta(key, len(self.data[key]))

    async def _delete(self, key):
        self.data.pop(key, None)

    async def _list_dir(self, prefix):
        raise Unsupported("no listings", key=prefix)
        yield ListPage()

    _list_all = _list_dir


class TestMinimal(StoreConformance):
    capabilities = Capabilities()
    delete_tells = False

    async def make_store(self, tmp_path):
        return MinimalStore()


class Memory(StoreConformance):
    """Not collected; its tests are called one by one."""

    capabilities = MemoryStore.capabilities


class LateConditions(MemoryStore):
    """Checks, lets others run, and writes."""

    async def _put(self, key, body, if_absent, if_version, attributes):
        if if_absent and key in self.data:
            raise AlreadyExists("there", key=key)
        if if_version is not None and (await self.head(key)).version != if_version:
            raise Precondition("changed", key=key)
        return await super()._put(key, body, False, None, attributes)


class WeakVersions(MemoryStore):
    """Versions that tell the size only."""

    def __init__(self):
        super().__init__()
        see = self._objects._see

        def weak(key, data):
            seen = see(key, data)
            seen.meta = dataclasses.replace(seen.meta, version=str(len(data)))
            return seen

        self._objects._see = weak


class SiblingsMixed(MemoryStore):
    """Takes a prefix for the beginning of a name."""

    async def _list_all(self, prefix):
        yield ListPage(tuple([await self.head(key) for key in self.data if key.startswith(prefix)]))


class BareListings(MemoryStore):
    """Listings that tell no version."""

    async def _list_dir(self, prefix):
        pages = [page async for page in super()._list_dir(prefix)]
        for page in pages:
            bare = tuple(dataclasses.replace(meta, version=None) for meta in page.objects)
            yield dataclasses.replace(page, objects=bare)


class KeepsTheBuffer(MemoryStore):
    """Stores the caller's buffer."""

    async def _put(self, key, body, if_absent, if_version, attributes):
        meta = await super()._put(key, body, if_absent, if_version, attributes)
        if isinstance(body, bytearray):
            self._objects.data[key] = body
        return meta


class FromThePosition(MemoryStore):
    """Takes a file from where it stands."""

    async def _put(self, key, body, if_absent, if_version, attributes):
        data = body.read() if hasattr(body, "read") else body
        return await super()._put(key, data, if_absent, if_version, attributes)


class LongRanges(MemoryStore):
    """Gives one byte too many."""

    async def _get_range(self, key, start, stop, if_version):
        return await super()._get_range(key, start, stop + 1, if_version)


class DeafRanges(MemoryStore):
    """Does not look at the version."""

    async def _get_range(self, key, start, stop, if_version):
        return await super()._get_range(key, start, stop, None)


class FollowingReader(ObjectReader):
    def __init__(self, store, meta):
        self.store, self.meta = store, meta

    async def read(self, start, size):
        return await self.store.get_range(self.meta.key, start, start + size)


class FollowingReaders(MemoryStore):
    """Readers that go over to the next version."""

    async def _open_reader(self, key, if_version):
        await super()._open_reader(key, if_version)
        return FollowingReader(self, await self.head(key))


class CopyingRename(MemoryStore):
    """Forgets the source."""

    async def _rename(self, source, target, if_absent, exchange):
        await self._copy(source, target, if_absent)


class Unreachable(MemoryStore):
    """Takes any trouble for a missing key."""

    async def _delete(self, key):
        self.data.pop(key, None)


class UncheckedSync(MemoryStore):
    """Overrides a public method and forgets the key."""

    async def sync(self, path):
        pass


def declared(name):
    """A store that claims what it lacks, or denies what it has."""
    changed = not getattr(MemoryStore.capabilities, name)
    capabilities = dataclasses.replace(MemoryStore.capabilities, **{name: changed})
    return type(f"Wrong_{name}", (MemoryStore,), {"capabilities": capabilities})


@pytest.mark.parametrize(
    ("broken", "test", "arguments"),
    [
        (LateConditions, "test_one_create_wins", {}),
        (LateConditions, "test_one_replacement_wins", {}),
        (WeakVersions, "test_versions_change_with_the_bytes", {}),
        (WeakVersions, "test_put_gives_a_version_of_use", {}),
        (SiblingsMixed, "test_list_all", {}),
        (BareListings, "test_listings_tell_what_head_tells", {}),
        (KeepsTheBuffer, "test_a_body_that_changes_later", {}),
        (FromThePosition, "test_large_bodies", {}),
        (LongRanges, "test_ranges", {"start": 17, "stop": 300}),
        (DeafRanges, "test_versions", {}),
        (FollowingReaders, "test_reader_of_a_replaced_object", {}),
        (FollowingReaders, "test_reader_of_a_deleted_object", {}),
        (CopyingRename, "test_rename", {}),
        (Unreachable, "test_delete_what_is_not_there", {}),
        (UncheckedSync, "test_invalid_keys", {"key": "../a"}),
    ],
)
async def test_a_broken_store_fails(tmp_path, broken, test, arguments):
    if test == "test_large_bodies":
        arguments = {"tmp_path": tmp_path}
    for kind, passes in ((MemoryStore, True), (broken, False)):
        kit = Memory()
        store = kit._store = kind()
        if passes:
            await getattr(kit, test)(store=store, **arguments)
        else:
            with pytest.raises((AssertionError, StoreError, pytest.fail.Exception)):
                await getattr(kit, test)(store=store, **arguments)


PROOFS = {
    "listable": "test_list_dir",
    "versions": "test_versions",
    "create_if_absent": "test_put_if_absent",
    "replace_if_version": "test_put_if_version",
    "rename": "test_rename",
    "directories": "test_directories_are_kept",
    "posix": "test_symbolic_links",
    "snapshot_reads": "test_reader_of_a_replaced_object",
}


@pytest.mark.parametrize("name", PROOFS)
async def test_a_capability_that_is_declared_wrongly_fails(name):
    """Claimed by the test class and lacking in the store, and the other way round."""
    wrong = declared(name)
    if name in ("directories", "posix"):  # claimed, and not there
        store, capabilities = wrong(), wrong.capabilities
    else:  # there, and denied
        store, capabilities = MemoryStore(), wrong.capabilities
    kit = type("Kit", (Memory,), {"capabilities": capabilities})()
    kit._store = store
    with pytest.raises((AssertionError, StoreError, NotImplementedError, pytest.fail.Exception)):
        await getattr(kit, PROOFS[name])(store=store)


async def test_what_the_store_declares_is_compared():
    kit = type("Kit", (Memory,), {"capabilities": Capabilities()})()
    with pytest.raises(AssertionError):
        await kit.test_capabilities_are_as_stated(store=MemoryStore())
