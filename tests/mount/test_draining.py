"""What a person sees while staged bytes are stored at the end, and how he stops waiting for it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mount.harness import DEADLINE, Mounted, clear, environment, in_foreground, is_mounted, mounted, wait_for

from zarrmount import registry
from zarrmount.control import Request

LOCATION = "python:mount.failing_stores:does_as_told"
FILES = {f"dir/f{number}": "these bytes must not be lost " * 1000 for number in range(3)}
WRITE = """
os.mkdir("dir")
result = []
for name, text in files.items():
    file = os.open(name, os.O_CREAT | os.O_WRONLY)
    os.write(file, text.encode())
    try:
        os.close(file)
    except OSError as error:
        result.append(errno.errorcode[error.errno])
"""


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    made = tmp_path / "flag"
    made.write_text("well")
    return made


def say(flag: Path, word: str) -> None:
    """Tell the store how it is to be written to, in one step."""
    fresh = flag.with_name("fresh")
    fresh.write_text(word)
    fresh.replace(flag)


def write_dirty(mount: Mounted, flag: Path) -> None:
    """Leave files that the store does not have, and that nobody has open."""
    say(flag, "refuse")
    assert mount.python(WRITE, files=FILES) == ["EACCES"] * 3


@pytest.fixture
def mount(tmp_path: Path, flag: Path) -> Iterator[Mounted]:
    with mounted(LOCATION, tmp_path, "--storage-option", f"flag={flag}", umount=False) as mount:
        write_dirty(mount, flag)
        yield mount


@contextmanager
def umount(mount: Mounted, stderr: int, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "zarrmount", "umount", *words, str(mount.path)]
    variables = mount.environment | {"TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen(
        command, stderr=stderr, stdout=subprocess.PIPE, text=True, env=variables
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def pid_of(mount: Mounted) -> int:
    found = registry.find(mount.path)
    assert found is not None
    return found.pid


def stays_mounted(mount: Mounted) -> None:
    """Let what was begun go on to its end, which must not be the end of the mount.

    Nothing here is busy in the mount, or it could not be taken off by mistake.
    """
    found = registry.find(mount.path)
    assert found is not None

    def dirty() -> list[object]:
        with Request(found.socket, {"do": "ping"}) as request:
            return next(iter(request))["dirty"]

    wait_for(lambda: not dirty())
    time.sleep(0.5)  # nothing tells that something will never happen
    assert is_mounted(mount.path)


# -- what is shown ---------------------------------------------------------------------------------


def test_a_bar_on_a_terminal(mount: Mounted, flag: Path) -> None:
    say(flag, "fail")
    ours, theirs = pty.openpty()
    seen = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, umount(mount, theirs) as process:
        os.close(theirs)
        while not (b"0 of 3 files" in seen and b"retrying 'dir/f" in seen and b"it fails" in seen):
            seen += terminal.read(65536)  # ends when the command does
        assert "━".encode() in seen
        assert b"0 bytes of 87.0 kB" in seen
        assert b"bytes/s" in seen
        say(flag, "well")
        assert process.wait(DEADLINE) == 0
    assert not is_mounted(mount.path)


def test_lines_elsewhere(mount: Mounted, flag: Path) -> None:
    say(flag, "fail")
    began = time.monotonic()
    with umount(mount, subprocess.PIPE) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        say(flag, "well")
        rest = process.stderr.read()
        assert process.wait(DEADLINE) == 0
    assert first.startswith("storing: 0 of 3 files, 0 bytes of 87.0 kB, 0 bytes/s; retrying 'dir/f")
    assert "the flag says that it fails" in first
    lines = rest.splitlines()
    assert len(lines) <= (time.monotonic() - began) / 5
    assert all(line.startswith("storing: ") for line in lines)


# -- who does not wait -----------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("--force",)])
def test_an_interrupted_umount_leaves_the_mount_as_it_is(
    mount: Mounted, flag: Path, words: tuple[str, ...]
) -> None:
    say(flag, "hang")
    pid = pid_of(mount)
    for _ in range(2):  # while what the first one began still hangs
        with umount(mount, subprocess.PIPE, *words) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("storing: 0 of 3 files")
            process.send_signal(signal.SIGINT)
            said, errors = process.communicate(timeout=DEADLINE)
        (last,) = (line for line in errors.splitlines() if not line.startswith("storing: "))
        assert last == f"zarrmount: {mount.path} stays mounted; 3 files are not stored yet"
        assert (process.returncode, said) == (130, "")
        assert is_mounted(mount.path)
        assert pid_of(mount) == pid
    assert {name: mount.sh(f"cat {name}") for name in FILES} == FILES
    say(flag, "well")
    stays_mounted(mount)
    mount.sh("echo more > dir/more; cat dir/more")
    with umount(mount, subprocess.PIPE) as process:
        said, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, said, errors) == (0, "", "")
    assert not is_mounted(mount.path)
    assert "Traceback" not in mount.read_log()


def test_a_killed_umount_leaves_the_mount_as_it_is(mount: Mounted, flag: Path) -> None:
    say(flag, "hang")
    with umount(mount, subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("storing: ")
        process.kill()
    say(flag, "well")
    stays_mounted(mount)
    with umount(mount, subprocess.PIPE) as process:
        assert process.communicate(timeout=DEADLINE) == ("", "")
    assert process.returncode == 0


# -- signals ---------------------------------------------------------------------------------------


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "mnt"
    made.mkdir()
    yield made
    clear(made)


@pytest.mark.parametrize("how", ["hang", "fail"])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, mountpoint: Path, flag: Path, how: str) -> None:
    log = tmp_path / "log"
    words = ("--storage-option", f"flag={flag}", "--log-file", str(log))
    with in_foreground(LOCATION, mountpoint, tmp_path, *words) as process:
        mount = Mounted(mountpoint, log, environment(tmp_path))
        write_dirty(mount, flag)
        say(flag, how)
        process.terminate()
        wait_for(lambda: "storing: 0 of 3 files, 0 bytes of 87.0 kB" in mount.read_log())
        assert is_mounted(mountpoint)
        process.terminate()
        began = time.monotonic()
        assert process.wait(DEADLINE) == 1
        assert time.monotonic() - began < 10  # and not the two minutes that a put may take
    assert not is_mounted(mountpoint)
    _is_saved(tmp_path, mount, *FILES)


def _is_saved(tmp_path: Path, mount: Mounted, *keys: str) -> None:
    for key in keys:
        (saved,) = (tmp_path / "state").rglob(f"unsaved/*/{key}")
        assert saved.read_text() == FILES[key]
        assert re.search(f"'{key}' could not be stored; its bytes are in {saved}", mount.read_log())


def test_a_second_signal_ends_it_though_a_close_hangs(tmp_path: Path, mountpoint: Path, flag: Path) -> None:
    log = tmp_path / "log"
    words = ("--storage-option", f"flag={flag}", "--log-file", str(log))
    with in_foreground(LOCATION, mountpoint, tmp_path, *words) as process:
        mount = Mounted(mountpoint, log, environment(tmp_path))
        mount.sh("mkdir dir")
        say(flag, "hang")
        target = str(mountpoint / "dir/f0")
        writer = f"with open({target!r}, 'w') as file: file.write({FILES['dir/f0']!r})"
        with subprocess.Popen([sys.executable, "-c", writer], stderr=subprocess.PIPE, text=True) as writing:
            wait_for(lambda: mount.sh("stat -c %s dir/f0 || true") == f"{len(FILES['dir/f0'])}\n")
            process.terminate()
            wait_for(lambda: "storing: 0 of 1 files" in mount.read_log())
            process.terminate()
            began = time.monotonic()
            assert process.wait(DEADLINE) == 1
            assert time.monotonic() - began < 10
            _, told = writing.communicate(timeout=DEADLINE)
            assert "ConnectionAbortedError" in told  # or it would think that it is stored
    assert not is_mounted(mountpoint)
    _is_saved(tmp_path, mount, "dir/f0")
    assert "Traceback" not in mount.read_log()
