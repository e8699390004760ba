"""The zip store: the contract, archives of other programs, requests, and damage."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import tracemalloc
import zipfile
import zlib
from contextlib import suppress

import pytest
from contents import content, names

import stores.zipped.format as zip_format
import stores.zipped.inflate as zip_inflate
from stores.base import ObjectReader
from stores.errors import (
    AlreadyExists,
    BadLocation,
    Corrupt,
    InvalidKey,
    NotFound,
    Precondition,
    ReadOnly,
    StoreError,
    Unavailable,
    Unsupported,
)
from stores.local import LocalStore
from stores.memory import MemoryStore
from stores.meta import Capabilities
from stores.testing import ReadOnlyStoreConformance, StoreConformance, collect
from stores.zipped import ZipStore

WRITING = Capabilities(
    listable=True,
    ranges=True,
    versions=True,
    create_if_absent=True,
    replace_if_version=True,
    rename=True,
    server_copy=True,
    directories=True,
    posix=False,
    snapshot_reads=True,
)
READING = Capabilities(listable=True, ranges=True, versions=True, snapshot_reads=True)

METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


def make_zip(members, method=zipfile.ZIP_STORED, file=None, comment=b""):
    """Return the bytes of an archive of (name, data) pairs, as zipfile makes it."""
    file = io.BytesIO() if file is None else file
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.comment = comment
        for name, data in members:
            info = zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6))
            info.compress_type = method
            archive.writestr(info, data)
    return file.getvalue() if isinstance(file, io.BytesIO) else None


def without(data: bytes, keys: set[str]) -> bytes:
    """Return an archive without some members."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return make_zip([(name, archive.read(name)) for name in archive.namelist() if name not in keys])


def over(data: bytes) -> ZipStore:
    return ZipStore.over(MemoryStore({"a.zip": data}), "a.zip")


class CountingReader(ObjectReader):
    def __init__(self, inner, requests):
        self.inner, self.meta, self.requests = inner, inner.meta, requests

    async def read(self, start, size):
        self.requests.append((start, size))
        return await self.inner.read(start, size)


class CountingStore(MemoryStore):
    """Notes each range that is read from any of its objects."""

    def __init__(self, data):
        super().__init__(data)
        self.requests: list[tuple[int, int]] = []

    async def _open_reader(self, key, if_version):
        return CountingReader(await super()._open_reader(key, if_version), self.requests)


# -- the contract --------------------------------------------------------------------------------


class TestLocal(StoreConformance):
    capabilities = WRITING
    object_and_prefix = False

    async def make_store(self, tmp_path):
        return ZipStore(tmp_path / "a.zip", "a", create=True)


class TestLocalDeflated(StoreConformance):
    """As above, but all is merged after each put, so that reads come from the archive itself."""

    capabilities = WRITING
    object_and_prefix = False
    many_keys = 1100

    async def make_store(self, tmp_path):
        store = ZipStore(tmp_path / "a.zip", "a", create=True, compression=zipfile.ZIP_DEFLATED)
        put = store._put
        self.since = 0

        async def put_and_merge(*args):
            meta = await put(*args)
            self.since += 1
            if self.since < 40:  # the long listings need not be merged a thousand times
                await store.merge()
            return meta

        store._put = put_and_merge
        return store


class TestOver(ReadOnlyStoreConformance):
    capabilities = READING

    async def make_store(self, tmp_path):
        self.data = {"d/a.zip": make_zip([])}
        return ZipStore.over(MemoryStore(self.data), "d/a.zip")

    async def backdoor_put(self, key, data):
        old = without(self.data["d/a.zip"], {key})
        file = io.BytesIO(old)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(key, data)
        self.data["d/a.zip"] = file.getvalue()
        await self._store.aclose()  # a store shows what was there when it was opened

    async def backdoor_delete(self, key):
        self.data["d/a.zip"] = without(self.data["d/a.zip"], {key})
        await self._store.aclose()

    many_keys = 50


