"""Tests of reading: head, get, ranges, readers, lookups, versions."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from stores.base import Store
from stores.errors import InvalidKey, NotFound, Precondition, StoreError
from stores.meta import Usage
from stores.testing._kit import INVALID_KEYS, Kit, assert_all_raise, changes, collect, each_raises, needs

__all__ = ["ReadingTests"]

DATA = bytes(range(256)) * 4


class ReadingTests(Kit):
    """What a store tells and gives."""

    async def test_capabilities_are_as_stated(self, store: Store) -> None:
        """The declared capabilities are those that the test class states."""
        assert store.capabilities == type(self).capabilities

    async def test_location_and_repr(self, store: Store) -> None:
        """A store says where it is."""
        assert store.location
        assert store.location in repr(store)

    async def test_open_and_close_twice(self, store: Store) -> None:
        """Opening and closing again does nothing more."""
        await store.open()
        await self.fill(store, {"a": b"x"})
        assert (await store.get("a"))[0] == b"x"
        await store.aclose()
        await store.aclose()

    async def test_opened_by_its_first_use(self, tmp_path: Path) -> None:
        """A store that nobody opened answers all the same."""
        store = self._store = await self.make_store(tmp_path)
        try:
            with pytest.raises(NotFound):
                await store.head("a")
        finally:
            await store.aclose()

    def test_under_asyncio(self, tmp_path: Path) -> None:
        """All of it works on the other event loop as well."""

        async def use() -> None:
            async with await self.make_store(tmp_path) as store:
                self._store = store
                await self.fill(store, {"d/a": DATA, "d/b": b""})
                assert (await store.get("d/a"))[0] == DATA
                assert await store.get_range("d/a", 3, 9) == DATA[3:9]
                assert (await store.head("d/b")).size == 0
                reader = await store.open_reader("d/a")
                assert await reader.read(1000, 1000) == DATA[1000:]
                await reader.aclose()
                with pytest.raises(NotFound):
                    await store.get("d/c")
                if self.capabilities.listable:
                    assert set((await collect(store, "d")).objects) == {"d/a", "d/b"}

        anyio.run(use)

    async def test_get_and_head_tell_the_same(self, store: Store) -> None:
        """Bytes come back, with the meta that head gives."""
        await self.fill(store, {"a": DATA, "d/e/f": b"deep"})
        for key, data in (("a", DATA), ("d/e/f", b"deep")):
            got, meta = await store.get(key)
            assert isinstance(got, bytes)
            assert got == data
            assert meta.key == key
            assert meta.size == len(data)
            self.assert_same_meta(meta, await store.head(key))

    async def test_mtime_is_about_now(self, store: Store) -> None:
        """A time of modification, where there is one, is in nanoseconds since 1970."""
        await self.fill(store, {"a": b"x"})
        mtime = (await store.head("a")).mtime_ns
        assert mtime is None or abs(mtime - time.time_ns()) < 120 * 10**9

    async def test_empty_object(self, store: Store) -> None:
        """An object of no bytes is there, and every range of it is empty."""
        await self.fill(store, {"a": b""})
        data, meta = await store.get("a")
        assert (data, meta.size) == (b"", 0)
        assert await store.get_range("a", 0, 0) == b""
        assert await store.get_range("a", 0, 10) == b""
        assert await store.get_range("a", 5, 10) == b""
        reader = await store.open_reader("a")
        assert await reader.read(0, 10) == b""
        await reader.aclose()

    @pytest.mark.parametrize(
        ("start", "stop"),
        [
            (0, 1),
            (0, 1024),
            (1023, 1024),
            (17, 300),
            (0, 5000),
            (1000, 5000),
            (1024, 1025),
            (4000, 5000),
            (7, 7),
            (0, 2**40),
        ],
    )
    async def test_ranges(self, store: Store, start: int, stop: int) -> None:
        """A range is what a slice is, and short only at the end."""
        await self.fill(store, {"a": DATA})
        got = await store.get_range("a", start, stop)
        assert isinstance(got, bytes)
        assert got == DATA[start:stop]

    @pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (-3, -1)])
    async def test_what_is_no_range(self, store: Store, start: int, stop: int) -> None:
        """Other pairs of numbers are refused."""
        await self.fill(store, {"a": DATA})
        with pytest.raises(ValueError, match="not a range"):
            await store.get_range("a", start, stop)

    async def test_a_range_moves_about_its_bytes(self, store: Store) -> None:
        """Where the test can count, a range transfers the range or, undeclared, the whole."""
        size = 4 << 20
        await self.fill(store, {"a": bytes(size)})
        before = await self.transferred()
        assert await store.get_range("a", 1 << 20, (1 << 20) + 1000) == bytes(1000)
        after = await self.transferred()
        if before is not None and after is not None:
            assert (after - before < size // 4) == self.capabilities.ranges

    async def test_what_is_missing(self, store: Store) -> None:
        """Every way to read what is not there raises NotFound, with the key."""
        await self.fill(store, {"a": b"x"})
        for key in ("b", "d/e", "aa"):
            raised = await each_raises(
                NotFound,
                store.head(key),
                store.lookup(key),
                store.get(key),
                store.get_range(key, 0, 4),
                store.open_reader(key),
            )
            assert {error.key for error in raised} == {key}

    async def test_below_an_object_is_nothing(self, store: Store) -> None:
        """An object holds no keys."""
        await self.fill(store, {"a": b"x"})
        with pytest.raises(NotFound):
            await store.head("a/b")
        with pytest.raises(NotFound):
            await store.lookup("a/b")
        with pytest.raises(NotFound):
            await store.get("a/b")

    async def test_a_prefix_is_no_object(self, store: Store) -> None:
        """Reading a prefix as an object raises NotFound."""
        await self.fill(store, {"d/e/f": b"x"})
        for key in ("d", "d/e"):
            await each_raises(
                NotFound, store.head(key), store.get(key), store.get_range(key, 0, 4), store.open_reader(key)
            )

    async def test_lookup_of_an_object(self, store: Store) -> None:
        """A lookup finds an object, and no prefix of a like name."""
        await self.fill(store, {"d/a": DATA, "d/a.b/c": b"x", "d/ab/c": b"x"})
        found = await store.lookup("d/a")
        assert found.prefix is None
        assert found.object is not None
        self.assert_same_meta(found.object, await store.head("d/a"))

    async def test_lookups_without_waiting(self, store: Store) -> None:
        """What a store tells at once of a name, if it does, is what it tells who waits."""
        await self.fill(store, {"d/a": DATA})
        for path in ("d/a", *(["d"] if store.capabilities.listable else [])):
            told = store.lookup_now(path)
            assert told is None or told == await store.lookup(path)
        for path in ("none", "d/none", "d/a/none"):
            with suppress(NotFound):
                assert store.lookup_now(path) is None
        for key in INVALID_KEYS:
            with pytest.raises(InvalidKey):
                store.lookup_now(key)
            with pytest.raises(InvalidKey):
                store.open_reader_now(key)

    async def test_reading_without_waiting(self, store: Store) -> None:
        """What a store gives at once, if it does, is what it gives who waits."""
        await self.fill(store, {"d/a": DATA})
        meta = await store.head("d/a")
        now = store.open_reader_now("d/a", if_version=meta.version)
        for reader in (now, await store.open_reader("d/a")):
            if reader is None:
                continue
            self.assert_same_meta(reader.meta, meta)
            for start, size in ((0, len(DATA)), (3, 10), (len(DATA) - 3, 10), (len(DATA) + 3, 10)):
                assert reader.read_now(start, size) in (None, DATA[start : start + size])
            await reader.aclose()
        if store.capabilities.versions:
            with suppress(Precondition):
                assert store.open_reader_now("d/a", if_version="another") is None
        for key in ("none", "d"):
            with suppress(NotFound):
                assert store.open_reader_now(key) is None

    @needs("listable")
    async def test_lookup_of_a_prefix(self, store: Store) -> None:
        """A lookup finds a prefix."""
        await self.fill(store, {"d/e/f": b"x"})
        for path in ("d", "d/e"):
            found = await store.lookup(path)
            assert found.object is None
            assert found.prefix is not None
            assert found.prefix.prefix == path

    @needs("listable")
    async def test_lookup_of_both(self, store: Store) -> None:
        """An object and a prefix of one name stand side by side, or the second is refused."""
        await self.fill(store, {"a": b"x"})
        if self.object_and_prefix:
            await self.fill(store, {"a/b": b"y"})
            found = await store.lookup("a")
            assert found.object is not None
            assert found.prefix is not None
            assert (await store.get("a"))[0] == b"x"
            assert (await store.get("a/b"))[0] == b"y"
            assert set((await collect(store)).objects) == {"a"}
            assert set((await collect(store)).prefixes) == {"a"}
            assert set((await collect(store, recursive=True)).objects) == {"a", "a/b"}
            return
        with pytest.raises(StoreError):
            await store.put("a/b", b"y")
        assert (await store.get("a"))[0] == b"x"
        await store.put("d/e", b"x")
        with pytest.raises(StoreError):
            await store.put("d", b"y")
        assert (await store.get("d/e"))[0] == b"x"

    async def test_reader(self, store: Store) -> None:
        """A reader gives what slices give, to many tasks at once."""
        data = DATA * 100
        await self.fill(store, {"a": data})
        reader = await store.open_reader("a")
        self.assert_same_meta(reader.meta, await store.head("a"))

        async def check(start: int, size: int) -> None:
            got = await reader.read(start, size)
            assert isinstance(got, bytes)
            assert got == data[start : start + size]

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(check, number * 2047, 2048 + number)
        await check(len(data) - 5, 100)
        await check(len(data), 100)
        await check(len(data) + 100, 100)
        await check(0, 0)
        await check(0, 2 * len(data))
        await reader.aclose()
        await reader.aclose()

    @needs("versions")
    async def test_versions(self, store: Store) -> None:
        """A version lasts as long as the bytes, and conditions on it hold for every read."""
        await self.fill(store, {"a": b"old"})
        version = (await store.head("a")).version
        assert version
        assert (await store.head("a")).version == version
        assert (await store.get("a", if_version=version))[0] == b"old"
        assert await store.get_range("a", 1, 3, if_version=version) == b"ld"
        reader = await store.open_reader("a", if_version=version)
        assert await reader.read(0, 3) == b"old"
        assert reader.meta.version == version
        await reader.aclose()
        await self.backdoor_put("a", b"new!")
        raised = await each_raises(
            Precondition,
            store.get("a", if_version=version),
            store.get_range("a", 1, 3, if_version=version),
            store.open_reader("a", if_version=version),
        )
        assert {error.key for error in raised} == {"a"}
        assert (await store.get("a"))[0] == b"new!"

    @needs("versions")
    async def test_a_version_of_what_is_gone(self, store: Store) -> None:
        """A condition on a version of a missing object is NotFound."""
        await each_raises(
            NotFound,
            store.get("a", if_version="v"),
            store.get_range("a", 0, 1, if_version="v"),
            store.open_reader("a", if_version="v"),
        )

    @needs("versions")
    async def test_versions_change_with_the_bytes(self, store: Store) -> None:
        """Also when the size stays, and one change follows the other at once."""
        seen = set()
        for number in range(30):
            await self.backdoor_put("a", b"%04d" % number)
            data, meta = await store.get("a")
            assert data == b"%04d" % number
            seen.add(meta.version)
        assert None not in seen
        assert len(seen) == 30

    async def test_reader_of_a_replaced_object(self, store: Store) -> None:
        """A reader keeps to its version: it gives the old bytes, or says that they are gone."""
        await self.fill(store, {"a": b"old" * 1000})
        reader = await store.open_reader("a")
        await self.backdoor_put("a", b"new" * 1000)
        if self.capabilities.snapshot_reads:
            assert await reader.read(0, 3000) == b"old" * 1000
        elif self.capabilities.versions:
            with pytest.raises(Precondition):
                await reader.read(0, 3000)
        else:
            assert await reader.read(0, 3000) == b"new" * 1000
        await reader.aclose()

    async def test_reader_of_a_deleted_object(self, store: Store) -> None:
        """A reader outlives its object where that is declared, else it says NotFound."""
        await self.fill(store, {"a": b"old" * 1000})
        reader = await store.open_reader("a")
        await self.backdoor_delete("a")
        if self.capabilities.snapshot_reads:
            assert await reader.read(0, 3000) == b"old" * 1000
        else:
            with pytest.raises(NotFound):
                await reader.read(0, 3000)
        await reader.aclose()

    async def test_sees_what_others_do(self, store: Store) -> None:
        """What is put and deleted behind the store's back is seen."""
        await self.backdoor_put("a", b"x")
        assert (await store.get("a"))[0] == b"x"
        await self.backdoor_delete("a")
        with pytest.raises(NotFound):
            await store.head("a")

    @pytest.mark.parametrize("key", INVALID_KEYS, ids=range(len(INVALID_KEYS)))
    async def test_invalid_keys(self, store: Store, key: str) -> None:
        """What is no key is refused by every method, in every place."""
        asks = {f"{name} from": ask for name, ask in changes(store, key, "other").items()}
        for name in ("copy", "rename", "rename_dir", "link"):
            asks[f"{name} to"] = changes(store, "other", key)[name]
        asks |= {
            "head": lambda: store.head(key),
            "lookup": lambda: store.lookup(key),
            "get": lambda: store.get(key),
            "get_range": lambda: store.get_range(key, 0, 1),
            "empty range": lambda: store.get_range(key, 1, 1),
            "open_reader": lambda: store.open_reader(key),
            "read_link": lambda: store.read_link(key),
        }
        if key == "":
            del asks["set_attributes from"]  # there, and below, it means the root
        else:
            asks |= {
                "list_dir": lambda: collect(store, key),
                "list_all": lambda: collect(store, key, recursive=True),
                "sync": lambda: store.sync(key),
            }
        await assert_all_raise(InvalidKey, asks)

    async def test_usage_and_root(self, store: Store) -> None:
        """The room is told where there is a limit, and the root tells of itself."""
        usage = await store.usage()
        if usage is not None:
            assert isinstance(usage, Usage)
            assert 0 <= usage.available_bytes <= usage.total_bytes
            assert 0 <= usage.free_bytes <= usage.total_bytes
            assert 0 <= usage.free_files <= usage.total_files
        root = await store.root()
        assert root.prefix == ""
        assert (root.posix is not None) == self.capabilities.posix
