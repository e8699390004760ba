"""Tests of copy, rename and directories."""

from __future__ import annotations

import errno

import pytest

from stores.base import Store
from stores.errors import AlreadyExists, NotFound, StoreError, Unsupported
from stores.testing._kit import Kit, collect, each_raises, needs

__all__ = ["TreeTests"]


class TreeTests(Kit):
    """What moves and copies objects, and what makes and moves directories."""

    # -- copy ------------------------------------------------------------------------------------

    async def test_copy(self, store: Store) -> None:
        """A copy is an object of its own, in a prefix that may be new."""
        await store.put("a", b"bytes")
        await store.put("old", b"replaced")
        for target in ("b", "new/deep/b", "old"):
            meta = await store.copy("a", target)
            assert meta.key == target
            self.assert_same_meta(meta, await store.head(target), by_put=True)
            assert (await store.get(target))[0] == b"bytes"
        await store.put("a", b"other")
        assert (await store.get("b"))[0] == b"bytes"

    async def test_copy_of_several_mib(self, store: Store) -> None:
        """Size does not matter to a copy."""
        data = bytes(range(256)) * (5 << 12)
        await store.put("a", data)
        meta = await store.copy("a", "b")
        assert meta.size == len(data)
        assert (await store.get("b"))[0] == data

    async def test_copy_of_what_is_missing(self, store: Store) -> None:
        """Nothing comes of nothing, and a prefix is no object."""
        await store.put("d/a", b"x")
        for source in ("missing", "d"):
            with pytest.raises(NotFound):
                await store.copy(source, "b")
            with pytest.raises(NotFound):
                await store.head("b")

    @needs("create_if_absent")
    async def test_copy_if_absent(self, store: Store) -> None:
        """A copy can be told to replace nothing."""
        await store.put("a", b"new")
        await store.put("b", b"old")
        with pytest.raises(AlreadyExists):
            await store.copy("a", "b", if_absent=True)
        assert (await store.get("b"))[0] == b"old"
        await store.copy("a", "c", if_absent=True)
        assert (await store.get("c"))[0] == b"new"

    async def test_a_server_copy_moves_no_bytes(self, store: Store) -> None:
        """Where the test can count, a copy transfers the object just where that is undeclared."""
        size = 4 << 20
        await store.put("a", bytes(size))
        before = await self.transferred()
        await store.copy("a", "b")
        after = await self.transferred()
        if before is not None and after is not None:
            assert (after - before < size // 4) == self.capabilities.server_copy

    # -- rename ----------------------------------------------------------------------------------

    @needs("rename")
    async def test_rename(self, store: Store) -> None:
        """An object moves to a name that is free, taken, or in a new prefix."""
        await store.put("taken", b"old")
        source = "a"
        await store.put(source, b"bytes")
        for target in ("b", "taken", "new/deep/c"):
            await store.rename(source, target)
            with pytest.raises(NotFound):
                await store.head(source)
            assert (await store.get(target))[0] == b"bytes"
            source = target

    @needs("rename")
    async def test_rename_to_itself(self, store: Store) -> None:
        """That changes nothing."""
        await store.put("a", b"x")
        await store.rename("a", "a")
        assert (await store.get("a"))[0] == b"x"

    @needs("rename")
    async def test_rename_of_what_is_missing(self, store: Store) -> None:
        """It raises NotFound and leaves the target alone."""
        await store.put("b", b"x")
        with pytest.raises(NotFound):
            await store.rename("a", "b")
        with pytest.raises(NotFound):
            await store.rename("a", "c")
        assert (await store.get("b"))[0] == b"x"

    @needs("rename")
    async def test_rename_if_absent(self, store: Store) -> None:
        """A rename can be told to replace nothing."""
        await store.put("a", b"a")
        await store.put("b", b"b")
        if not self.rename_if_absent:
            with pytest.raises(Unsupported):
                await store.rename("a", "c", if_absent=True)
            assert (await store.get("a"))[0] == b"a"
            return
        with pytest.raises(AlreadyExists):
            await store.rename("a", "b", if_absent=True)
        assert (await store.get("a"))[0] == b"a"
        assert (await store.get("b"))[0] == b"b"
        await store.rename("a", "d/c", if_absent=True)
        assert (await store.get("d/c"))[0] == b"a"

    @needs("rename")
    async def test_rename_exchange(self, store: Store) -> None:
        """Two objects can change places, if both are there."""
        await store.put("a", b"a")
        await store.put("d/b", b"b")
        if not self.rename_exchange:
            with pytest.raises(Unsupported):
                await store.rename("a", "d/b", exchange=True)
        else:
            with pytest.raises(NotFound):
                await store.rename("a", "missing", exchange=True)
            await store.rename("d/b", "a", exchange=True)
            await store.rename("a", "d/b", exchange=True)
            await store.rename("a", "d/b", exchange=True)
        swapped = self.rename_exchange
        assert (await store.get("a"))[0] == (b"b" if swapped else b"a")
        assert (await store.get("d/b"))[0] == (b"a" if swapped else b"b")

    # -- directories -----------------------------------------------------------------------------

    @needs("directories")
    async def test_directories_are_kept(self, store: Store) -> None:
        """An empty directory is a prefix: listed, looked up, removed."""
        meta = await store.make_dir("d")
        assert meta.prefix == "d"
        await store.make_dir("d/e")
        assert set((await collect(store)).prefixes) == {"d"}
        assert set((await collect(store, "d")).prefixes) == {"d/e"}
        assert await collect(store, "d/e") == ({}, {})
        assert await collect(store, recursive=True) == ({}, {})
        found = await store.lookup("d/e")
        assert found.object is None
        assert found.prefix is not None
        with pytest.raises(NotFound):
            await store.head("d")
        await store.put("d/e/a", b"x")
        await store.delete("d/e/a")
        await store.remove_dir("d/e")
        with pytest.raises(NotFound):
            await store.lookup("d/e")
        assert set((await collect(store)).prefixes) == {"d"}

    @needs("directories")
    async def test_make_dir_where_something_is(self, store: Store) -> None:
        """It raises AlreadyExists."""
        await store.put("a", b"x")
        await store.put("d/a", b"x")
        for path in ("a", "d"):
            with pytest.raises(AlreadyExists) as caught:
                await store.make_dir(path)
            assert caught.value.key == path

    @needs("directories")
    async def test_remove_dir_refusals(self, store: Store) -> None:
        """A directory that holds anything, a file and nothing are not removed."""
        await store.put("d/a", b"x")
        with pytest.raises(StoreError) as caught:
            await store.remove_dir("d")
        assert caught.value.os_errno == errno.ENOTEMPTY
        with pytest.raises(StoreError) as caught:
            await store.remove_dir("d/a")
        assert caught.value.os_errno == errno.ENOTDIR
        with pytest.raises(NotFound):
            await store.remove_dir("missing")
        assert (await store.get("d/a"))[0] == b"x"

    @needs("directories")
    async def test_files_and_directories_do_not_replace_one_another(self, store: Store) -> None:
        """A put, a delete or a rename of the wrong kind changes nothing."""
        await store.make_dir("d")
        await store.put("a", b"x")
        await each_raises(
            StoreError,
            store.put("d", b"y"),
            store.put("a/b", b"y"),
            store.delete("d"),
            store.copy("a", "d"),
            store.rename("a", "d"),
            store.rename_dir("d", "a"),
            store.make_dir("a/b"),
        )
        with pytest.raises(AlreadyExists):
            await store.put("d", b"y", if_absent=True)
        assert (await store.get("a"))[0] == b"x"
        assert set((await collect(store)).prefixes) == {"d"}
        assert await collect(store, "d") == ({}, {})

    @needs("directories")
    async def test_rename_dir(self, store: Store) -> None:
        """A directory moves with all it holds; only an empty one is replaced."""
        await store.put("d/e/a", b"x")
        await store.make_dir("empty")
        await store.put("full/a", b"y")
        await store.rename_dir("d", "empty")
        assert (await store.get("empty/e/a"))[0] == b"x"
        with pytest.raises(NotFound):
            await store.lookup("d")
        with pytest.raises(StoreError) as caught:
            await store.rename_dir("empty", "full")
        assert caught.value.os_errno in (errno.ENOTEMPTY, errno.EEXIST)
        with pytest.raises(StoreError):
            await store.rename_dir("empty", "empty/e/below-itself")
        with pytest.raises(NotFound):
            await store.rename_dir("missing", "other")
        assert (await store.get("empty/e/a"))[0] == b"x"
        assert (await store.get("full/a"))[0] == b"y"

    @needs("directories")
    async def test_rename_dir_flags(self, store: Store) -> None:
        """Directories move if absent and change places as objects do."""
        await store.put("d/a", b"d")
        await store.put("e/a", b"e")
        await store.make_dir("empty")
        for target in ("e", "empty"):
            with pytest.raises(AlreadyExists):
                await store.rename_dir("d", target, if_absent=True)
        await store.rename_dir("d", "e", exchange=True)
        assert (await store.get("d/a"))[0] == b"e"
        assert (await store.get("e/a"))[0] == b"d"
        await store.rename_dir("e", "f", if_absent=True)
        assert (await store.get("f/a"))[0] == b"d"
        with pytest.raises(NotFound):
            await store.rename_dir("f", "missing", exchange=True)

    async def test_sync(self, store: Store) -> None:
        """What is there can be made to last."""
        await store.put("d/a", b"x")
        for path in ("d/a", "d", ""):
            await store.sync(path)
