"""The zip store: what is on the disk while it is written, merged, and after crashes."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import anyio
import pytest
import zip_crasher
from contents import content, names

import stores.zipped.session as zip_session
from stores.errors import Corrupt, Denied, NoSpace, Precondition, ReadOnly, StoreError, Unavailable
from stores.testing import collect
from stores.zipped import ZipStore, changes


def members(path) -> dict[str, bytes]:
    """Read an archive with the standard library, and let unzip test it."""
    with zipfile.ZipFile(path) as archive:
        found = {info.filename: archive.read(info) for info in archive.infolist()}
    if found:
        subprocess.run(["unzip", "-tq", path], check=True, stdout=subprocess.DEVNULL)
    return found


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"a")
        archive.writestr("d/b", b"b" * 100)
        archive.writestr("d/c", b"c" * 1000, zipfile.ZIP_DEFLATED)
    return path


def pending(path) -> Path:
    return path.with_name("a.zip.pending")


async def abandon(store) -> None:
    """Leave a store as a crash would: what is pending stays pending."""
    session = store._shared.place.session
    session._lock._handle = None
    store._shared.place.session = None


# -- merges --------------------------------------------------------------------------------------


async def test_the_archive_is_not_touched_before_a_merge(path):
    before = path.read_bytes()
    async with ZipStore(path, "a") as store:
        await store.put("new", b"new")
        await store.delete("a")
        await store.rename("d/b", "e")
        assert path.read_bytes() == before
        assert pending(path).stat().st_mode & 0o777 == 0o700
        expected = {"new": b"new", "e": b"b" * 100, "d/c": b"c" * 1000}
        assert await content(store) == expected
        await store.merge()
        assert members(path) == expected
        assert await content(store) == expected
        await store.put("after", b"x")
    assert members(path) == expected | {"after": b"x"}
    assert names(path.parent) == ["a.zip"]


async def test_nothing_changed_nothing_written(path):
    before = path.stat()
    async with ZipStore(path, "a") as store:
        await content(store)
        await store.merge()
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_owner_and_mode_are_kept(path):
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    async with ZipStore(path, "a") as store:
        await store.put("new", b"new")
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 2345, 0o640)


async def test_symbolic_links_stay(path, tmp_path):
    link = tmp_path / "elsewhere" / "link.zip"
    link.parent.mkdir()
    link.symlink_to(path)
    async with ZipStore(link, "a") as store:
        await store.put("new", b"new")
        assert pending(path).is_dir()
    assert link.is_symlink()
    assert "new" in members(path)


async def test_metas_and_readers_outlive_a_merge(path):
    """Merging changes no object: neither versions nor times, and open readers go on."""
    async with ZipStore(path, "a") as store:
        put = await store.put("new", b"new" * 10)
        await store.rename("a", "e")
        await store.copy("d/c", "copy")
        await store.make_dir("empty")
        before = (await collect(store, recursive=True)).objects
        readers = [await store.open_reader(key) for key in before]
        data = await content(store)
        await store.merge()
        assert (await collect(store, recursive=True)).objects == before
        assert before["new"] == put
        assert (await store.get("new", if_version=put.version))[0] == b"new" * 10
        await store.put("new", b"newer")
        await store.compact()
        for reader in readers:
            assert await reader.read(0, 1 << 20) == data[reader.meta.key]
    async with ZipStore(path) as store:
        after = (await collect(store, recursive=True)).objects
        assert {key: meta.mtime_ns for key, meta in after.items() if key != "new"} == {
            key: meta.mtime_ns for key, meta in before.items() if key != "new"
        }
        assert set((await collect(store)).prefixes) == {"d", "empty"}


async def test_many_pending_bytes_are_merged(path, monkeypatch):
    monkeypatch.setattr(zip_session, "MERGE_BYTES", 10_000)
    async with ZipStore(path, "a") as store:
        await store.put("small", b"x" * 10_000)
        assert "small" not in members(path)
        await store.put("large", b"y" * 10_000)
        assert {"small", "large"} <= set(members(path))
        await store.put("next", b"z" * 9000)
        assert "next" not in members(path)


async def test_a_merge_that_fails_loses_nothing(path, monkeypatch, caplog):
    def fail(*args, **options):
        raise OSError(errno.ENOSPC, "full")

    before = path.read_bytes()
    store = ZipStore(path, "a")
    with monkeypatch.context() as patch:
        patch.setattr(zip_session, "MERGE_BYTES", 10)
        patch.setattr(zip_session, "write_archive", fail)
        meta = await store.put("new", b"new" * 1000)
        assert meta.size == 3000
        assert "merging them failed" in caplog.text
        with pytest.raises(NoSpace):
            await store.merge()
        await store.put("newer", b"newer")
        with pytest.raises(NoSpace, match=r"the changes wait in '.*/a\.zip\.pending'"):
            await store.aclose()
    assert path.read_bytes() == before
    async with ZipStore(path) as reading:
        assert (await reading.get("new"))[0] == b"new" * 1000
    async with ZipStore(path, "a"):
        pass
    assert {"new", "newer", "a", "d/b", "d/c"} == set(members(path))


async def test_a_full_disk_under_a_put(path, monkeypatch):
    """A put that fails changes nothing, and the next one works, also after opening it again."""
    store = ZipStore(path, "a")
    await store.put("first", b"1")
    pwrite = os.pwrite
    for allowed in range(3):
        left = [allowed]

        def full(fd, data, offset, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "full")
            return pwrite(fd, data[: len(data) // 2], offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(NoSpace) as caught:
                await store.put("a", b"new" * 1000)
            assert caught.value.key == "a"
        assert (await store.get("a"))[0] == b"a"
        await store.put(f"later{allowed}", b"x")
    await abandon(store)
    async with ZipStore(path) as reading:
        assert set(await content(reading)) == {"a", "d/b", "d/c", "first", "later0", "later1", "later2"}


async def test_dead_bytes_are_left_behind(path):
    data = random.Random(1).randbytes(3 << 20)
    async with ZipStore(path, "a") as store:
        await store.put("large", data)
    assert path.stat().st_size > 3 << 20
    async with ZipStore(path, "a") as store:
        await store.delete("large")
    assert path.stat().st_size < 10_000
    async with ZipStore(path, "a") as store:
        await store.put("one", data)
        await store.put("other", data)
        await store.merge()
        await store.put("one", b"")
        await store.merge()
        assert path.stat().st_size < (3 << 20) + 10_000
        await store.put("other", b"")
        await store.compact()
        assert path.stat().st_size < 10_000
    assert set(members(path)) == {"a", "d/b", "d/c", "one", "other"}


@pytest.mark.parametrize(
    ("dead", "alive", "reclaimed"),
    [(1_500_000, 3_000_000, True), (1_500_000, 8_000_000, False), (1_000_000, 500_000, False)],
    ids=["many", "a small share", "little"],
)
async def test_from_which_threshold_on_dead_bytes_are_left_behind(path, dead, alive, reclaimed):
    """When it is closed: from 1 MiB on, if that is a fifth of the archive."""
    source = random.Random(1)
    async with ZipStore(path, "a") as store:
        await store.put("dead", source.randbytes(dead))
        await store.put("alive", source.randbytes(alive))
    async with ZipStore(path, "a") as store:
        await store.delete("dead")
    size = path.stat().st_size
    assert (size < alive + 10_000) == reclaimed
    assert set(members(path)) == {"a", "d/b", "d/c", "alive"}
    async with ZipStore(path, "a") as store:  # what was left then is not counted again and again
        await store.put("new", b"new")
    assert path.stat().st_size == pytest.approx(size, abs=1000)


@pytest.mark.parametrize("stub", [b"", b"#!/bin/sh\nexec unzip $0\n"], ids=["", "a program before it"])
@pytest.mark.parametrize("shifted", [False, True], ids=["offsets adjusted", "offsets as they were"])
async def test_a_first_member_that_died(tmp_path, stub, shifted):
    path = tmp_path / "first.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dead", random.Random(1).randbytes(3 << 20))
        archive.writestr("alive", b"alive")
    path.write_bytes(stub + path.read_bytes())
    if stub and not shifted:
        with zipfile.ZipFile(path, "a") as archive:  # writes the directory anew, with true offsets
            archive.writestr("more", b"more")
    async with ZipStore(path, "a") as store:
        await store.delete("dead")
    assert path.stat().st_size < 10_000
    assert path.read_bytes().startswith(stub)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("alive") == b"alive"
        assert "dead" not in archive.namelist()


async def test_few_dead_bytes_stay(path):
    async with ZipStore(path, "a") as store:
        await store.delete("d/c")
        await store.merge()
        size = path.stat().st_size
        await store.compact()
        assert path.stat().st_size < size


async def test_the_archive_is_changed_by_another_program(path):
    store = ZipStore(path, "a")
    await store.put("new", b"new")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("foreign", b"f")
    with pytest.raises(Precondition, match="another program"):
        await store.merge()
    with pytest.raises(Precondition, match="another program"):
        await store.aclose()
    for mode in ("r", "a"):
        with pytest.raises(Corrupt, match="pending"):
            await ZipStore(path, mode).open()
    assert set(members(path)) == {"a", "d/b", "d/c", "foreign"}
    path.unlink()
    with pytest.raises(Corrupt, match="is gone"):
        await ZipStore(path, "a", create=True).open()
    async with ZipStore(path, "w") as store:
        assert await content(store) == {}
    assert names(path.parent) == ["a.zip"]


async def test_files_vanish_under_a_writer(path):
    """It is never told as a key that is not there."""
    store = ZipStore(path, "a")
    await store.put("new", b"new")
    moved = path.rename(path.with_name("moved.zip"))
    with pytest.raises(Precondition, match="another program"):
        await store.merge()
    moved.rename(path)
    pending(path).rename(path.with_name("moved"))
    with pytest.raises(Unavailable):
        await store.merge()
    path.with_name("moved").rename(pending(path))
    await store.aclose()
    assert "new" in members(path)


async def test_a_large_directory_moves(path):
    async with ZipStore(path, "a") as store:
        for number in range(700):
            await store.put(f"many/{number}", b"%d" % number)
        await store.rename_dir("many", "d/moved")
        assert len((await collect(store, "d/moved")).objects) == 700
        assert set((await collect(store)).prefixes) == {"d"}
        assert (await store.get("d/moved/77"))[0] == b"77"
    assert len(members(path)) == 703


async def test_truncating_forgets_what_was_pending(path):
    store = ZipStore(path, "a")
    await store.put("new", b"new")
    await abandon(store)
    async with ZipStore(path, "w") as store:
        await store.put("only", b"x")
    assert members(path) == {"only": b"x"}


# -- several processes ---------------------------------------------------------------------------


async def test_one_writer(path):
    async with ZipStore(path, "a") as store:
        await store.put("new", b"new")
        with pytest.raises(Denied, match=rf"being written by another process \(pid {os.getpid()}\)"):
            await ZipStore(path, "a").open()
        async with ZipStore(path) as reading:
            assert (await reading.get("new"))[0] == b"new"
            await store.merge()
            await store.put("newer", b"newer")
            assert "newer" not in await content(reading)
            await reading.aclose()
            assert (await reading.get("newer"))[0] == b"newer"
    async with ZipStore(path, "a") as store:
        assert "newer" in await content(store)


async def test_readers_while_others_merge(path):
    """Whoever opens it sees what was acknowledged before, whatever the moment."""
    acknowledged = 0
    done = threading.Event()
    seen = []

    def read():
        while not done.is_set():
            least = acknowledged
            view = zip_session.open_view(path)
            counts = [int(key[1:]) for key, _ in view.catalog.items() if key.startswith("n")]
            seen.append((least, max(counts, default=0)))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    store = ZipStore(path, "a")
    try:
        for number in range(1, 80):
            await store.put(f"n{number}", b"x" * number)
            acknowledged = number
            if number % 3 == 0:
                await store.merge()
            if number % 10 == 0:
                await store.aclose()
    finally:
        done.set()
        for thread in threads:
            thread.join()
        await store.aclose()
    assert len(seen) > 20
    assert all(found >= least for least, found in seen)


async def test_places_that_cannot_be_written(path, monkeypatch):
    for place in (path, path.parent):
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda asked, mode, place=place: Path(asked) != place)
            with pytest.raises(ReadOnly, match="cannot be written"):
                await ZipStore(path, "a").open()

    def refuse(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(ReadOnly, match="no pending changes can be kept"):
            await ZipStore(path, "a").open()
    assert names(path.parent) == ["a.zip"]


# -- crashes -------------------------------------------------------------------------------------


async def test_pending_changes_survive(path):
    longest = "/".join(["é" * 127] * 16)[:2020]
    store = ZipStore(path, "a")
    await store.put(longest, b"long")
    await store.put("new\nline", b"x")
    await store.delete("a")
    await store.make_dir("empty")
    expected = await content(store)
    metas = (await collect(store, recursive=True)).objects
    await abandon(store)
    async with ZipStore(path) as store:
        assert await content(store) == expected
        assert (await collect(store, recursive=True)).objects == metas
    async with ZipStore(path, "a") as store:
        assert (await collect(store, recursive=True)).objects == metas
        assert set((await collect(store)).prefixes) >= {"empty"}
    assert {key: data for key, data in members(path).items() if not key.endswith("/")} == expected


async def test_a_journal_cut_short(path):
    """Of a journal that ends anywhere, the changes that are whole count, and new ones follow them."""
    store = ZipStore(path, "a")
    for number in range(3):
        await store.put(f"n{number}", b"%d" % number)
    await abandon(store)
    log = pending(path) / "log"
    whole = log.read_bytes()
    header = whole.index(b"\n") + 1
    for size in range(header, len(whole)):
        log.write_bytes(whole[:size])
        lines = whole[:size].count(b"\n") - 1
        view = zip_session.open_view(path)
        assert sum(key.startswith("n") for key, _ in view.catalog.items()) == lines
    log.write_bytes(whole[:-5])
    store = ZipStore(path, "a")
    await store.put("n9", b"9")
    await abandon(store)
    async with ZipStore(path, "a") as store:
        assert {key for key in await content(store) if key.startswith("n")} == {"n0", "n1", "n9"}
    for size in range(header):
        pending(path).mkdir()
        log.write_bytes(whole[:size])
        for mode in ("r", "a"):
            with pytest.raises(Corrupt, match="cannot be understood"):
                await ZipStore(path, mode).open()
        log.unlink()
        (pending(path) / "lock").unlink()
        pending(path).rmdir()


async def test_a_power_loss(path):
    """What was synced is there; bytes that had not reached the disk are not taken for an object."""
    store = ZipStore(path, "a")
    await store.put("synced", b"s" * 1000)
    await store.sync("synced")
    await store.put("a", b"n" * 1000)
    await store.put("last", b"")
    await abandon(store)
    data = next(pending(path).glob("data.*"))
    data.write_bytes(data.read_bytes()[:1500] + bytes(500))
    log = pending(path) / "log"
    assert b"last" in log.read_bytes()
    store = ZipStore(path, "a")
    await store.open()
    await abandon(store)
    assert b"last" not in log.read_bytes()
    for mode in ("r", "a"):
        async with ZipStore(path, mode) as store:
            found = await content(store)
            assert found["synced"] == b"s" * 1000
            assert found["a"] == b"a"
            assert "last" not in found
    assert members(path) == found


async def test_damaged_pending_bytes_are_not_merged(path):
    store = ZipStore(path, "a")
    await store.put("new", b"n" * 1000)
    data = next(pending(path).glob("data.*"))
    data.write_bytes(bytes(1000))
    with pytest.raises(Corrupt):
        await store.get("new")
    with pytest.raises(Corrupt, match="pending bytes are damaged"):
        await store.aclose()
    assert set(members(path)) == {"a", "d/b", "d/c"}


async def test_a_merge_that_breaks_after_the_rename(path, monkeypatch):
    """Nothing is written to a journal that no longer counts; opening it again mends it."""
    store = ZipStore(path, "a")
    await store.put("new", b"new")

    def fail(*args):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(zip_session.Pending, "activate", fail)
        with pytest.raises(Unavailable):
            await store.merge()
    with pytest.raises(Unavailable, match="open it again"):
        await store.put("lost", b"x")
    await store.aclose()
    async with ZipStore(path, "a") as store:
        assert set(await content(store)) == {"a", "d/b", "d/c", "new"}
    assert names(path.parent) == ["a.zip"]


ROOT = Path(zip_crasher.__file__).parents[2]


def crasher(*arguments) -> list[str]:
    return [sys.executable, zip_crasher.__file__, *map(str, arguments)]


def test_a_crash_at_every_system_call(tmp_path):
    told = subprocess.run(
        crasher("points", tmp_path / "d"),
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) > 100


def test_a_crash_at_every_byte_of_a_compaction(tmp_path):
    told = subprocess.run(
        crasher("compaction", tmp_path / "d"),
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) > 500


def test_kills_at_random_moments(tmp_path):
    """Whenever the writer is killed, the archive is whole and every acknowledged change is there."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("d0/k0", zip_crasher.body(1))
    state = {"d0/k0": 1}
    seed = random.SystemRandom().randrange(1 << 30)
    for turn in range(20):
        rng = random.Random(seed + turn)
        print("seed", seed + turn)
        state, in_flight = run_and_kill(path, rng, seed + turn, state)
        if path.exists():
            members(path)
        allowed = [state] + ([zip_crasher.apply(state, in_flight)] if in_flight else [])
        shown = anyio.run(zip_crasher.shown, path, "r")
        fitting = [one for one in allowed if {key: zip_crasher.body(s) for key, s in one.items()} == shown]
        assert fitting, f"after {state}, with {in_flight} in flight, there is {sorted(shown)}"
        state = fitting[0]
        assert anyio.run(zip_crasher.shown, path, "r") == shown


def run_and_kill(path, rng, seed, state):
    """Let a child change the archive; return what it has acknowledged, and what it was about to do."""
    stop_after = rng.randrange(1, 60)
    process = subprocess.Popen(
        crasher("loop", path, seed, json.dumps(state)),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    in_flight = None
    killer = threading.Timer(rng.uniform(0, 0.02), process.kill)
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # killed while printing: a change not begun, or made and not acknowledged
            change = json.loads(line[2:])
            if line[0] == "?":
                in_flight = change
            else:
                state, in_flight = zip_crasher.apply(state, change), None
                stop_after -= 1
                if not stop_after:
                    killer.start()
    killer.join()
    assert not stop_after or stop_after < 0, "the child ended by itself"
    return state, in_flight


def test_errors_are_of_the_family(path):
    """The blocking layer lets nothing else out either."""
    session = zip_session.Session(path, "a", create=False, compression=0)
    try:
        with pytest.raises(StoreError):
            changes.delete(session, "missing")
    finally:
        session.close()