# -- archives of other programs ------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("remote", [False, True])
async def test_all_methods(tmp_path, method, remote, monkeypatch):
    monkeypatch.setattr(zip_inflate, "IN_MEMORY", 1 << 20)
    rng = random.Random(5)
    members = {
        "empty": b"",
        "small": b"hello" * 100,
        "d/random": rng.randbytes(300_000),
        "d/large": rng.randbytes(1000) * 3000,
    }
    data = make_zip(members.items(), method, comment=b"a comment PK\x05\x06 with a trap in it")
    if remote:
        store = over(data)
    else:
        (tmp_path / "a.zip").write_bytes(data)
        store = ZipStore(tmp_path / "a.zip")
    async with store:
        assert await content(store) == members
        assert await store.get_range("d/large", 2_999_990, 9_000_000) == members["d/large"][-10:]
        assert await store.get_range("d/random", 5, 9) == members["d/random"][5:9]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
async def test_info_zip(tmp_path, locale):
    """The names, times and methods of ``zip -r``."""
    (tmp_path / "t" / "d" / "empty").mkdir(parents=True)
    (tmp_path / "t" / "naïve-数据").write_bytes(b"x" * 5000)
    (tmp_path / "t" / "d" / "a").write_bytes(b"data")
    (tmp_path / "t" / "link").symlink_to("d/a")
    os.utime(tmp_path / "t" / "d" / "a", (1_500_000_000, 1_500_000_000))
    subprocess.run(
        ["zip", "-q", "-r", "-y", "../a.zip", "."],
        cwd=tmp_path / "t",
        check=True,
        env=os.environ | {"LC_ALL": locale},
    )
    async with ZipStore(tmp_path / "a.zip") as store:
        assert await content(store) == {"naïve-数据": b"x" * 5000, "d/a": b"data", "link": b"d/a"}
        assert (await store.head("d/a")).mtime_ns == 1_500_000_000 * 10**9
        assert set((await collect(store, "d")).prefixes) == {"d/empty"}


