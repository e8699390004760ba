"""The cache on disk: what it gives back, what it leaves room for, and what cannot harm it."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings, strategies

from stores.meta import Capabilities, Lookup, ObjectMeta, PrefixMeta
from zarrmount.cache import directory as directory_module
from zarrmount.cache import disk as disk_module
from zarrmount.cache.directory import CacheDirectory
from zarrmount.cache.disk import DiskCache, why_useless
from zarrmount.cache.memory import WHOLE

KB, MB = 1 << 10, 1 << 20
PAGE = 4096


def name_of(what: object) -> str:
    return blake2b(repr(what).encode(), digest_size=16).hexdigest()


def content(what: object, size: int) -> bytes:
    return random.Random(repr(what)).randbytes(size)


def make(path: Path, limit: int = 64 * MB, min_free: int = 0) -> CacheDirectory:
    return CacheDirectory(path, limit, min_free)


def files(cache: CacheDirectory) -> list[Path]:
    return [path for path in cache.root.glob("??/*") if path.is_file()]


def age(cache: CacheDirectory, name: str, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(cache._path(name), (when, when))


# -- what it gives back ----------------------------------------------------------------------------


def test_it_gives_back_what_was_kept_also_after_a_restart(tmp_path: Path) -> None:
    one, other = name_of(1), name_of(2)
    assert make(tmp_path).write(one, {"version": "é"}, b"bytes")
    assert make(tmp_path).write(other, {}, b"")
    again = make(tmp_path)
    entry = again.read(one)
    assert entry is not None
    assert (entry.about, entry.data, entry.length) == ({"version": "é"}, b"bytes", 5)
    head = again.read(one, with_data=False)
    assert head is not None
    assert (head.data, head.length) == (None, 5)
    assert again.read(name_of(3)) is None
    assert again.measure() == (2 * PAGE, 2)
    assert again.root.stat().st_mode & 0o777 == 0o700


STEPS = strategies.lists(
    strategies.tuples(
        strategies.sampled_from(["put", "get", "remove", "restart", "tend"]),
        strategies.integers(0, 12),
        strategies.integers(0, 60 * KB),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(STEPS, strategies.integers(4 * KB, 400 * KB))
def test_it_stays_within_its_limit_and_never_gives_anything_else(
    steps: list[tuple[str, int, int]], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as path:
        cache, put = make(Path(path), limit), dict[int, bytes]()
        for what, number, size in steps:
            name = name_of(number)
            if what == "put":
                data = content((number, size), size)
                if cache.write(name, {"n": number}, data):
                    put[number] = data
                    assert (found := cache.read(name)) is not None
                    assert found.data == data
            elif what == "get":
                entry = cache.read(name)
                assert entry is None or (entry.data == put[number] and entry.about == {"n": number})
            elif what == "remove":
                cache.remove(name)
                put.pop(number, None)
                assert cache.read(name) is None
            elif what == "restart":
                cache = make(Path(path), limit)
            else:
                cache.tend()
            counted = cache._counters().total() if cache.root.exists() else (0, 0)
            assert counted == cache.measure()
            assert counted[0] <= limit


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = make(tmp_path, limit=20 * 4 * PAGE)
    data = bytes(4 * PAGE - 500)
    for number in range(20):
        assert cache.write(name_of(number), {}, data)
        age(cache, name_of(number), 5000 - number)
    for number in range(5):
        assert cache.read(name_of(number)) is not None  # which is a use
    for number in range(20, 25):
        assert cache.write(name_of(number), {}, data)
    left = {number for number in range(25) if cache.read(name_of(number)) is not None}
    assert set(range(5)) | set(range(20, 25)) <= left
    gone = set(range(25)) - left
    assert gone
    assert gone == set(range(5, 5 + len(gone)))


def test_the_oldest_go_also_where_only_a_part_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "_SAMPLE", 50)
    cache = make(tmp_path, limit=1000 * PAGE)
    for number in range(1000):
        assert cache.write(name_of(number), {}, b"x")
        age(cache, name_of(number), 5000 - number)
    for number in range(1000, 1300):
        assert cache.write(name_of(number), {}, b"x")
    gone = [number for number in range(1300) if not cache._path(name_of(number)).exists()]
    assert len(gone) >= 300
    assert max(gone) < 1000
    assert sum(gone) / len(gone) < 430, "it is no better than chance"  # which gives 500, give or take 16


def test_uses_are_noted_once_a_minute(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.write(name_of(1), {}, b"x")
    path = cache._path(name_of(1))
    age(cache, name_of(1), 30)
    before = path.stat().st_mtime_ns
    cache.read(name_of(1))
    assert path.stat().st_mtime_ns == before
    age(cache, name_of(1), 90)
    cache.read(name_of(1))
    assert path.stat().st_mtime > time.time() - 30


def test_nothing_is_looked_through_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path).write(name_of(1), {}, b"x")

    def scandir(*_: object) -> Iterator[object]:
        raise AssertionError("it looked through a directory")

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "listdir", scandir)
    cache = make(tmp_path)
    assert cache.read(name_of(1)) is not None
    assert cache.write(name_of(2), {}, b"y")


# -- damage ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=strategies.data())
def test_what_is_damaged_is_never_given(data: strategies.DataObject) -> None:
    with tempfile.TemporaryDirectory() as path:
        cache = make(Path(path))
        cache.write(name_of(1), {"version": "1", "size": 300}, content(1, 300))
        file = cache._path(name_of(1))
        raw = bytearray(file.read_bytes())
        at = data.draw(strategies.integers(0, len(raw) - 1))
        if data.draw(strategies.booleans()):
            raw[at] ^= 1 << data.draw(strategies.integers(0, 7))
        else:
            del raw[at:]
        file.write_bytes(raw)
        assert cache.read(name_of(1)) is None
        assert not file.exists()
        assert cache.measure()[1] == 0


def test_damage_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = make(tmp_path)
    for number in range(3):
        cache.write(name_of(number), {}, b"x")
        cache._path(name_of(number)).write_bytes(b"something else that somebody wrote here")
        assert cache.read(name_of(number)) is None
    assert len(caplog.records) == 1
    assert "dropped" in caplog.text
    assert cache.write(name_of(0), {}, b"x")
    assert cache.read(name_of(0)) is not None


def test_an_entry_under_the_name_of_another_is_not_it(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.write(name_of(1), {}, b"one")
    cache.write(name_of(2), {}, b"two")
    cache._path(name_of(1)).replace(cache._path(name_of(2)))
    assert cache.read(name_of(2)) is None


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_counters_that_are_lost_are_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    for number in range(50):
        make(tmp_path).write(name_of(number), {}, b"x")
    usage = make(tmp_path).root / "usage"
    if damage is None:
        usage.unlink()
    else:
        usage.write_bytes(damage)
    cache = make(tmp_path, limit=30 * PAGE)
    assert cache.write(name_of(100), {}, b"x")
    assert cache._counters().total() == cache.measure()
    assert cache.measure()[0] <= 30 * PAGE


def test_a_directory_that_goes_comes_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = make(tmp_path)
    cache.write(name_of(1), {}, b"x")
    cache.root.rename(tmp_path / "gone")
    assert cache.read(name_of(1)) is None
    cache.tend()
    assert cache.write(name_of(2), {}, b"x")
    assert make(tmp_path).measure() == (PAGE, 1)
    assert caplog.records == []


# -- room ------------------------------------------------------------------------------------------


def test_the_disk_keeps_the_room_that_it_was_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = make(tmp_path)
    for number in range(40):
        plenty.write(name_of(number), {}, b"x")
    cache = make(tmp_path, min_free=1 << 60)
    assert not cache.write(name_of(100), {}, b"x")
    assert cache.measure() == (0, 0)
    assert len(caplog.records) == 1
    assert "too full" in caplog.text
    assert not cache.write(name_of(101), {}, b"x")
    assert len(caplog.records) == 1
    cache.min_free = 0
    cache._full_until = 0.0
    assert cache.write(name_of(101), {}, b"x")


def test_a_disk_that_others_fill_gets_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make(tmp_path, min_free=100 * PAGE)
    for number in range(40):
        cache.write(name_of(number), {}, b"x")
    real = os.statvfs(tmp_path)

    class Nearly:
        f_bavail, f_frsize = 90, PAGE

    monkeypatch.setattr(os, "statvfs", lambda _: Nearly)
    cache.tend()
    assert cache.measure() == (30 * PAGE, 30)
    assert real.f_bavail


def test_what_is_too_large_is_left(tmp_path: Path) -> None:
    cache = make(tmp_path, limit=MB)
    cache.write(name_of(1), {}, b"x")
    assert not cache.write(name_of(2), {}, bytes(MB // 2))
    assert cache.read(name_of(1)) is not None


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    path = tmp_path / "tiny"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tiny", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


class Plenty:
    f_bavail, f_frsize = 1 << 30, PAGE


def test_a_full_disk_fails_nothing(
    tiny: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make(tiny)
    monkeypatch.setattr(os, "statvfs", lambda _: Plenty)  # as if somebody else filled it at this moment
    data = {number: content(number, 100 * KB) for number in range(20)}
    kept = {number for number in data if cache.write(name_of(number), {}, data[number])}
    for number in data:
        entry = cache.read(name_of(number))
        assert entry is None or entry.data == data[number]
        assert (entry is not None) <= (number in kept)
    assert 5 <= len(kept) < 20
    cache.tend()
    assert list((cache.root / "incoming").iterdir()) == []
    assert len(caplog.records) == 1


def test_a_full_disk_with_room_to_leave_goes_on_with_what_is_new(tiny: Path) -> None:
    cache = make(tiny, min_free=300 * KB)
    for number in range(40):
        assert cache.write(name_of(number), {}, bytes(50 * KB))
        found = os.statvfs(tiny)
        assert found.f_bavail * found.f_frsize >= 300 * KB
    assert cache.read(name_of(39)) is not None


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_that_others_can_use_is_not_used(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path).write(name_of(1), {}, b"x")
    cache = make(tmp_path)
    cache.root.chmod(mode)
    assert cache.read(name_of(1)) is None
    assert cache.read(name_of(1)) is None
    assert not make(tmp_path).write(name_of(2), {}, b"x")
    assert "yours alone" in caplog.text
    assert len(caplog.records) == 2
    with pytest.raises(PermissionError):
        make(tmp_path).clear()


def test_a_file_in_the_way_fails_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = make(tmp_path / "file")
    for _ in range(3):
        assert cache.read(name_of(1)) is None
        assert not cache.write(name_of(1), {}, b"x")
        cache.remove(name_of(1))
        cache.tend()
    assert 1 <= len(caplog.records) <= 4


# -- several processes -----------------------------------------------------------------------------

HAMMER = """
    import random, sys
    from unit.test_disk_cache import *
    cache = make(Path(sys.argv[1]), limit=2 * MB)
    chance = random.Random(int(sys.argv[2]))
    print("ready", flush=True)
    for turn in range(int(sys.argv[3])):
        number = chance.randrange(200)
        size = chance.randrange(1, 40 * KB)
        if chance.random() < 0.5:
            assert cache.write(name_of(number), {"size": size}, content((number, size), size))
        elif (entry := cache.read(name_of(number))) is not None:
            assert entry.data == content((number, entry.about["size"]), entry.about["size"])
        assert cache._counters().total()[0] <= 2.2 * MB, "past the limit"
    assert not cache._told, cache._told
