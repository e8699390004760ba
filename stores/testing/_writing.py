"""Tests of writing: bodies, conditions, atomicity, and refusals of read-only stores."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from stores.base import Store
from stores.errors import AlreadyExists, NotFound, Precondition, ReadOnly, StoreError
from stores.meta import AttributeChange, Body, ObjectMeta
from stores.testing._kit import Kit, assert_all_raise, changes, collect, needs

__all__ = ["RefusalTests", "WritingTests"]

LARGE = bytes(range(251)) * (5 * 2**20 // 251)


class BrokenBodyError(Exception):
    """What :class:`BrokenBody` raises."""


class BrokenBody(io.RawIOBase):
    """A file whose bytes end in an error after the first `good` of them."""

    def __init__(self, good: int, size: int) -> None:
        super().__init__()
        self.good = good
        self.size = size
        self.position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move as any file."""
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def tell(self) -> int:
        """Return the position."""
        return self.position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # typeshed: Buffer
        """Give zeros, then raise."""
        count = min(len(buffer), self.good - self.position)
        if count <= 0:
            raise BrokenBodyError("the disk that held the body failed")
        buffer[:count] = bytes(count)
        self.position += count
        return count


class RefusalTests(Kit):
    """A store that is read-only refuses every change and reads as before."""

    def read_only_view(self, store: Store) -> Store:
        """Return `store` so that it refuses changes."""
        return store.with_read_only() if self.writable else store

    async def test_read_only(self, store: Store) -> None:
        """Every change raises ReadOnly and changes nothing."""
        await self.fill(store, {"a": b"x", "d/b": b"y"})
        view = self.read_only_view(store)
        assert view.read_only
        assert store.read_only == (not self.writable)
        refused = changes(view, "a", "b") | {
            f"{name} of a directory": call for name, call in changes(view, "d", "e").items()
        }
        await assert_all_raise(ReadOnly, refused)
        assert (await view.get("a"))[0] == b"x"
        assert (await view.get("d/b"))[0] == b"y"
        assert (await view.head("a")) == await store.head("a")
        with pytest.raises(NotFound):
            await view.head("b")

    async def test_repr_tells_read_only(self, store: Store) -> None:
        """A read-only store says so."""
        assert "read-only" in repr(self.read_only_view(store))


