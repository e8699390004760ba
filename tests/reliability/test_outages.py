"""Full disks, expired credentials, a server that is gone for a while or for good."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.harness import Mounted, is_mounted, mounted, zarrmount
from mount.places import S3Backdoor, s3_options
from reliability.faulty_proxy import FaultyProxy, faulty_proxy
from reliability.tally import SOAK, TALLY

from servers import S3Server

AWAY = 30.0 if SOAK else 4.0
MIB = 1 << 20

TRY = """
begun = time.monotonic()
try:
    result = ["ok", work()]
except OSError as error:
    result = [errno.errorcode[error.errno], None]
result.append(time.monotonic() - begun)
"""
STORE = """
import time
def work():
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
"""
READ = """
import time
def work():
    with open(path, "rb") as file:
        return file.read().decode()
"""
LIST = """
import time
def work():
    return sorted(os.listdir(path))
"""
SYNC = """
import time
def work():
    file = os.open(path, os.O_RDWR)
    os.fsync(file)
    os.close(file)
"""


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


@pytest.mark.parametrize("name", ["store", "store.zip"])
def test_a_full_store_tells_at_close_and_keeps_the_bytes(tmp_path: Path, name: str) -> None:
    with tmpfs(tmp_path / "disk", "8m") as disk:
        store = disk / name
        with mounted(store, tmp_path, "--create") as mount:
            first, second = "1234567 " * (3 * MIB // 8), "abcdefg " * (6 * MIB // 8)
            assert mount.python(STORE + TRY, path="first", text=first[:64])[0] == "ok"
            (disk / "ballast").write_bytes(bytes(4 * MIB))
            assert mount.python(STORE + TRY, path="second", text=second)[0] == "ENOSPC"
            assert mount.python(READ + TRY, path="second")[1] == second
            assert mount.python(READ + TRY, path="first")[1] == first[:64]
            status, keys, message = umount(mount)
            assert status != 0
            assert "second" in keys
            assert "stays" in message
            assert mount.python(STORE + TRY, path="first", text=first[:128])[0] == "ok"
            (disk / "ballast").unlink()
            assert mount.python(SYNC + TRY, path="second")[0] == "ok"
            mount.python("os.unlink('first')")
        if name == "store":
            assert (store / "second").read_text() == second
        else:
            with zipfile.ZipFile(store) as archive:
                assert archive.testzip() is None
                assert archive.read("second").decode() == second
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
        yield Site(proxy, f"s3://{bucket}/store", options, backdoor)
    TALLY.add("outages")


def test_credentials_that_expire(site: Site, tmp_path: Path) -> None:
    with mounted(site.location, tmp_path, *site.options, "--metadata-ttl", "0.2") as mount:
        assert mount.python(STORE + TRY, path="dir/one", text="1")[0] == "ok"
        site.proxy.blocked = "expired"
        number, _, seconds = mount.python(STORE + TRY, path="dir/one", text="two")
        assert number == "EACCES"
        assert seconds < 10
        assert mount.python(READ + TRY, path="dir/one")[1] == "two"
        assert mount.python(READ + TRY, path="far/away")[0] == "EACCES"
        assert site.backdoor.read("dir/one") == b"1"
        assert "ExpiredToken" in mount.read_log()
        status, keys, _ = umount(mount)
        assert (status != 0, "dir/one" in keys) == (True, True)
        site.proxy.blocked = ""
        assert mount.python(SYNC + TRY, path="dir/one")[0] == "ok"
        assert site.backdoor.read("dir/one") == b"two"
        assert mount.python(READ + TRY, path="far/away")[1] == "never looked at"


@pytest.mark.parametrize("how", ["refused", "503"])
def test_a_server_that_is_gone_for_a_while(site: Site, tmp_path: Path, how: str) -> None:
    words = ("--metadata-ttl", "0.2", "--read-timeout", "90", "--write-timeout", "90")
    with mounted(site.location, tmp_path, *site.options, *words) as mount:
        mount.sh("ls dir")
        site.proxy.blocked = how
        calls = {
            "stored": (STORE, {"path": "dir/new", "text": "new bytes"}),
            "read": (READ, {"path": "dir/known"}),
            "found": (READ, {"path": "far/away"}),
            "listed": (LIST, {"path": "far"}),
        }
        with _at_once(mount, calls) as answers:
            time.sleep(AWAY)
            site.proxy.blocked = ""
        assert {name: answer[:2] for name, answer in answers.items()} == {
            "stored": ["ok", None],
            "read": ["ok", "known bytes"],
            "found": ["ok", "never looked at"],
            "listed": ["ok", ["away"]],
        }
        assert all(answer[2] > AWAY - 1 for answer in answers.values()), answers
        assert site.backdoor.read("dir/new") == b"new bytes"


@pytest.mark.parametrize("how", ["refused", "stall_request", "stall_response", "503", "truncated"])
def test_a_server_that_is_gone_for_good(site: Site, tmp_path: Path, how: str) -> None:
    words = ("--metadata-ttl", "indefinite", "--read-timeout", "3", "--write-timeout", "3")
    with mounted(site.location, tmp_path, *site.options, *words, umount=False) as mount:
        assert mount.sh("ls dir") == "known\nother\n"
        assert mount.sh("cat dir/other") == "other bytes"
        site.proxy.blocked = how
        calls = {
            "known": (READ, {"path": "dir/known"}),
            "away": (READ, {"path": "far/away"}),
            "list": (LIST, {"path": "far"}),
            "store": (STORE, {"path": "dir/kept", "text": "kept bytes"}),
            "ls": (LIST, {"path": "dir"}),
        }
        with _at_once(mount, calls) as answers:
            pass
        assert answers.pop("ls")[1] in (["kept", "known", "other"], ["known", "other"])
        assert {name: answer[0] for name, answer in answers.items()} == dict.fromkeys(answers, "EIO")
        assert all(answer[2] < 3 * 3 + 2 for answer in answers.values()), answers
        assert mount.python(READ + TRY, path="dir/kept")[1] == "kept bytes"
        assert mount.python(READ + TRY, path="dir/other")[1] == "other bytes"
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
def _at_once(mount: Mounted, calls: dict[str, tuple[str, dict[str, str]]]) -> Iterator[dict[str, list]]:  # type: ignore[type-arg]
    """Make calls at once, each in a process of its own; the answers are there afterwards."""
    from concurrent.futures import ThreadPoolExecutor

    answers: dict[str, list] = {}  # type: ignore[type-arg]
    with ThreadPoolExecutor(len(calls)) as pool:
        running = {
            name: pool.submit(mount.python, code + TRY, **values) for name, (code, values) in calls.items()
        }
        yield answers
        for name, future in running.items():
            answers[name] = future.result()