"""


def hammer(path: Path, seed: int, turns: int) -> subprocess.Popen[str]:
    tests = Path(__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HAMMER), str(path), str(seed), str(turns)],
        env={**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_share_a_directory(tmp_path: Path) -> None:
    processes = [hammer(tmp_path, seed, 800) for seed in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    cache = make(tmp_path, limit=2 * MB)
    counted = cache._counters().total()
    measured = cache.measure()
    assert measured[0] <= 2.2 * MB
    assert abs(counted[0] - measured[0]) <= MB // 4
    assert list((cache.root / "incoming").iterdir()) == []


def test_a_process_that_is_killed_leaves_nothing_that_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(1)
    for seed in range(6):
        process = hammer(tmp_path, seed, 10**9)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        written = make(tmp_path)
        while not (written.root / "incoming").exists() or len(files(written)) < 5:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    cache = make(tmp_path, limit=2 * MB)
    for number in range(200):
        entry = cache.read(name_of(number))
        size = entry.about["size"] if entry is not None else 0
        assert entry is None or entry.data == content((number, size), size)
    assert not cache._told
    counted = cache._counters().total()
    assert abs(counted[0] - cache.measure()[0]) <= 6 * 44 * KB
    (cache.root / "incoming" / "half").write_bytes(b"half")
    monkeypatch.setattr(directory_module, "_ABANDONED_AFTER", -1.0)
    cache.tend()
    assert list((cache.root / "incoming").iterdir()) == []


def test_two_threads_share_one(tmp_path: Path) -> None:
    cache = make(tmp_path, limit=MB)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            number = chance.randrange(60)
            cache.write(name_of(number), {}, content(number, 30 * KB))
            entry = cache.read(name_of(chance.randrange(60)))
            assert entry is None or len(entry.data or b"") == 30 * KB

    threads = [threading.Thread(target=partial(work, seed)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not cache._told
    assert cache.measure()[0] <= 1.2 * MB


# -- one store's -----------------------------------------------------------------------------------

META = ObjectMeta("a/key", 5, 123, "v1")


async def written(cache: DiskCache) -> None:
    """Let all that waits be written."""
    await cache._write_waiting()


async def test_the_last_version_of_a_whole_object_is_known_by_its_key(tmp_path: Path) -> None:
    cache = DiskCache(make(tmp_path), "s3://b")
    cache.keep(META, {WHOLE: b"bytes"})
    await written(cache)
    again = DiskCache(make(tmp_path), "s3://b")
    assert await again.object("a/key") == (b"bytes", META)
    assert await again.blocks(META, [WHOLE]) == {WHOLE: b"bytes"}
    newer = ObjectMeta("a/key", 6, 124, "v2")
    assert await again.blocks(newer, [WHOLE]) == {}
    assert await again.object("a/other") is None
    assert await DiskCache(make(tmp_path), "s3://c").object("a/key") is None
    cache.keep(newer, {WHOLE: b"newer!"})
    await written(cache)
    assert await again.object("a/key") == (b"newer!", newer)
    assert await again.blocks(META, [WHOLE]) == {}


async def test_blocks_of_versions_do_not_meet(tmp_path: Path) -> None:
    cache = DiskCache(make(tmp_path), "s3://b")
    newer = ObjectMeta("a/key", 5, 124, "v2")
    cache.keep(META, {0: b"old 0", 1: b"old 1"})
    cache.keep(newer, {0: b"new 0"})
    await written(cache)
    assert await cache.blocks(META, range(3)) == {0: b"old 0", 1: b"old 1"}
    assert await cache.blocks(newer, range(3)) == {0: b"new 0"}
    assert await cache.object("a/key") is None


async def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    cache = DiskCache(make(tmp_path), "s3://b")
    cache.keep(META, {WHOLE: b"bytes", 0: b"block"})
    await written(cache)
    before = {path: path.stat().st_ino for path in files(cache._directory)}
    cache.keep(META, {WHOLE: b"bytes", 0: b"block"})
    await written(cache)
    assert {path: path.stat().st_ino for path in files(cache._directory)} == before


async def test_only_of_a_store_that_does_not_change_is_told_what_it_told(tmp_path: Path) -> None:
    changing = DiskCache(make(tmp_path), "s3://b")
    immutable = DiskCache(make(tmp_path), "s3://b", immutable=True)
    changing.keep(META, {3: b"block"})
    await written(changing)
    assert await immutable.told("a/key") is None
    assert await immutable.told("a") is None
    immutable.keep(META, {3: b"block"})
    await written(immutable)
    assert await immutable.told("a/key") == Lookup(object=META)
    assert await immutable.told("a") == Lookup(prefix=PrefixMeta("a"))
    assert await immutable.told("b") is None
    assert await changing.told("a/key") is None
    assert await immutable.object("a/key") is None, "it was not read as a whole"
    immutable.keep(META, {WHOLE: b"bytes"})
    immutable.keep(META, {4: b"more"})
    await written(immutable)
    assert await immutable.object("a/key") == (b"bytes", META)
    assert await immutable.told("a/key") == Lookup(object=META)
    immutable.forget("a/key")
    await written(immutable)
    assert await immutable.told("a/key") is None


async def test_what_there_is_no_room_for_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "_MOST_WAITING", 10 * KB)
    cache = DiskCache(make(tmp_path), "s3://b")
    for index in range(20):
        cache.keep(META, {index: bytes(KB)})
    await written(cache)
    assert len(files(cache._directory)) == 6
    assert cache._bytes_taken == cache._bytes_done
    cache.keep(META, {30: bytes(KB)})
    assert len(cache._waiting) == 1


async def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    cache = DiskCache(make(tmp_path), "s3://b")
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        cache.keep(META, {WHOLE: b"bytes"})
        nursery.cancel_scope.cancel()
    assert await cache.object("a/key") == (b"bytes", META)


class Stuck(CacheDirectory):
    """A directory on a disk that does not answer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 64 * MB, 0)
        self.released = threading.Event()
        self.asked = 0

    def read(self, name: str, *, with_data: bool = True) -> None:
        self.asked += 1
        assert self.released.wait(60)


