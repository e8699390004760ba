"""Tests of listings."""

from __future__ import annotations

import pytest

from stores.base import Store
from stores.errors import NotFound, StoreError
from stores.testing._kit import ODD_NAMES, Kit, collect, needs

__all__ = ["ListingTests"]

TREE = (
    "top",
    "a/x",
    "a/y/z",
    "a/y/zz",
    "a/y/deep/er/still",
    "a.b/x",
    "ab/x",
    "a-b",
    "a!",
    "b/a/x",
)


class ListingTests(Kit):
    """What ``list_dir`` and ``list_all`` show."""

    @needs("listable")
    async def test_list_dir(self, store: Store) -> None:
        """Every level shows its objects and prefixes, and nothing of a sibling of a like name."""
        await self.fill(store, {key: key.encode() for key in TREE})
        for prefix, objects, prefixes in (
            ("", {"top", "a-b", "a!"}, {"a", "a.b", "ab", "b"}),
            ("a", {"a/x"}, {"a/y"}),
            ("a/y", {"a/y/z", "a/y/zz"}, {"a/y/deep"}),
            ("a/y/deep", set(), {"a/y/deep/er"}),
            ("a.b", {"a.b/x"}, set()),
            ("b", set(), {"b/a"}),
        ):
            listing = await collect(store, prefix)
            assert set(listing.objects) == objects
            assert set(listing.prefixes) == prefixes

    @needs("listable")
    async def test_list_all(self, store: Store) -> None:
        """All objects at any depth, and no prefixes."""
        await self.fill(store, {key: key.encode() for key in TREE})
        for prefix in ("", "a", "a/y", "a.b", "b", "a/y/deep/er"):
            listing = await collect(store, prefix, recursive=True)
            below = {key for key in TREE if prefix == "" or key.startswith(prefix + "/")}
            assert set(listing.objects) == below
            assert not listing.prefixes

    @needs("ordered")
    async def test_list_after(self, store: Store) -> None:
        """All objects below a prefix in the order of their keys, from anywhere; or it is refused."""
        await self.fill(store, {key: key.encode() for key in TREE})
        for prefix, after in (("", ""), ("", "a.b"), ("a", "a/x"), ("a", "a/y"), ("a", "b"), ("b", "")):
            pages = [page async for page in store.list_after(prefix, after)]
            keys = [meta.key for page in pages for meta in page.objects]
            below = sorted(key for key in TREE if not prefix or key.startswith(prefix + "/"))
            assert keys == [key for key in below if key > after]
            assert all(page.asked_alone and not page.prefixes for page in pages)

    @needs("listable")
    async def test_what_holds_nothing(self, store: Store) -> None:
        """A store, a prefix or a mere object that holds nothing lists nothing."""
        assert await collect(store) == ({}, {})
        assert await collect(store, recursive=True) == ({}, {})
        await self.fill(store, {"a/b": b"x", "ab": b"x"})
        for prefix in ("missing", "a/missing", "a/b", "ab", "a/b/c"):
            assert await collect(store, prefix) == ({}, {})
            assert await collect(store, prefix, recursive=True) == ({}, {})

    @needs("listable")
    async def test_listings_tell_what_head_tells(self, store: Store) -> None:
        """Size, time, version and attributes come with a listing."""
        await self.fill(store, {"d/a": b"", "d/b": b"x" * 1000, "d/e/f": b"y"})
        for recursive in (False, True):
            listing = await collect(store, "d", recursive=recursive)
            assert listing.objects["d/b"].size == 1000
            for key, meta in listing.objects.items():
                self.assert_same_meta(meta, await store.head(key))

    @needs("listable")
    async def test_a_listing_sees_what_was_put_before_it(self, store: Store) -> None:
        """No listing is older than the call, in any detail."""
        for number in range(5):
            await self.backdoor_put(f"d/{number}", b"x" * number)
            await self.backdoor_put("d/same", b"y" * number)
            listing = await collect(store, "d")
            assert set(listing.objects) == {f"d/{n}" for n in range(number + 1)} | {"d/same"}
            assert listing.objects["d/same"].size == number
        await self.backdoor_delete("d/0")
        assert "d/0" not in (await collect(store, "d")).objects
        assert "d/0" not in (await collect(store, "d", recursive=True)).objects

    @needs("listable")
    async def test_the_last_object_of_a_prefix(self, store: Store) -> None:
        """A prefix goes with its last object, unless directories are kept."""
        await self.fill(store, {"d/e/a": b"x"})
        await self.backdoor_delete("d/e/a")
        kept = self.capabilities.directories
        assert set((await collect(store)).prefixes) == ({"d"} if kept else set())
        if kept:
            found = await store.lookup("d/e")
            assert found.prefix is not None
        else:
            with pytest.raises(NotFound):
                await store.lookup("d/e")

    @needs("listable")
    async def test_many_keys(self, store: Store) -> None:
        """Long listings come whole, each key once."""
        keys = {f"d/c.{number}" for number in range(self.many_keys)}
        await self.fill(store, dict.fromkeys(keys, b"x") | {"d/z/1": b"x", "e": b"x"})
        assert set((await collect(store, "d")).objects) == keys
        assert set((await collect(store, recursive=True)).objects) == keys | {"d/z/1", "e"}

    @needs("listable")
    async def test_many_prefixes(self, store: Store) -> None:
        """Long listings of prefixes come whole."""
        names = {f"d/{number}" for number in range(300)}
        await self.fill(store, {f"{name}/x": b"x" for name in names})
        listing = await collect(store, "d")
        assert set(listing.prefixes) == names
        assert not listing.objects

    @needs("listable")
    async def test_a_listing_that_is_not_read_to_its_end(self, store: Store) -> None:
        """A generator can be closed early; the store goes on working."""
        await self.fill(store, {f"d/{number}": b"x" for number in range(5)})
        for listing in (store.list_dir("d"), store.list_all("d"), store.list_dir("d")):
            page = await anext(listing)
            assert page.objects
            await listing.aclose()
        await store.list_dir("d").aclose()
        assert len((await collect(store, "d")).objects) == 5

    @pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
    async def test_odd_names(self, store: Store, name: str) -> None:
        """A legal name is taken literally, as an object and as a prefix."""
        keys = {f"d/{name}", f"p/{name}/below", name}
        if name in self.refused_names:
            for key in keys:
                with pytest.raises(StoreError):
                    await store.put(key, b"x")
            return
        await self.fill(store, {key: key.encode() for key in keys})
        await self.fill(store, {"d/other": b"", "p/other/below": b""})
        for key in keys:
            data, meta = await store.get(key)
            assert data == key.encode()
            assert meta.key == key
            assert await self.backdoor_get(key) == key.encode()
            assert (await store.head(key)).key == key
            assert await store.get_range(key, 0, 2) == key.encode()[:2]
        if self.capabilities.listable:
            assert set((await collect(store, "d")).objects) == {f"d/{name}", "d/other"}
            assert set((await collect(store, "p")).prefixes) == {f"p/{name}", "p/other"}
            assert set((await collect(store, f"p/{name}")).objects) == {f"p/{name}/below"}
            everything = set((await collect(store, recursive=True)).objects)
            assert everything == keys | {"d/other", "p/other/below"}
        for key in keys:
            await self.backdoor_delete(key)
            with pytest.raises(NotFound):
                await store.head(key)

    async def test_case_of_letters(self, store: Store) -> None:
        """Names that differ in case are two, or the backend says that they are one."""
        await self.fill(store, {"d/a": b"small"})
        await self.fill(store, {"d/A": b"LARGE"})
        assert (await store.get("d/A"))[0] == b"LARGE"
        assert (await store.get("d/a"))[0] == (b"small" if self.case_sensitive else b"LARGE")
