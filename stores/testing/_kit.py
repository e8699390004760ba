"""What all tests of the kit share: the store under test, how it may differ, proofs of what it lacks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import anyio
import pytest

from stores.base import Store
from stores.errors import NotFound, Precondition, StoreError, Unsupported
from stores.meta import AttributeChange, Capabilities, ObjectMeta, PosixAttributes, PrefixMeta

__all__ = ["INVALID_KEYS", "ODD_NAMES", "Kit", "Listing", "assert_all_raise", "changes", "collect", "needs"]

StoreErrorT = TypeVar("StoreErrorT", bound=StoreError)

ODD_NAMES = (
    "with space",
    " leading and trailing ",
    "naïve-数据-🦓",
    "e\u0301",
    "percent%2Fslash",
    "100%",
    "a+b",
    "a#b",
    "a?b",
    "a&b=c",
    "a*b",
    "[a]",
    "~",
    "a:b",
    "back\\slash",
    "quote'\"",
    "new\nline",
    ".hidden",
    "...",
    "..a",
    "c.0.0",
    "n" * 255,
    "é" * 127,
)
"""Names that are legal and that careless code takes for something else."""

INVALID_KEYS = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/..",
    "a/../b",
    "a/./b",
    "a\0b",
    "a/\0",
    "n" * 256,
    "é" * 128,
    "a/" * 2048 + "b",
    "not-utf-8-\udcff",
)


class Listing(NamedTuple):
    """All pages of a listing together: keys to metas."""

    objects: dict[str, ObjectMeta]
    prefixes: dict[str, PrefixMeta]


async def collect(store: Store, prefix: str = "", *, recursive: bool = False) -> Listing:
    """Read ``list_dir`` (or ``list_all``) to its end; no object may come twice."""
    objects: dict[str, ObjectMeta] = {}
    prefixes: dict[str, PrefixMeta] = {}
    listing = store.list_all(prefix) if recursive else store.list_dir(prefix)
    async with aclosing(listing) as pages:
        async for page in pages:
            for meta in page.objects:
                assert meta.key not in objects, f"{meta.key!r} is listed twice"
                objects[meta.key] = meta
            prefixes.update({below.prefix: below for below in page.prefixes})
    return Listing(objects, prefixes)


def needs(capability: str) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Run a test where the store declares `capability`, else prove that the store lacks it."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(test)
        async def run(self: Kit, **fixtures: Any) -> None:
            if getattr(self.capabilities, capability):
                await test(self, **fixtures)
            else:
                await getattr(self, f"lacks_{capability}")(fixtures["store"])

        return run

    return decorate


def lasting(posix: PosixAttributes | None) -> PosixAttributes | None:
    """Leave out what changes by reading, or when the disk gets to it."""
    return None if posix is None else dataclasses.replace(posix, atime_ns=0, blocks=0)


async def assert_all_raise(
    error: type[StoreError], calls: Mapping[str, Callable[[], Awaitable[object]]]
) -> None:
    """Assert that every one of the named calls raises `error`."""
    for name, call in calls.items():
        try:
            await call()
        except error:
            continue
        pytest.fail(f"{name} did not raise {error.__name__}")


async def each_raises(error: type[StoreErrorT], *calls: Coroutine[Any, Any, object]) -> list[StoreErrorT]:
    """Assert that every one of the coroutines raises `error`; return what they raised."""
    raised = []
    try:
        for call in calls:
            with pytest.raises(error) as caught:
                await call
            raised.append(caught.value)
    finally:
        for call in calls:
            call.close()  # those that were not come to
    return raised


def changes(store: Store, key: str, other: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return every method that changes a store, by name, as calls on `key` (and `other`)."""
    return {
        "put": lambda: store.put(key, b"new"),
        "delete": lambda: store.delete(key),
        "copy": lambda: store.copy(key, other),
        "rename": lambda: store.rename(key, other),
        "make_dir": lambda: store.make_dir(key),
        "remove_dir": lambda: store.remove_dir(key),
        "rename_dir": lambda: store.rename_dir(key, other),
        "set_attributes": lambda: store.set_attributes(key, AttributeChange(mode=0o600)),
        "symlink": lambda: store.symlink("x", key),
        "link": lambda: store.link(key, other),
        "make_node": lambda: store.make_node(key, 0o010600),
    }