class WritingTests(RefusalTests):
    """What ``put`` and ``delete`` do."""

    async def test_writable_again(self, store: Store) -> None:
        """`with_read_only` gives another view of the same store, in both directions."""
        view = store.with_read_only().with_read_only(read_only=False)
        await view.put("a", b"x")
        assert (await store.get("a"))[0] == b"x"
        assert (await store.with_read_only().get("a"))[0] == b"x"

    async def test_put_tells_what_head_tells(self, store: Store) -> None:
        """The answer to a put is the meta of what is now there, new or replaced."""
        for data in (b"first", b"second one", b""):
            meta = await store.put("d/a", data)
            assert meta.size == len(data)
            self.assert_same_meta(meta, await store.head("d/a"), by_put=True)
            assert await self.backdoor_get("d/a") == data

    @needs("versions")
    async def test_put_gives_a_version_of_use(self, store: Store) -> None:
        """The version that a put returns holds until the next change."""
        first = await store.put("a", b"x1")
        assert (await store.get("a", if_version=first.version))[0] == b"x1"
        second = await store.put("a", b"x2")
        assert first.version != second.version
        with pytest.raises(Precondition):
            await store.get("a", if_version=first.version)
        assert (await store.get("a", if_version=second.version))[0] == b"x2"

    async def test_bodies_of_every_kind(self, store: Store, tmp_path: Path) -> None:
        """Bytes-like objects are stored as they are at the call, files from their start."""
        data = bytes(range(256)) * 20
        file = io.BytesIO(data)
        file.seek(100)
        on_disk = tmp_path / "body"
        on_disk.write_bytes(data)
        with on_disk.open("rb") as disk_file:
            disk_file.read(7)
            bodies: dict[str, Body] = {
                "bytes": data,
                "bytearray": bytearray(data),
                "memoryview": memoryview(b"<" + data + b">")[1:-1],
                "memoryview of words": memoryview(data).cast("I"),
                "memoryview in steps": memoryview(bytes(b for b in data for _ in "12"))[::2],
                "file": file,
                "file on disk": disk_file,
            }
            for kind, body in bodies.items():
                meta = await store.put(f"d/{kind}", body)
                assert meta.size == len(data), kind
                assert (await store.get(f"d/{kind}"))[0] == data, kind
            assert not disk_file.closed
            assert not file.closed
        on_disk.unlink()

    async def test_a_body_that_changes_later(self, store: Store) -> None:
        """A store keeps no hold of the caller's buffer."""
        body = bytearray(b"before")
        await store.put("a", body)
        body[:] = b"after!"
        assert (await store.get("a"))[0] == b"before"

    async def test_large_bodies(self, store: Store, tmp_path: Path) -> None:
        """Several MiB, from memory and from a file that stands at its end."""
        on_disk = tmp_path / "body"
        on_disk.write_bytes(LARGE)
        with on_disk.open("rb") as file:
            file.seek(0, io.SEEK_END)
            meta = await store.put("file", file)
        on_disk.unlink()
        assert meta.size == len(LARGE)
        await store.put("bytes", LARGE)
        for key in ("file", "bytes"):
            assert (await store.get(key))[0] == LARGE
            assert await store.get_range(key, 3 << 20, (4 << 20) + 5) == LARGE[3 << 20 : (4 << 20) + 5]

    @pytest.mark.parametrize("good", [0, 100_000])
    async def test_a_body_that_fails(self, store: Store, good: int) -> None:
        """A body that cannot be read changes nothing, and leaves nothing behind."""
        await store.put("d/old", b"old")
        for key in ("d/old", "d/new"):
            body = BrokenBody(good, 6 << 20)
            with pytest.raises((BrokenBodyError, StoreError)):
                await store.put(key, body)  # type: ignore[arg-type]  # RawIOBase is a BinaryIO in all but name
        assert (await store.get("d/old"))[0] == b"old"
        with pytest.raises(NotFound):
            await store.head("d/new")
        if self.capabilities.listable:
            assert set((await collect(store, recursive=True)).objects) == {"d/old"}

    @needs("create_if_absent")
    async def test_put_if_absent(self, store: Store) -> None:
        """What is there stays; what is not comes to be; what was deleted can come again."""
        meta = await store.put("d/a", b"first", if_absent=True)
        self.assert_same_meta(meta, await store.head("d/a"), by_put=True)
        with pytest.raises(AlreadyExists) as caught:
            await store.put("d/a", b"second", if_absent=True)
        assert caught.value.key == "d/a"
        assert (await store.get("d/a"))[0] == b"first"
        await store.delete("d/a")
        await store.put("d/a", b"third", if_absent=True)
        assert (await store.get("d/a"))[0] == b"third"
        await store.put("d/b", io.BytesIO(LARGE), if_absent=True)
        with pytest.raises(AlreadyExists):
            await store.put("d/b", io.BytesIO(LARGE), if_absent=True)
        assert (await store.get("d/b"))[0] == LARGE

    @needs("replace_if_version")
    async def test_put_if_version(self, store: Store) -> None:
        """Only the version named is replaced, and nothing is created."""
        old = await store.put("a", b"old")
        assert old.version
        new = await store.put("a", b"new", if_version=old.version)
        self.assert_same_meta(new, await store.head("a"), by_put=True)
        with pytest.raises(Precondition) as caught:
            await store.put("a", b"newer", if_version=old.version)
        assert caught.value.key == "a"
        assert (await store.get("a"))[0] == b"new"
        await self.backdoor_put("a", b"odd")
        with pytest.raises(Precondition):
            await store.put("a", b"newer", if_version=new.version)
        assert (await store.get("a"))[0] == b"odd"
        await store.delete("a")
        for key in ("a", "missing/b"):
            with pytest.raises(Precondition):
                await store.put(key, b"newer", if_version=new.version)
            with pytest.raises(NotFound):
                await store.head(key)

    async def test_conditions_exclude_one_another(self, store: Store) -> None:
        """Both conditions at once are a mistake of the caller."""
        with pytest.raises(ValueError, match="exclude"):
            await store.put("a", b"x", if_absent=True, if_version="v")

    async def race(self, put: Callable[[bytes], Awaitable[ObjectMeta]], *errors: type[StoreError]) -> bytes:
        """Let 20 puts run at once; return the one body that was accepted."""
        won: list[bytes] = []
        lost: list[StoreError] = []

        async def one(data: bytes) -> None:
            try:
                await put(data)
            except errors as error:
                lost.append(error)
            else:
                won.append(data)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, b"from %d" % number)
        assert len(won) == 1
        assert len(lost) == 19
        return won[0]

    @needs("create_if_absent")
    async def test_one_create_wins(self, store: Store) -> None:
        """Of many creates of one key, one."""
        winner = await self.race(lambda data: store.put("d/a", data, if_absent=True), AlreadyExists)
        assert (await store.get("d/a"))[0] == winner

    @needs("replace_if_version")
    async def test_one_replacement_wins(self, store: Store) -> None:
        """Of many replacements of one version, one."""
        old = await store.put("d/a", b"old")
        winner = await self.race(lambda data: store.put("d/a", data, if_version=old.version), Precondition)
        assert (await store.get("d/a"))[0] == winner

    async def test_many_puts_at_once(self, store: Store) -> None:
        """50 puts side by side into new prefixes, and all arrive."""
        objects = {f"d/{number % 7}/{number}": b"%d" % number * 1000 for number in range(50)}

        async with anyio.create_task_group() as group:
            for key, data in objects.items():
                group.start_soon(store.put, key, data)
        for key, data in objects.items():
            assert (await store.get(key))[0] == data

    async def test_a_put_is_atomic(self, store: Store) -> None:
        """Who reads while others write finds one body or another, whole, and its own meta."""
        bodies = {number: bytes([number]) * (100_000 + number) for number in range(10)}
        await store.put("a", bodies[0])
        done = anyio.Event()

        async def write() -> None:
            for _ in range(3):
                for body in bodies.values():
                    await store.put("a", body)
                    await anyio.lowlevel.checkpoint()  # a store may never wait itself
            done.set()

        async def read() -> None:
            while not done.is_set():
                data, meta = await store.get("a")
                assert data == bodies[data[0]]
                assert meta.size == len(data)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(read)
            group.start_soon(write)

    async def test_delete(self, store: Store) -> None:
        """An object goes, and nothing else."""
        await self.fill(store, {"a": b"x", "ab": b"x", "d/a": b"x", "d/b": b"x"})
        await store.delete("a")
        await store.delete("d/a")
        for key in ("a", "d/a"):
            with pytest.raises(NotFound):
                await store.get(key)
        assert (await store.get("ab"))[0] == b"x"
        assert (await store.get("d/b"))[0] == b"x"

    async def test_delete_what_is_not_there(self, store: Store) -> None:
        """A missing key and a prefix are no objects; what is below stays."""
        await self.fill(store, {"d/a": b"x"})
        for key in ("missing", "d/missing", "missing/a", "d"):
            if self.delete_tells:
                with pytest.raises(NotFound):
                    await store.delete(key)
            else:
                await store.delete(key)
        assert (await store.get("d/a"))[0] == b"x"

    async def test_attributes_of_a_put(self, store: Store) -> None:
        """Attributes are taken where they are real, and ignored elsewhere."""
        change = AttributeChange(mode=0o640, mtime_ns=1_500_000_000_123_456_789)
        meta = await store.put("a", b"x", attributes=change)
        assert (meta.posix is not None) == self.capabilities.posix
        if meta.posix is not None:
            assert meta.posix.mode & 0o7777 == 0o640
            assert meta.mtime_ns == change.mtime_ns
        assert (await store.get("a"))[0] == b"x"
