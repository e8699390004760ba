"""The command: starting, staying, ending, and what it says."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.child import fails_with
from mount.harness import (
    DEADLINE,
    clear,
    environment,
    in_foreground,
    is_mounted,
    mounted,
    wait_for,
    zarrmount,
)

from zarrmount import registry


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    made.mkdir()
    (made / "file").write_bytes(b"12345")
    return made


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "mnt"
    made.mkdir()
    yield made
    clear(made)


def pid_of(mountpoint: Path) -> int:
    found = registry.find(mountpoint)
    assert found is not None
    return found.pid


def alive(pid: int) -> bool:
    """Tell whether a process runs (one that ended and was not waited for does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# -- starting --------------------------------------------------------------------------------------


def test_it_returns_when_the_mount_answers(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    done = zarrmount("mount", store, mountpoint, environment=environment(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (mountpoint / "file").read_bytes() == b"12345"
    pid = pid_of(mountpoint)
    done = zarrmount("umount", mountpoint, environment=environment(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not is_mounted(mountpoint)
    assert not alive(pid)
    assert os.listdir(mountpoint) == []


def test_the_background_lets_go_of_the_callers_pipes_and_directory(
    store: Path, mountpoint: Path, tmp_path: Path
) -> None:
    """`x=$(zarrmount mount ...)` returns, and so does a pipe."""
    script = (
        f'said=$("{sys.executable}" -m zarrmount mount "{store}" "{mountpoint}" 2>&1 | cat); echo "[$said]"'
    )
    done = subprocess.run(
        ["bash", "-c", script], env=environment(tmp_path), capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.stdout == "[]\n"
    assert os.readlink(f"/proc/{pid_of(mountpoint)}/cwd") == "/"
    assert zarrmount("umount", mountpoint, environment=environment(tmp_path)).returncode == 0


def test_relative_paths_and_trailing_slashes(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    variables = environment(tmp_path)
    done = zarrmount("mount", "store/", "mnt/", environment=variables, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (mountpoint / "file").read_bytes() == b"12345"
    done = zarrmount("umount", "mnt/", environment=variables, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_mount_point_with_odd_characters(store: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a b\tc\\d,e ü"
    odd.mkdir()
    try:
        done = zarrmount("mount", store, odd, environment=environment(tmp_path))
        assert done.returncode == 0, done.stderr
        assert (odd / "file").read_bytes() == b"12345"
        done = zarrmount("umount", odd, environment=environment(tmp_path))
        assert done.returncode == 0, done.stderr
    finally:
        clear(odd)


def test_what_the_kernel_shows(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    with mounted(store, tmp_path):
        line = next(li for li in Path("/proc/self/mounts").read_text().splitlines() if str(mountpoint) in li)
        assert line.split()[2] == "fuse.zarrmount"
        assert "store" in line.split()[0]


def test_foreground_stays_and_logs_to_standard_error(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    with in_foreground(store, mountpoint, tmp_path) as process:
        assert (mountpoint / "file").read_bytes() == b"12345"
        done = zarrmount("umount", mountpoint, environment=environment(tmp_path))
        assert done.returncode == 0, done.stderr
        said, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        assert said == ""
        assert "mounted" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts(store: Path, mountpoint: Path, tmp_path: Path, number: signal.Signals) -> None:
    with in_foreground(store, mountpoint, tmp_path) as process:
        (mountpoint / "new").write_bytes(b"new")
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
    assert not is_mounted(mountpoint)
    assert (store / "new").read_bytes() == b"new"


def test_a_signal_ends_a_mount_in_use(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    with in_foreground(store, mountpoint, tmp_path) as process:
        file = os.open(mountpoint / "file", os.O_RDWR)
        os.write(file, b"xyz")
        process.terminate()
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, errors
        assert "in use by" in errors
        assert not is_mounted(mountpoint)
        with fails_with(errno.ENOTCONN):
            os.close(file)
    assert (store / "file").read_bytes() == b"xyz45"


def test_fusermount_unmounts_as_well(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    with in_foreground(store, mountpoint, tmp_path) as process:
        (mountpoint / "new").write_bytes(b"new")
        subprocess.run(["fusermount3", "-u", mountpoint], check=True, timeout=DEADLINE)
        assert process.wait(DEADLINE) == 0
    assert (store / "new").read_bytes() == b"new"


def test_the_log_as_json(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    with mounted(store, tmp_path, "--log-format", "json") as mount:
        lines = [json.loads(line) for line in mount.read_log().splitlines()]
        assert {"time", "level", "logger", "message"} <= lines[0].keys()


# -- ending ----------------------------------------------------------------------------------------


def complains(done: subprocess.CompletedProcess[str], *words: str, lines: int = 1) -> None:
    """Assert that a command failed with one clear line."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == lines, done.stderr
    for word in words:
        assert word in done.stderr


def test_umount_of_what_is_not_mounted(mountpoint: Path, tmp_path: Path) -> None:
    complains(zarrmount("umount", mountpoint, environment=environment(tmp_path)), str(mountpoint), "mounted")
    missing = tmp_path / "missing"
    complains(zarrmount("umount", missing, environment=environment(tmp_path)), str(missing))


def test_umount_of_another_kind_of_mount(mountpoint: Path, tmp_path: Path) -> None:
    complains(zarrmount("umount", "/proc", environment=environment(tmp_path)), "/proc")
    assert os.path.exists("/proc/self")


def test_umount_of_a_busy_mount_names_who_keeps_it(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    with mounted(store, tmp_path, umount=False) as mount:
        with subprocess.Popen(["sleep", "1000"], cwd=mountpoint) as user:
            try:
                done = zarrmount("umount", mountpoint, environment=mount.environment)
                complains(done, "sleep", str(user.pid))
                assert is_mounted(mountpoint)
                assert mount.sh("cat file") == "12345"
                done = zarrmount("umount", "--force", mountpoint, environment=mount.environment)
                assert done.returncode == 0, done.stderr
                assert not is_mounted(mountpoint)
            finally:
                user.kill()


def test_a_busy_mount_can_be_unmounted_later(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    with mounted(store, tmp_path) as mount:
        with open(mountpoint / "file", "rb"):
            complains(zarrmount("umount", mountpoint, environment=mount.environment))
        mount.sh("echo still writable > new")


def test_umount_after_the_process_was_killed(store: Path, mountpoint: Path, tmp_path: Path) -> None:
    with mounted(store, tmp_path, umount=False) as mount:
        pid = pid_of(mountpoint)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid))
        complains(zarrmount("mount", store, mountpoint, environment=mount.environment), str(mountpoint))
        done = zarrmount("umount", mountpoint, environment=mount.environment)
        assert done.returncode == 0
        assert "died" in done.stderr
        assert str(mount.log) in done.stderr
        assert not is_mounted(mountpoint)
    with mounted(store, tmp_path) as mount:
        assert mount.sh("cat file") == "12345"


def test_umount_while_files_are_written_stores_them_all(
    store: Path, mountpoint: Path, tmp_path: Path
) -> None:
    with mounted(store, tmp_path, umount=False):
        script = 'for i in $(seq 1000); do head -c 50000 /dev/zero > "$0/f$i" || exit 0; done'
        with subprocess.Popen(["bash", "-c", script, str(mountpoint)], stderr=subprocess.DEVNULL) as writer:
            wait_for(lambda: (store / "f10").exists())
            end = time.monotonic() + DEADLINE
            while zarrmount("umount", mountpoint, environment=environment(tmp_path)).returncode != 0:
                assert time.monotonic() < end
            writer.kill()
        # Whatever was written after it was unmounted went to the bare directory.
        for path in mountpoint.iterdir():
            path.unlink()
        stored = [path for path in store.iterdir() if path.name.startswith("f") and path.name != "file"]
        assert len(stored) >= 10
        assert {path.stat().st_size for path in stored} <= {0, 50000}
        assert [path.name for path in stored if path.stat().st_size == 0] in ([], [stored[-1].name])


# -- the other commands ----------------------------------------------------------------------------


def test_help_and_version() -> None:
    for words in (
        ["--help"],
        ["mount", "--help"],
        ["umount", "-h"],
        ["info", "--help"],
        ["doctor", "--help"],
        ["compact", "--help"],
    ):
        done = zarrmount(*words, environment=dict(os.environ))
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: zarrmount" in done.stdout
    assert zarrmount("--version", environment=dict(os.environ)).stdout.startswith("zarrmount")


def test_doctor(tmp_path: Path) -> None:
    done = zarrmount("doctor", environment=environment(tmp_path))
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stdout
    assert "fusermount3" in done.stdout


def test_info(tmp_path: Path) -> None:
    import zarr

    group = zarr.create_group(tmp_path / "store.zarr")
    group.create_array("array", shape=(10, 20), chunks=(5, 10), dtype="float32")
    done = zarrmount("info", tmp_path / "store.zarr", "--json", environment=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    done = zarrmount("info", tmp_path / "store.zarr", "array", "--tree", environment=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "float32" in done.stdout
    complains(zarrmount("info", tmp_path / "missing.zarr", environment=environment(tmp_path)), "missing.zarr")
    done = zarrmount("info", tmp_path / "store.zarr", "nothing/here", environment=environment(tmp_path))
    complains(done, "nothing/here")
