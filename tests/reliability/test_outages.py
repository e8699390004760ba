"""Full disks, expired credentials, a server that is gone for a while or for good."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mount.harness import Mounted, is_mounted, mounted, wait_for, zarrmount
from mount.places import S3Backdoor, s3_options
from reliability.faulty_proxy import FaultyProxy, faulty_proxy
from reliability.tally import SOAK, TALLY
from servers import S3Server

AWAY = 30.0 if SOAK else 4.0
MIB = 1 << 20
LIMIT = 1.5

CALLS = """
import errno, json, os, sys, time

def put(path, text):
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)

def put_slowly(path, text, written, go):
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(file, text.encode())
    open(written, "w").close()
    while not os.path.exists(go):
        time.sleep(0.01)
    os.close(file)

def get(path):
    with open(path, "rb") as file:
        return file.read().decode()

def names(path):
    return sorted(os.listdir(path))

def sync(path):
    file = os.open(path, os.O_RDWR)
    os.fsync(file)
    os.close(file)

begun = time.monotonic()
call, *arguments = json.load(sys.stdin)
try:
    result = ["ok", globals()[call](*arguments)]
except OSError as error:
    result = [errno.errorcode[error.errno], None]
print(json.dumps([*result, time.monotonic() - begun]))
"""


@dataclasses.dataclass
class Answer:
    """What a system call said, or the name of its errno, and how long it took."""

    said: str
    result: Any
    seconds: float


def ask(mount: Mounted, call: str, path: str, *more: str) -> Answer:
    """Make a call on a path of a mount, in a process that does not otherwise touch it."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", CALLS],
        cwd="/",
        input=json.dumps([call, str(mount.path / path), *more]),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return Answer(*json.loads(done.stdout))


@contextlib.contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Path]:
    """Mount a file system in memory that is soon full."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def umount(mount: Mounted, *words: str) -> tuple[int, str, str]:
    done = zarrmount("umount", *words, mount.path, environment=mount.environment)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


# -- full disks ------------------------------------------------------------------------------------

FILL = """
other = os.open("other", os.O_CREAT | os.O_RDWR)
os.write(other, b"in memory")
file = os.open("big", os.O_CREAT | os.O_RDWR)
written = 0
try:
    while written < 300 << 20:
        written += os.write(file, (b"%8d" % (written >> 20)) * (1 << 17))
except OSError as error:
    result = [errno.errorcode[error.errno], written]