class Kit:
    """The store under test and how it may differ from others of its kind.

    Attributes
    ----------
    capabilities : Capabilities
        What the store must declare, stated literally.
    writable : bool
        False for kinds of stores that can never be written (`ReadOnlyStoreConformance`).
    object_and_prefix : bool
        False where an object and a prefix cannot have the same name (a disk).
    refused_names : mapping of str to str
        Those of `ODD_NAMES` that the backend cannot hold, each with the reason; a put of them must
        raise a StoreError.
    case_sensitive : bool
        False where ``a`` and ``A`` are one name.
    delete_tells : bool
        False where deleting what is not there is no error (object stores).
    rename_if_absent, rename_exchange : bool
        False where ``rename`` lacks the flag and raises Unsupported for it.
    mtime_granularity_ns : int
        How far the times told by ``head``, ``get`` and listings may lie apart.
    put_tells_mtime : bool
        False where the answer to a put has no time, and asking for it would cost a request.
    many_keys : int
        How many keys the test of long listings writes; more than two pages of the backend.
    """

    capabilities: ClassVar[Capabilities]
    writable: ClassVar[bool] = True
    object_and_prefix: ClassVar[bool] = True
    refused_names: ClassVar[Mapping[str, str]] = {}
    case_sensitive: ClassVar[bool] = True
    delete_tells: ClassVar[bool] = True
    rename_if_absent: ClassVar[bool] = True
    rename_exchange: ClassVar[bool] = True
    mtime_granularity_ns: ClassVar[int] = 1
    put_tells_mtime: ClassVar[bool] = True
    many_keys: ClassVar[int] = 2500

    _store: Store

    # -- what a backend fills in ---------------------------------------------------------------

    async def make_store(self, tmp_path: Path) -> Store:
        """Return a fresh and empty store, not yet opened."""
        raise NotImplementedError

    async def backdoor_put(self, key: str, data: bytes) -> None:
        """Set an object behind the store's back."""
        await self._store.with_read_only(read_only=False).put(key, data)

    async def backdoor_get(self, key: str) -> bytes:
        """Return an object behind the store's back."""
        data, _ = await self._store.with_read_only(read_only=False).get(key)
        return data

    async def backdoor_delete(self, key: str) -> None:
        """Delete an object behind the store's back."""
        await self._store.with_read_only(read_only=False).delete(key)

    async def transferred(self) -> int | None:
        """Return the bytes that the store has received so far, where the test can count them."""
        return None

    # -- what tests use ------------------------------------------------------------------------

    @pytest.fixture
    async def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
        """Return the store under test, opened; it is closed after the test."""
        kit = request.instance  # pytest-trio calls this on another instance than the test's
        assert isinstance(kit, Kit)
        store = kit._store = await kit.make_store(tmp_path)
        await store.open()
        try:
            yield store
        finally:
            await store.aclose()

    async def fill(self, store: Store, objects: Mapping[str, bytes]) -> None:
        """Put objects, 20 at a time; through the backdoor where the store cannot be written."""
        limiter = anyio.CapacityLimiter(20)

        async def one(key: str, data: bytes) -> None:
            async with limiter:
                if self.writable:
                    await store.put(key, data)
                else:
                    await self.backdoor_put(key, data)

        async with anyio.create_task_group() as group:
            for key, data in objects.items():
                group.start_soon(one, key, data)

    def assert_same_meta(self, told: ObjectMeta, known: ObjectMeta, *, by_put: bool = False) -> None:
        """Assert that two ways of asking gave the same meta."""
        assert (told.key, told.size, told.version) == (known.key, known.size, known.version)
        assert lasting(told.posix) == lasting(known.posix)
        if by_put and not self.put_tells_mtime:
            return
        assert (told.mtime_ns is None) == (known.mtime_ns is None)
        if told.mtime_ns is not None and known.mtime_ns is not None:
            assert abs(told.mtime_ns - known.mtime_ns) < self.mtime_granularity_ns

    # -- proofs that what is not declared is lacking ---------------------------------------------

    async def lacks_listable(self, store: Store) -> None:
        """Assert that listings raise Unsupported."""
        await self.fill(store, {"a/b": b"x"})
        for recursive in (False, True):
            with pytest.raises(Unsupported):
                await collect(store, recursive=recursive)

    async def lacks_ordered(self, store: Store) -> None:
        """Assert that a listing from somewhere raises Unsupported."""
        with pytest.raises(Unsupported):
            await anext(store.list_after("", "a"))

    async def lacks_versions(self, store: Store) -> None:
        """Assert that some meta has no version, and that no condition on one is ever met."""
        await self.fill(store, {"a": b"x"})
        meta = await store.head("a")
        _, got = await store.get("a")
        assert None in (meta.version, got.version)
        with pytest.raises((Precondition, Unsupported)):
            await store.get("a", if_version="no-such-version")
        with pytest.raises((Precondition, Unsupported)):
            await store.get_range("a", 0, 1, if_version="no-such-version")
        with pytest.raises((Precondition, Unsupported)):
            await store.open_reader("a", if_version="no-such-version")

    async def lacks_create_if_absent(self, store: Store) -> None:
        """Assert that the flag raises Unsupported and nothing is put."""
        with pytest.raises(Unsupported):
            await store.put("a", b"x", if_absent=True)
        with pytest.raises(NotFound):
            await store.head("a")

    async def lacks_replace_if_version(self, store: Store) -> None:
        """Assert that the condition raises Unsupported and nothing is replaced."""
        meta = await store.put("a", b"x")
        with pytest.raises(Unsupported):
            await store.put("a", b"y", if_version=meta.version or "v")
        assert await self.backdoor_get("a") == b"x"

    async def lacks_rename(self, store: Store) -> None:
        """Assert that renaming raises Unsupported and nothing moves."""
        await store.put("a", b"x")
        with pytest.raises(Unsupported):
            await store.rename("a", "b")
        assert await self.backdoor_get("a") == b"x"
        with pytest.raises(NotFound):
            await store.head("b")

    async def lacks_directories(self, store: Store) -> None:
        """Assert that everything about directories raises Unsupported."""
        await store.put("d/a", b"x")
        for name in ("make_dir", "remove_dir", "rename_dir"):
            with pytest.raises(Unsupported):
                await changes(store, "d", "e")[name]()
        assert await self.backdoor_get("d/a") == b"x"

    async def lacks_posix(self, store: Store) -> None:
        """Assert that everything of POSIX raises Unsupported, and no meta has attributes."""
        meta = await store.put("a", b"x", attributes=AttributeChange(mode=0o600))
        assert meta.posix is None
        assert (await store.head("a")).posix is None
        assert (await store.root()).posix is None
        for name in ("set_attributes", "symlink", "link", "make_node"):
            with pytest.raises(Unsupported):
                await changes(store, "a", "b")[name]()
        with pytest.raises(Unsupported):
            await store.read_link("a")
