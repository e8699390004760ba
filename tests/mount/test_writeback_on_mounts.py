"""Write-back, and the budget of what waits to be stored, on real mounts."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.harness import DEADLINE, Mounted, clear, environment, is_mounted, mounted, wait_for, zarrmount
from mount.places import S3Backdoor
from reliability.faulty_proxy import FaultyProxy, faulty_proxy

from zarrmount import registry

MIB = 1 << 20


def kill(mount: Mounted) -> None:
    running = registry.find(mount.path)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    wait_for(lambda: not running.alive)
    cleared = zarrmount("umount", mount.path, environment=mount.environment)
    assert cleared.returncode == 0, cleared.stderr


def test_the_next_mount_takes_up_what_a_killed_one_left(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with mounted(store, tmp_path, "--create", "--writeback=600", umount=False) as mount:
        mount.sh("mkdir d; echo one > d/one; head -c 300000 /dev/zero > zeros")
        mount.python("os.rename('d/one', 'd/two')")
        assert list(store.rglob("*")) == [store / "d"]
        kill(mount)
    with mounted(store, tmp_path) as mount:  # which does not write back itself
        assert mount.sh("cat d/two; stat -c %s zeros; ls") == "one\n300000\nd\nzeros\n"
        wait_for(lambda: (store / "zeros").exists() and (store / "d/two").exists())
        assert "storing 2 files that an earlier mount left" in mount.read_log()
    assert (store / "d/two").read_text() == "one\n"
    assert (store / "zeros").read_bytes() == bytes(300_000)
    assert not list((tmp_path / "state").rglob("data-*"))


def test_an_unmount_stores_what_waits(tmp_path: Path) -> None:
    store = tmp_path / "store.zip"
    # The option's value is optional, and does not swallow the store.
    variables, mountpoint = environment(tmp_path), tmp_path / "mnt"
    mountpoint.mkdir()
    try:
        done = zarrmount("mount", "--writeback", store, mountpoint, "--create", environment=variables)
        assert done.returncode == 0, done.stderr
        mount = Mounted(mountpoint, tmp_path / "log", variables)
        mount.sh("for i in $(seq 50); do echo $i > f$i; done")
        ended = zarrmount("umount", mountpoint, environment=variables)
        assert ended.returncode == 0, ended.stderr
    finally:
        clear(mountpoint)
    with mounted(store, tmp_path, "--read-only") as mount:
        assert mount.sh("cat f1 f50; ls | wc -l") == "1\n50\n50\n"


def test_two_mounts_cannot_share_a_journal(tmp_path: Path) -> None:
    store, second = tmp_path / "store", tmp_path / "second"
    second.mkdir()
    with mounted(store, tmp_path, "--create", "--writeback=600") as mount:
        mount.sh("echo waits > file")
        running = registry.find(mount.path)
        assert running is not None
        refused = zarrmount("mount", store, second, "--writeback", environment=mount.environment)
        assert refused.returncode == 1
        assert f"pid {running.pid}" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert not is_mounted(second)
        try:  # one that does not write back is no danger, and leaves the journal alone
            plain = zarrmount("mount", store, second, environment=mount.environment)
            assert plain.returncode == 0, plain.stderr
            assert os.listdir(second) == []
            assert zarrmount("umount", second, environment=mount.environment).returncode == 0
        finally:
            clear(second)
    assert (store / "file").read_text() == "waits\n"


@pytest.fixture
def proxied(s3_server: object) -> Iterator[tuple[FaultyProxy, str, tuple[str, ...], S3Backdoor]]:
    server = s3_server()  # type: ignore[operator]
    bucket = server.create()
    with faulty_proxy(server.endpoint) as proxy:
        options = {"key": server.key, "secret": server.secret}
        words = [word for pair in options.items() for word in ("--storage-option", "=".join(pair))]
        words += ["--endpoint-url", proxy.endpoint, "--region", server.region]
        yield proxy, f"s3://{bucket}/store", tuple(words), S3Backdoor(server, bucket, "store/")


def test_what_cannot_be_stored_waits_for_recover(
    tmp_path: Path, proxied: tuple[FaultyProxy, str, tuple[str, ...], S3Backdoor]
) -> None:
    proxy, location, options, backdoor = proxied
    with mounted(location, tmp_path, *options, "--writeback=600", "--write-timeout=2", umount=False) as mount:
        mount.sh("echo one > one; mkdir d; echo two > d/two")
        proxy.blocked = "503"
        ended = zarrmount("umount", "--force", mount.path, environment=mount.environment)
        assert ended.returncode == 1
        assert "zarrmount recover" in ended.stdout
        assert {line.split("\t")[0] for line in ended.stdout.splitlines()} == {"one", "d/two"}
        assert not is_mounted(mount.path)
    proxy.blocked = ""
    recover = ("recover", location, *options)
    listed = zarrmount(*recover, environment=mount.environment)
    assert listed.returncode == 0, listed.stderr
    assert "one" in listed.stdout
    assert "d/two" in listed.stdout
    stored = zarrmount(*recover, "--upload", environment=mount.environment)
    assert stored.returncode == 0, stored.stderr
    assert {key: backdoor.read(key) for key in backdoor.keys("")} == {"one": b"one\n", "d/two": b"two\n"}
    again = zarrmount(*recover, environment=mount.environment)
    assert "one" not in again.stdout.split()


def test_writers_wait_when_too_much_waits(tmp_path: Path) -> None:
    flag, source = tmp_path / "flag", tmp_path / "source"
    flag.write_text("hang")
    data = os.urandom(3 * MIB // 2)
    source.write_bytes(data)
    location = "python:mount.failing_stores:does_as_told"
    with mounted(location, tmp_path, f"--storage-option=flag={flag}", "--max-dirty", "4M") as mount:
        writers = [  # six of 1.5 MiB each: there is room for two and a half
            subprocess.Popen(["cp", source, mount.path / f"f{number}"]) for number in range(6)
        ]
        try:
            wait_for(lambda: sum(file.stat().st_size for file in mount.path.iterdir()) >= 3 * MIB)
            with pytest.raises(subprocess.TimeoutExpired):
                writers[0].wait(1)  # that nobody gets on is what is to be seen
            assert sum(file.stat().st_size for file in mount.path.iterdir()) <= 4 * MIB + len(data)
            flag.write_text("well")
            assert [writer.wait(DEADLINE) for writer in writers] == [0] * 6
        finally:
            flag.write_text("well")
            for writer in writers:
                writer.kill()
                writer.wait()
        assert {path.read_bytes() for path in mount.path.iterdir()} == {data}


def test_memory_does_not_grow_with_what_is_written(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with mounted(store, tmp_path, "--create") as mount:
        running = registry.find(mount.path)
        assert running is not None
        writers = [
            subprocess.Popen(
                ["dd", "if=/dev/urandom", f"of={mount.path}/f{n}", "bs=1M", "count=200"],
                stderr=subprocess.DEVNULL,
            )
            for n in range(2)
        ]
        assert [writer.wait(120) for writer in writers] == [0, 0]
        status = Path(f"/proc/{running.pid}/status").read_text()
        peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10
        assert peak < 300 * MIB  # of which 64 for what is written
        assert {path.stat().st_size for path in store.iterdir()} == {200 * MIB}


def test_a_budget_that_makes_no_sense(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    for size in ("0", "-1", "lots", "12X"):
        refused = zarrmount("mount", tmp_path, tmp_path / "m", f"--max-dirty={size}", environment=variables)
        assert refused.returncode == 2
        assert "such as 64M" in refused.stderr