assert os.pread(other, 100, 0) == b"in memory"
assert os.fstat(file).st_size == written
os.close(file)
os.close(other)
"""


@pytest.mark.parametrize("size", ["1m", "100m"])
def test_a_full_staging_disk_tells_the_writer(tmp_path: Path, size: str) -> None:
    store = tmp_path / "store"
    with tmpfs(tmp_path / "state" / "zarrmount" / "staging", size):
        with mounted(store, tmp_path, "--create") as mount:
            mount.sh("echo before > before")
            number, written = mount.python(FILL)
            assert number == "ENOSPC"
            assert written >= 60 * MIB
            mount.sh("echo after > after")
    big = (store / "big").read_bytes()
    assert len(big) == written
    assert all(
        big[start : start + MIB] == (b"%8d" % (start >> 20)) * (1 << 17) for start in range(0, written, MIB)
    )
    names = ("before", "after", "other")
    assert [(store / name).read_text() for name in names] == ["before\n", "after\n", "in memory"]
    TALLY.add("outages")


@pytest.mark.parametrize(("name", "megabytes"), [("store", 8), ("store.zip", 16)])
def test_a_full_store_tells_at_close_and_keeps_the_bytes(tmp_path: Path, name: str, megabytes: int) -> None:
    # A zip needs room for what is pending and for the new archive.
    with tmpfs(tmp_path / "disk", f"{megabytes}m") as disk:
        store = disk / name
        with mounted(store, tmp_path, "--create") as mount:
            first, second = "1234567 " * 100, "abcdefg " * (6 * MIB // 8)
            assert ask(mount, "put", "first", first[:64]).said == "ok"
            (disk / "ballast").write_bytes(bytes((megabytes - 4) * MIB))
            assert ask(mount, "put", "second", second).said == "ENOSPC"
            assert ask(mount, "get", "second").result == second
            assert ask(mount, "get", "first").result == first[:64]
            status, keys, message = umount(mount)
            assert status != 0
            assert "second" in keys
            assert "stays" in message
            assert ask(mount, "put", "first", first[:128]).said == "ok"
            (disk / "ballast").unlink()
            assert ask(mount, "sync", "second").said == "ok"
            mount.python("os.unlink('first')")
        if name == "store":
            assert (store / "second").read_text() == second
        else:
            with zipfile.ZipFile(store) as archive:
                assert archive.testzip() is None
                assert archive.read("second").decode() == second
    TALLY.add("outages")


@pytest.mark.parametrize("taken_up_by", ["mount", "compact"])
def test_a_zip_whose_disk_is_full_at_unmount(tmp_path: Path, taken_up_by: str) -> None:
    """The archive stays as it was; what waits beside it is there for whoever opens it next."""
    first, second, third = "1234567 " * (5 * MIB // 8), "abcdefg " * (MIB // 8), "later"
    with tmpfs(tmp_path / "disk", "16m") as disk:
        store, ballast = disk / "store.zip", disk / "ballast"
        with mounted(store, tmp_path, "--create") as mount:
            assert ask(mount, "put", "first", first).said == "ok"
        before = store.read_bytes()
        with mounted(store, tmp_path, umount=False) as mount:
            assert ask(mount, "put", "second", second).said == "ok"
            ballast.write_bytes(bytes(7 * MIB))
            status, keys, message = umount(mount)
            assert status != 0
            assert not is_mounted(mount.path)
            assert "No space left on device" in keys
            assert f"the changes wait in '{store}.pending'" in keys
            assert "not everything" in message
        assert store.read_bytes() == before
        full = zarrmount("compact", store, environment=mount.environment)
        assert (full.returncode, full.stdout) == (1, "")
        assert "there is no room" in full.stderr
        assert len(full.stderr.splitlines()) == 1
        assert store.read_bytes() == before
        with mounted(store, tmp_path, "--read-only") as mount:
            assert ask(mount, "get", "second").result == second
        ballast.unlink()
        if taken_up_by == "mount":
            with mounted(store, tmp_path) as mount:
                assert ask(mount, "get", "second").result == second
                assert ask(mount, "put", "third", third).said == "ok"
        else:
            done = zarrmount("compact", store, environment=mount.environment)
            assert (done.returncode, done.stderr) == (0, "")
        assert [path.name for path in disk.iterdir()] == ["store.zip"]
        with zipfile.ZipFile(store) as archive:
            found = {name: archive.read(name).decode() for name in archive.namelist()}
        assert found == {"first": first, "second": second} | (
            {"third": third} if taken_up_by == "mount" else {}
        )
    TALLY.add("outages")


# -- a server that refuses, or is gone -------------------------------------------------------------


@dataclasses.dataclass
class Site:
    """A bucket behind a proxy."""

    proxy: FaultyProxy
    location: str
    options: tuple[str, ...]
    backdoor: S3Backdoor


@pytest.fixture
def site(gateway: S3Server) -> Iterator[Site]:
    bucket = gateway.create()
    with faulty_proxy(gateway.endpoint) as proxy:
        options = s3_options(dataclasses.replace(gateway, endpoint=proxy.endpoint))
        backdoor = S3Backdoor(gateway, bucket, "store/")
        backdoor.write("dir/known", b"known bytes")
        backdoor.write("dir/other", b"other bytes")
        backdoor.write("far/away", b"never looked at")
        backdoor.write("cached/one", b"1")
        yield Site(proxy, f"s3://{bucket}/store", options, backdoor)
    TALLY.add("outages")


def test_credentials_that_expire(site: Site, tmp_path: Path) -> None:
    with mounted(site.location, tmp_path, *site.options, "--metadata-ttl", "2") as mount:
        assert ask(mount, "put", "dir/one", "1").said == "ok"
        written, go = tmp_path / "written", tmp_path / "go"
        with _at_once(mount, {"put": ("put_slowly", "dir/one", "two", str(written), str(go))}) as answers:
            wait_for(written.exists)
            site.proxy.blocked = "expired"
            go.touch()
        assert answers["put"].said == "EACCES"
        assert answers["put"].seconds < 10
        assert ask(mount, "put", "dir/three", "3").said == "EACCES"
        assert ask(mount, "get", "dir/one").result == "two"
        time.sleep(2.1)  # nothing is known for sure of its directory any more
        assert ask(mount, "get", "dir/one").result == "two"
        assert ask(mount, "get", "far/away").said == "EACCES"
        assert site.backdoor.read("dir/one") == b"1"
        assert "ExpiredToken" in mount.read_log()
        status, keys, _ = umount(mount)
        assert (status != 0, "dir/one" in keys) == (True, True)
        site.proxy.blocked = ""
        assert ask(mount, "sync", "dir/one").said == "ok"
        assert site.backdoor.read("dir/one") == b"two"
        assert ask(mount, "get", "far/away").result == "never looked at"


@pytest.mark.parametrize("how", ["refused", "503"])
def test_a_server_that_is_gone_for_a_while(site: Site, tmp_path: Path, how: str) -> None:
    words = ("--metadata-ttl", "0.2", "--read-timeout", "90", "--write-timeout", "90")
    with mounted(site.location, tmp_path, *site.options, *words) as mount:
        mount.sh("ls dir")
        site.proxy.blocked = how
        calls = {
            "stored": ("put", "dir/new", "new bytes"),
            "read": ("get", "dir/known"),
            "found": ("get", "far/away"),
            "listed": ("names", "far"),
        }
        with _at_once(mount, calls) as answers:
            time.sleep(AWAY)
            site.proxy.blocked = ""
        assert {name: (answer.said, answer.result) for name, answer in answers.items()} == {
            "stored": ("ok", None),
            "read": ("ok", "known bytes"),
            "found": ("ok", "never looked at"),
            "listed": ("ok", ["away"]),
        }
        assert all(answer.seconds > AWAY - 1 for answer in answers.values()), answers
        assert site.backdoor.read("dir/new") == b"new bytes"


@pytest.mark.parametrize("how", ["refused", "stall_request", "stall_response", "503", "truncated"])
def test_a_server_that_is_gone_for_good(site: Site, tmp_path: Path, how: str) -> None:
    words = ("--metadata-ttl", "indefinite", "--read-timeout", f"{LIMIT}", "--write-timeout", f"{LIMIT}")
    with mounted(site.location, tmp_path, *site.options, *words, umount=False) as mount:
        assert mount.sh("ls dir") == "known\nother\n"
        assert mount.sh("cat dir/other; ls cached") == "other bytesone\n"
        site.proxy.blocked = how
        calls = {
            "known": ("get", "dir/known"),
            "away": ("get", "far/away"),
            "list": ("names", "far"),
            "store": ("put", "dir/kept", "kept bytes"),
            "ls": ("names", "cached"),
        }
        with _at_once(mount, calls) as answers:
            pass
        assert answers.pop("ls").result == ["one"]
        assert {name: answer.said for name, answer in answers.items()} == dict.fromkeys(answers, "EIO")
        # A file in a directory takes up to three questions.
        assert all(LIMIT - 0.2 < answer.seconds < 3 * LIMIT + 2 for answer in answers.values()), answers
        assert ask(mount, "get", "dir/kept").result == "kept bytes"
        assert ask(mount, "get", "dir/other").result == "other bytes"
        status, keys, message = umount(mount)
        assert status != 0
        assert "dir/kept" in keys
        assert "stays" in message
        assert is_mounted(mount.path)
        status, keys, message = umount(mount, "--force")
        assert status != 0
        assert not is_mounted(mount.path)
        (saved,) = (tmp_path / "state").rglob("unsaved/*/dir/kept")
        assert str(saved) in keys
        assert saved.read_text() == "kept bytes"


@contextlib.contextmanager
def _at_once(mount: Mounted, calls: dict[str, tuple[str, ...]]) -> Iterator[dict[str, Answer]]:
    """Make calls at once, each in a process of its own; the answers are there afterwards."""
    answers: dict[str, Answer] = {}
    with ThreadPoolExecutor(len(calls)) as pool:
        running = {name: pool.submit(ask, mount, *call) for name, call in calls.items()}
        yield answers
        for name, future in running.items():
            answers[name] = future.result()
