"""Tests of what only real file systems have: modes, owners, times, links, nodes."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from stores.base import Store
from stores.errors import AlreadyExists, NotFound, StoreError
from stores.meta import AttributeChange, Lookup, PosixAttributes
from stores.testing._kit import Kit, collect, each_raises, needs

__all__ = ["PosixTests"]

TIME = 1_600_000_000_123_456_789


async def attributes_of(store: Store, key: str) -> PosixAttributes:
    """Return the attributes of an object, which must have some."""
    posix = (await store.head(key)).posix
    assert posix is not None
    return posix


class PosixTests(Kit):
    """Attributes and special files, or their absence."""

    @needs("posix")
    async def test_attributes_are_told(self, store: Store) -> None:
        """Objects and prefixes tell their kind, owner and times, wherever they are told of."""
        await store.put("d/a", b"x" * 5000)
        posix = await attributes_of(store, "d/a")
        assert stat.S_ISREG(posix.mode)
        assert (posix.uid, posix.gid, posix.nlink) == (os.getuid(), os.getgid(), 1)
        assert posix.ctime_ns > 0
        assert posix.atime_ns > 0
        listing = await collect(store)
        found = await store.lookup("d")
        assert found.prefix == listing.prefixes["d"]
        for prefix in (found.prefix, await store.root()):
            assert prefix is not None
            assert prefix.posix is not None
            assert stat.S_ISDIR(prefix.posix.mode)
            assert prefix.mtime_ns is not None

    @needs("posix")
    async def test_set_attributes(self, store: Store) -> None:
        """Each attribute changes alone, of files, of directories and of the root."""
        await store.put("d/a", b"x")
        for path in ("d/a", "d", ""):
            await store.set_attributes(path, AttributeChange(mode=0o750))
            await store.set_attributes(path, AttributeChange(mtime_ns=TIME))
            await store.set_attributes(path, AttributeChange(atime_ns=TIME + 1))
            await store.set_attributes(path, AttributeChange(uid=os.getuid()))
            await store.set_attributes(path, AttributeChange(gid=os.getgid()))
            await store.set_attributes(path, AttributeChange())
            found = Lookup(prefix=await store.root()) if path == "" else await store.lookup(path)
            meta = found.object or found.prefix
            assert meta is not None
            posix = meta.posix
            assert posix is not None
            assert posix.mode & 0o7777 == 0o750
            assert meta.mtime_ns == TIME
            assert posix.atime_ns == TIME + 1
        with pytest.raises(NotFound):
            await store.set_attributes("missing", AttributeChange(mode=0o600))
        assert (await store.get("d/a"))[0] == b"x"

    @needs("posix")
    async def test_a_replaced_file_keeps_its_mode(self, store: Store) -> None:
        """A put changes the bytes, and of the attributes only those it is given."""
        await store.put("a", b"x", attributes=AttributeChange(mode=0o640))
        meta = await store.put("a", b"y")
        assert meta.posix is not None
        assert meta.posix.mode & 0o7777 == 0o640
        await store.put("a", b"z", attributes=AttributeChange(mode=0o600))
        assert (await attributes_of(store, "a")).mode & 0o7777 == 0o600

    @needs("posix")
    async def test_symbolic_links(self, store: Store) -> None:
        """A link is an object that holds a text; reading it gives what it points to."""
        await store.put("d/a", b"bytes")
        meta = await store.symlink("d/a", "link")
        assert meta.posix is not None
        assert stat.S_ISLNK(meta.posix.mode)
        assert meta == await store.head("link")
        assert meta == (await collect(store)).objects["link"]
        assert meta == (await store.lookup("link")).object
        assert await store.read_link("link") == "d/a"
        assert (await store.get("link"))[0] == b"bytes"
        await store.symlink("../nowhere", "d/dangling")
        assert await store.read_link("d/dangling") == "../nowhere"
        with pytest.raises(NotFound):
            await store.get("d/dangling")
        with pytest.raises(AlreadyExists):
            await store.symlink("x", "d/a")
        with pytest.raises(StoreError) as caught:
            await store.read_link("d/a")
        assert caught.value.os_errno == errno.EINVAL
        with pytest.raises(NotFound):
            await store.read_link("missing")
        await store.rename("link", "moved")
        assert await store.read_link("moved") == "d/a"
        await store.delete("moved")
        assert (await store.get("d/a"))[0] == b"bytes"

    @needs("posix")
    async def test_a_link_to_a_directory_is_not_entered_by_list_all(self, store: Store) -> None:
        """It shows as one object, so that no listing runs in circles."""
        await store.put("d/a", b"x")
        await store.symlink("..", "d/up")
        assert set((await collect(store, recursive=True)).objects) == {"d/a", "d/up"}
        listing = await collect(store, "d")
        assert set(listing.objects) == {"d/a", "d/up"}
        assert not listing.prefixes

    @needs("posix")
    async def test_hard_links(self, store: Store) -> None:
        """Two keys of one file; a put through one leaves the other alone."""
        await store.put("a", b"x")
        meta = await store.link("a", "d/b")
        assert meta.key == "d/b"
        assert meta.posix is not None
        assert meta.posix.nlink == 2
        assert (await attributes_of(store, "a")).nlink == 2
        assert (await store.get("d/b"))[0] == b"x"
        with pytest.raises(AlreadyExists):
            await store.link("a", "d/b")
        with pytest.raises(NotFound):
            await store.link("missing", "c")
        await store.put("a", b"y")
        assert (await store.get("d/b"))[0] == b"x"
        await store.delete("a")
        assert (await store.get("d/b"))[0] == b"x"

    @needs("posix")
    async def test_nodes(self, store: Store) -> None:
        """A FIFO and a socket are objects, and reading them is refused, at once."""
        for name, kind in (("fifo", stat.S_IFIFO), ("socket", stat.S_IFSOCK)):
            meta = await store.make_node(name, kind | 0o600)
            assert meta.posix is not None
            assert stat.S_IFMT(meta.posix.mode) == kind
            assert meta == await store.head(name)
            assert name in (await collect(store)).objects
            await each_raises(
                StoreError, store.get(name), store.get_range(name, 0, 1), store.open_reader(name)
            )
            with pytest.raises(AlreadyExists):
                await store.make_node(name, kind | 0o600)
            await store.delete(name)
            with pytest.raises(NotFound):
                await store.head(name)

    @needs("posix")
    async def test_attributes_of_a_link_are_its_own(self, store: Store) -> None:
        """Times are set on the link, not on what it points to."""
        await store.put("a", b"x", attributes=AttributeChange(mtime_ns=TIME))
        await store.symlink("a", "link")
        await store.set_attributes("link", AttributeChange(mtime_ns=TIME + 5))
        assert (await store.head("link")).mtime_ns == TIME + 5
        assert (await store.head("a")).mtime_ns == TIME