async def test_descriptors_and_programs_in_front(tmp_path):
    """A streamed archive (sizes behind the data), with a program before it, is read and merged."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"a" * 1000)
        archive.writestr("b", b"b" * 1000)
    path = tmp_path / "a.zip"
    path.write_bytes(b"#!/bin/sh\nexit\n" * 10 + pipe.data)
    async with ZipStore(path, "a") as store:
        await store.rename("a", "new/name")
        await store.put("c", b"c" * 10)
    expected = {"new/name": b"a" * 1000, "b": b"b" * 1000, "c": b"c" * 10}
    for compact in (False, True):
        async with ZipStore(path, "a") as store:
            if compact:
                await store.compact()
            assert await content(store) == expected
        with zipfile.ZipFile(path) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == expected
        told = subprocess.run(["unzip", "-t", path], check=False, capture_output=True)
        assert b"No errors detected" in told.stdout


def odd_zip(names):
    """Return an archive with names that zipfile would change: as long ones, overwritten afterwards."""
    data = make_zip(
        [(f"{number:04d}" + "x" * (len(name) - 4), b"%d" % number) for number, name in enumerate(names)]
    )
    for number, name in enumerate(names):
        data = data.replace(b"%04d" % number + b"x" * (len(name) - 4), name)
    return data


async def test_odd_names():
    """What is no key is listed and cannot be reached; of equal names the last one counts."""
    names = [
        b"/absolute",
        b"../escape",
        b"back\\slash",
        b"nul\0name",
        b"a//double",
        b"./dots",
        b"both",
        b"both/x",
    ]
    names += [b"twice", b"twice", b"dirs/"]
    async with over(odd_zip(names)) as store:
        objects = (await collect(store, recursive=True)).objects
        assert set(objects) == {name.decode() for name in names} - {"dirs/"}
        for key in ("/absolute", "../escape", "nul\0name", "a//double", "./dots", "dirs/"):
            with pytest.raises(InvalidKey):
                await store.get(key)
        assert (await store.get("back\\slash"))[0] == b"2"
        assert (await store.get("twice"))[0] == b"9"
        found = await store.lookup("both")
        assert found.object is not None
        assert found.prefix is not None
        listing = await collect(store)
        assert set(listing.prefixes) == {"", "..", "a", ".", "both", "dirs"}
        assert set(listing.objects) == {"back\\slash", "nul\0name", "both", "twice"}
        assert set((await collect(store, "a")).prefixes) == {"a/"}
        assert await collect(store, "dirs") == ({}, {})


async def test_names_not_utf8():
    data = bytearray(make_zip([("é", b"x")]))
    async with over(bytes(data).replace("é".encode(), b"\xff\xfe")) as store:
        assert set((await collect(store)).objects) == {"\udcff\udcfe"}
        with pytest.raises(InvalidKey):
            await store.get("\udcff\udcfe")


async def test_odd_names_survive_a_merge(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(odd_zip([b"/absolute", b"../escape", b"nul\0name", b"twice", b"twice", b"d/../x"]))
    async with ZipStore(path, "a") as store:
        await store.put("new", b"new")
        await store.rename_dir("d", "e")
        await store.compact()
    async with ZipStore(path) as store:
        objects = (await collect(store, recursive=True)).objects
        assert set(objects) == {"/absolute", "../escape", "nul\0name", "twice", "e/../x", "new"}
        assert (await store.get("twice"))[0] == b"4"


def patched_directory(data: bytes, offset: int, value: bytes) -> bytes:
    """Overwrite a field of the first central record."""
    at = data.index(b"PK\x01\x02") + offset
    return data[:at] + value + data[at + len(value) :]


async def test_encrypted_and_unknown_methods():
    data = make_zip([("a", b"secret")])
    async with over(patched_directory(data, 8, b"\x01\x00")) as store:
        assert (await store.head("a")).size == 6
        with pytest.raises(Unsupported, match="encrypted"):
            await store.get("a")
    async with over(patched_directory(data, 10, b"\x09\x00")) as store:
        with pytest.raises(Unsupported, match="Deflate64"):
            await store.get("a")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
async def test_bombs(method, monkeypatch):
    """A member that claims ten bytes is not followed to its gigabyte, nor one that claims more."""
    bomb = bytes(200 << 20)
    data = make_zip([("a", bomb)], method) if method else make_zip([("a", bytes(1000))])
    del bomb
    for claimed in (10, 5 << 20):
        async with over(patched_directory(data, 24, struct.pack("<L", claimed))) as store:
            tracemalloc.start()
            with pytest.raises(Corrupt):
                await store.get("a")
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 8 << 20


async def test_lzma_without_a_marker_at_its_end():
    """Then the size alone tells where the data end."""
    data = make_zip([("a", b"text " * 1000)], zipfile.ZIP_LZMA)
    async with over(patched_directory(data, 8, bytes(2))) as store:
        assert (await store.get("a"))[0] == b"text " * 1000
    async with over(patched_directory(patched_directory(data, 8, bytes(2)), 24, b"\x05\0")) as store:
        with pytest.raises(Corrupt, match="CRC"):
            await store.get("a")


async def test_zip64(tmp_path, monkeypatch):
    """With the limits made small, what is written has zip64 fields, and all programs read it."""
    path = tmp_path / "a.zip"
    monkeypatch.setattr(zip_format, "WIDE_FROM", 1000)
    objects = {"small": b"s", "large": random.Random(4).randbytes(2000), "d/x": b"x" * 1500}
    for _ in range(2):
        async with ZipStore(path, "a", create=True, compression=zipfile.ZIP_DEFLATED) as store:
            for key, data in objects.items():
                await store.put(key, data)
        async with ZipStore(path, "a") as store:
            await store.rename("large", "other")
            await store.rename("other", "large")
            await store.compact()
            assert await content(store) == objects
    assert b"PK\x06\x06" in path.read_bytes()
    subprocess.run(["unzip", "-tq", path], check=True, capture_output=True)
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == objects
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    async with over(make_zip(objects.items())) as store:
        assert await content(store) == objects


async def test_many_members():
    """More than 65,535, by their number in a zip64 record."""
    data = make_zip([(f"c/{number // 1000}/{number}", b"") for number in range(66_000)])
    async with over(data) as store:
        assert len((await collect(store, "c")).prefixes) == 66
        assert len((await collect(store, "c/7")).objects) == 1000
        assert len((await collect(store, recursive=True)).objects) == 66_000


async def test_an_archive_that_zarr_wrote(tmp_path):
    zarr = pytest.importorskip("zarr")
    store = zarr.storage.ZipStore(tmp_path / "a.zip", mode="w")
    array = zarr.create_array(store, shape=(4, 4), chunks=(2, 2), dtype="i4")
    array[:] = 7
    store.close()
    async with ZipStore(tmp_path / "a.zip") as ours:
        keys = set((await collect(ours, recursive=True)).objects)
        assert keys == {"zarr.json", "c/0/0", "c/0/1", "c/1/0", "c/1/1"}
        assert b'"zarr_format"' in (await ours.get("zarr.json"))[0]


# -- requests ------------------------------------------------------------------------------------


async def test_requests_for_a_small_archive():
    """One for the end and the directory in it; one for a member; one for a range of a known one."""
    rng = random.Random(1)
    members = [("a", rng.randbytes(1 << 20)), ("b", rng.randbytes(1000))]
    inner = CountingStore({"a.zip": make_zip(members)})
    async with ZipStore.over(inner, "a.zip") as store:
        assert len(inner.requests) == 1
        await collect(store)
        await store.head("a")
        assert len(inner.requests) == 1
        assert (await store.get("b"))[0] == members[1][1]
        assert len(inner.requests) == 2
        assert await store.get_range("b", 10, 20) == members[1][1][10:20]
        assert [size for _, size in inner.requests[2:]] == [10]
        reader = await store.open_reader("a")
        assert await reader.read(500_000, 100) == members[0][1][500_000:500_100]
        assert await reader.read(600_000, 100) == members[0][1][600_000:600_100]
        assert [size for _, size in inner.requests[4:]] == [100, 100]
        assert inner.requests[3][1] < 200


async def test_requests_for_a_large_directory():
    """One for the end, and one for the directory."""
    inner = CountingStore({"a.zip": make_zip([(f"a-long-name-{number}", b"x") for number in range(3000)])})
    async with ZipStore.over(inner, "a.zip") as store:
        assert len(inner.requests) == 2
        await store.get("a-long-name-7")
        assert len(inner.requests) == 3
        assert inner.requests[2][1] < 300


async def test_a_compressed_member_is_read_once():
    data = random.Random(2).randbytes(50_000)
    inner = CountingStore({"a.zip": make_zip([("a", data)], zipfile.ZIP_DEFLATED)})
    async with ZipStore.over(inner, "a.zip") as store:
        for start in range(0, 50_000, 1000):
            assert await store.get_range("a", start, start + 1000) == data[start : start + 1000]
    assert len(inner.requests) <= 3


async def test_inflated_members_are_let_go():
    cache = zip_inflate.InflatedCache(memory=250)
    made = []

    def maker(at):
        async def make():
            made.append(at)
            result = zip_inflate.Inflated(100)
            result.add(b"x" * 100)
            return result

        return make

    for at in (1, 2, 1, 3, 1, 2):
        await cache.get(at, maker(at))
    assert made == [1, 2, 3, 2]


async def test_the_archive_changes_behind_the_store():
    """What is open fails and never mixes two archives; what is asked for next is the new one."""
    inner = MemoryStore({"a.zip": make_zip([("a", b"old" * 10), ("b", b"x" * 300_000)])})
    reader_inner = _Conditional(inner)
    async with ZipStore.over(reader_inner, "a.zip") as store:
        await store.get("a")
        inner.data["a.zip"] = make_zip([("a", b"new" * 10)])
        with pytest.raises(Precondition):
            await store.get("b")
        assert (await store.get("a"))[0] == b"new" * 10
        del inner.data["a.zip"]
        with pytest.raises(Unavailable):
            await store.get("a")
        with pytest.raises(Unavailable):
            await store.head("a")


class _Conditional(MemoryStore):
    """The same objects, but readers are conditional range requests, as object stores have them."""

    def __init__(self, inner):
        super().__init__(inner.data)

    async def _open_reader(self, key, if_version):
        return await super(MemoryStore, self)._open_reader(key, if_version)


async def test_a_missing_archive(tmp_path):
    for store in (ZipStore.over(MemoryStore(), "no.zip"), ZipStore(tmp_path / "no.zip")):
        with pytest.raises(NotFound):
            await store.open()


async def test_locations(tmp_path):
    assert ZipStore(tmp_path / "a.zip").location == str(tmp_path / "a.zip")
    assert ZipStore.over(MemoryStore(name="m"), "d/a.zip").location == "memory://m/d/a.zip"


async def test_over_a_directory_on_disk(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.zip").write_bytes(make_zip([("x", b"x" * 1000)]))
    store = ZipStore.over(LocalStore(tmp_path), "d/a.zip")
    async with store:
        assert await content(store) == {"x": b"x" * 1000}
        assert await store.get_range("x", 990, 2000) == b"x" * 10
    assert store.location == f"{tmp_path}/d/a.zip"


# -- damage --------------------------------------------------------------------------------------

SMALL = [("a/b", b"stored data" * 3), ("c", b"more"), ("naïve", b"")]


async def read_all(data):
    """Read all that can be read; nothing but the store's errors may come."""
    store = over(data)
    try:
        await store.open()
    except StoreError:
        return None
    found = {}
    for key in (await collect(store, recursive=True)).objects:
        with suppress(StoreError):
            found[key] = (await store.get(key))[0]
    await store.aclose()
    return found


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
async def test_truncated_everywhere(method):
    data = make_zip(SMALL, method)
    for size in range(len(data)):
        assert await read_all(data[:size]) is None
    assert await read_all(data) == dict(SMALL)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