async def test_a_disk_that_does_not_answer_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_module, "_PATIENCE", 0.05)
    monkeypatch.setattr(disk_module, "_LAST_WRITES", 0.05)
    stuck = Stuck(tmp_path)
    cache = DiskCache(stuck, "s3://b")
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(cache.run)
            for _ in range(5):
                assert await cache.object("a/key") is None
            assert stuck.asked == 1
            assert len(caplog.records) == 1
            cache.keep(META, {WHOLE: b"bytes"})
            while stuck.asked < 2:
                await trio.sleep(0.001)
            cache.keep(META, {WHOLE: b"bytes"})
            nursery.cancel_scope.cancel()
    finally:
        stuck.released.set()


async def test_a_fault_of_its_own_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache(make(tmp_path), "s3://b")
    cache._later(0, partial(int, "fault"))
    cache.keep(META, {WHOLE: b"bytes"})
    await written(cache)
    assert "a fault in zarrmount" in caplog.text
    assert await cache.object("a/key") == (b"bytes", META)


# -- for which stores ------------------------------------------------------------------------------


class Place:
    near = False

    def __init__(self, **can: bool) -> None:
        self.capabilities = Capabilities(**can)


@pytest.mark.parametrize(
    ("location", "can", "why"),
    [
        ("s3://b/x", {"versions": True}, None),
        ("zip::s3://b/x.zip", {"versions": True}, None),
        ("sftp://h/x", {}, "does not tell versions"),
        ("/data/x.zarr", {"versions": True}, "on this machine"),
        ("/data/x.zarr.zip", {"versions": True, "snapshot_reads": True}, "on this machine"),
        ("file:///data/x.zarr", {"versions": True}, "on this machine"),
        ("memory://x", {"versions": True}, "of this process"),
        ("zip::memory://x", {"versions": True}, "of this process"),
        ("python:m:f", {"versions": True}, "of this process"),
    ],
)
def test_which_stores_have_use_of_it(location: str, can: dict[str, bool], why: str | None) -> None:
    said = why_useless(location, Place(**can))  # type: ignore[arg-type]
    assert said is None if why is None else why in (said or "")


def test_nothing_is_logged_of_what_is_usual(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cache = make(tmp_path / "new" / "directory")
    assert cache.measure() == (0, 0)
    cache.clear()
    cache.tend()
    assert not (tmp_path / "new").exists(), "looking made it"
    assert cache.read(name_of(1)) is None
    assert cache.write(name_of(1), {}, b"x")
    cache.clear()
    assert cache.measure() == (0, 0)
    assert caplog.records == []
