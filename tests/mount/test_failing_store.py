"""A store that fails: the writer is told at its close, and no byte is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.harness import Mounted, is_mounted, mounted, wait_for, zarrmount

from zarrmount import registry

BYTES = "these bytes must not be lost " * 1000
WRITE = """
file = os.open("dir/file", os.O_CREAT | os.O_WRONLY)
os.write(file, text.encode())
try:
    os.close(file)
except OSError as error:
    result = errno.errorcode[error.errno]
"""


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    return tmp_path / "fails"


@pytest.fixture
def mount(tmp_path: Path, flag: Path) -> Iterator[Mounted]:
    words = ("--storage-option", f"flag={flag}", "--write-timeout", "1")
    with mounted("python:mount.failing_stores:fails_while", tmp_path, *words, umount=False) as mount:
        mount.sh("mkdir dir; echo before > dir/before")
        yield mount


def umount(mount: Mounted, *words: str) -> tuple[int, str, str]:
    done = zarrmount("umount", *words, mount.path, environment=mount.environment)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_close_tells_and_the_bytes_stay(mount: Mounted, flag: Path) -> None:
    flag.touch()
    assert mount.python(WRITE, text=BYTES) == "EIO"
    assert mount.sh("cat dir/file") == BYTES
    assert mount.sh("ls dir") == "before\nfile\n"
    assert mount.errno_of("f = os.open('dir/file', os.O_RDWR); os.fsync(f)") == "EIO"
    assert "dir/file" in mount.read_log()
    status, keys, message = umount(mount)
    assert status != 0
    assert "dir/file" in keys
    assert "stays" in message
    assert is_mounted(mount.path)
    assert mount.sh("cat dir/file") == BYTES


def test_when_the_store_recovers_umount_stores_them(mount: Mounted, flag: Path) -> None:
    flag.touch()
    assert mount.python(WRITE, text=BYTES) == "EIO"
    flag.unlink()
    assert umount(mount) == (0, "", "")
    assert not is_mounted(mount.path)


def test_when_the_store_recovers_fsync_stores_them(mount: Mounted, flag: Path) -> None:
    flag.touch()
    assert mount.python(WRITE, text=BYTES) == "EIO"
    flag.unlink()
    mount.python("f = os.open('dir/file', os.O_RDWR); os.fsync(f); os.close(f)")
    assert umount(mount)[0::2] == (0, "")


def test_forced_unmount_saves_them_in_a_file(mount: Mounted, flag: Path, tmp_path: Path) -> None:
    flag.touch()
    assert mount.python(WRITE, text=BYTES) == "EIO"
    status, keys, message = umount(mount, "--force")
    assert status != 0
    assert not is_mounted(mount.path)
    assert "unmounted" in message
    (saved,) = (tmp_path / "state").rglob("unsaved/*/dir/file")
    assert saved.read_text() == BYTES
    assert str(saved) in keys
    assert str(saved) in mount.read_log()


def test_a_terminated_mount_saves_them_in_a_file(mount: Mounted, flag: Path, tmp_path: Path) -> None:
    flag.touch()
    assert mount.python(WRITE, text=BYTES) == "EIO"
    found = registry.find(mount.path)
    assert found is not None
    os.kill(found.pid, signal.SIGTERM)
    wait_for(lambda: "SIGTERM" in mount.read_log())
    os.kill(found.pid, signal.SIGTERM)  # it would go on trying for minutes
    wait_for(lambda: not Path(f"/proc/{found.pid}").exists())
    assert not is_mounted(mount.path)
    (saved,) = (tmp_path / "state").rglob("unsaved/*/dir/file")
    assert saved.read_text() == BYTES
    assert str(saved) in mount.read_log()


def test_an_unlinked_file_is_not_missed(mount: Mounted, flag: Path) -> None:
    flag.touch()
    assert mount.python(WRITE, text=BYTES) == "EIO"
    mount.sh("rm dir/file; ls dir")
    assert umount(mount) == (0, "", "")


def test_truncate_and_mknod_tell_at_once(mount: Mounted, flag: Path) -> None:
    flag.touch()
    assert mount.errno_of("os.truncate('dir/before', 2)") == "EIO"
    assert mount.errno_of("os.mknod('dir/new')") == "EIO"
    assert mount.python("result = os.path.exists('dir/new')") is False
    flag.unlink()
    assert umount(mount)[0] == 0


def test_a_rename_that_failed_half_way_is_looked_at_again(tmp_path: Path, flag: Path) -> None:
    flag.write_text("well")
    words = ("--storage-option", f"flag={flag}", "--write-timeout", "1", "--metadata-ttl", "60")
    with mounted("python:mount.failing_stores:does_as_told", tmp_path, *words) as mount:
        mount.sh("mkdir dir; echo before > dir/before")
        flag.write_text("lose")
        assert mount.python(WRITE, text=BYTES) == "EIO"
        flag.write_text("lose deletions")
        assert mount.errno_of("os.rename('dir/file', 'dir/new')") == "EIO"
        flag.write_text("well")
        # To the kernel both names were one file, of which a rename is done by doing nothing.
        wait_for(lambda: mount.errno_of("os.rename('dir/file', 'dir/new')") == "ENOENT")
        assert mount.sh("ls dir") == "before\nnew\n"
        assert mount.sh("cat dir/new") == BYTES