async def test_flipped_everywhere(method):
    """What is read of a damaged archive is right, or an error (names and CRCs themselves aside)."""
    data = make_zip(SMALL, method, comment=b"c")
    right = {zlib.crc32(value) for _, value in SMALL}
    for at in range(len(data)):
        for bit in (0x01, 0x80, 0xFF):
            flipped = bytearray(data)
            flipped[at] ^= bit
            found = await read_all(bytes(flipped)) or {}
            assert {zlib.crc32(value) for value in found.values()} <= right


async def test_random_bytes():
    rng = random.Random(3)
    for _ in range(300):
        data = bytearray(make_zip(SMALL, zipfile.ZIP_DEFLATED))
        for _ in range(rng.randrange(1, 12)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        await read_all(bytes(data))
        await read_all(rng.randbytes(200) + b"PK\x05\x06" + rng.randbytes(18))


async def test_what_is_no_archive(tmp_path):
    path = tmp_path / "a.zip"
    for data in (b"", b"x", b"not a zip" * 100):
        path.write_bytes(data)
        for mode in ("r", "a"):
            with pytest.raises(Corrupt, match="not a zip archive") as caught:
                await ZipStore(path, mode).open()
            assert caught.value.key == str(path)
        assert names(tmp_path) == ["a.zip"]


# -- modes ---------------------------------------------------------------------------------------


async def test_modes(tmp_path):
    path = tmp_path / "a.zip"
    with pytest.raises(NotFound):
        await ZipStore(path, "a").open()
    assert not names(tmp_path)
    async with ZipStore(path, "x") as store:
        await store.put("a", b"x")
    with pytest.raises(AlreadyExists):
        await ZipStore(path, "x").open()
    async with ZipStore(path, "a", create=True) as store:
        assert await content(store) == {"a": b"x"}
    store = ZipStore(path, "w")
    async with store:
        assert await content(store) == {}
        await store.put("b", b"y")
    assert await content(store) == {"b": b"y"}  # opened again, and not emptied again
    await store.aclose()
    assert names(tmp_path) == ["a.zip"]
    with pytest.raises(NotFound):
        await ZipStore(tmp_path / "no" / "a.zip", "a", create=True).open()


async def test_contradictions(tmp_path):
    for mode, options in (
        ("q", {}),
        ("w", {"read_only": True}),
        ("r", {"read_only": False}),
        ("a", {"compression": 14}),
    ):
        with pytest.raises(BadLocation):
            ZipStore(tmp_path / "a.zip", mode, **options)


async def test_read_only(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip(SMALL))
    for store in (ZipStore(path), ZipStore(path, "a", read_only=True), over(path.read_bytes())):
        async with store:
            assert store.read_only
            for view in (store, store.with_read_only(False)):
                with pytest.raises(ReadOnly):
                    await view.put("a", b"x")
                with pytest.raises(ReadOnly):
                    await view.merge()
    assert names(tmp_path) == ["a.zip"]


async def test_usage(tmp_path):
    store = ZipStore(tmp_path / "a.zip", "w")
    usage = await store.usage()
    assert usage is not None
    assert 0 < usage.available_bytes <= usage.total_bytes
    assert await over(b"").usage() is None
