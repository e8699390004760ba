"""Doctor: what it finds on machines made of files, and what it says to type."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zarrmount import doctor
from zarrmount.doctor import Finding, Host, check, exit_status, render

DEBIAN = 'PRETTY_NAME="Some"\nID=ubuntu\nID_LIKE=debian\n'
FEDORA = 'ID="rocky"\nID_LIKE="rhel centos fedora"\n'


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Host]:
    """Make a machine on which all is well, except for what is asked for."""

    def make(
        *,
        release: str = DEBIAN,
        device: str | None = "/dev/null",
        conf: str = "user_allow_other\n",
        status: str = "CapEff:\t000001ffffffffff\nNoNewPrivs:\t0\n",
        filesystems: str = "nodev\tfuse\n",
        mountinfo: str = "",
        fusermount_mode: int | None = 0o4755,
        missing: tuple[str, ...] = (),
        **changes: Any,
    ) -> Host:
        for path, text in {
            "etc/os-release": release,
            "etc/fuse.conf": conf,
            "proc/self/status": status,
            "proc/filesystems": filesystems,
            "proc/self/mountinfo": mountinfo,
        }.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        (tmp_path / "dev").mkdir()
        if device is not None:
            (tmp_path / "dev/fuse").symlink_to(device)
        (tmp_path / "bin").mkdir()
        if fusermount_mode is not None:
            program = tmp_path / "bin/fusermount3"
            program.touch()
            program.chmod(fusermount_mode)
        values: dict[str, Any] = {
            "root": tmp_path,
            "uid": 1000,
            "search_path": str(tmp_path / "bin"),
            "version": lambda name: None if name in missing else "1.2.3",
            "libfuse_version": lambda: "3.14.0",
            "import_module": lambda name: None,
        }
        return Host(**{**values, **changes})

    return make


def find(host: Host, name: str) -> Finding:
    found = [finding for finding in check(host) if finding.name == name]
    assert len(found) == 1
    return found[0]


def test_all_is_well(machine: Callable[..., Host]) -> None:
    findings = check(machine())
    assert {finding.state for finding in findings} == {"ok"}
    assert not any(finding.remedy for finding in findings)
    assert exit_status(findings) == 0
    assert render(findings).endswith("Stores can be mounted here.\n")


def test_no_device(machine: Callable[..., Host]) -> None:
    host = machine(device=None, filesystems="nodev\tproc\n")
    assert find(host, "FUSE device") == Finding(
        "FUSE device",
        "missing",
        "/dev/fuse is not there, and the kernel has not loaded its module",
        "sudo modprobe fuse",
    )
    assert exit_status(check(host)) == 1
    assert "-> sudo modprobe fuse\n" in render(check(host))


def test_no_device_and_a_module(machine: Callable[..., Host]) -> None:
    assert find(machine(device=None), "FUSE device").remedy == "sudo mknod -m 666 /dev/fuse c 10 229"


def test_no_device_in_a_container(machine: Callable[..., Host], tmp_path: Path) -> None:
    host = machine(device=None)
    (tmp_path / ".dockerenv").touch()
    assert "--device /dev/fuse --cap-add SYS_ADMIN" in find(host, "FUSE device").remedy


def test_a_device_that_is_none(machine: Callable[..., Host], tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    found = find(machine(device=str(tmp_path / "plain")), "FUSE device")
    assert (found.state, found.detail) == ("missing", "/dev/fuse is no device")


def test_a_device_that_may_not_be_used(machine: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert find(machine(), "FUSE device").remedy == "sudo chmod 666 /dev/fuse"


def test_root_without_the_right_to_mount(machine: Callable[..., Host]) -> None:
    found = find(machine(uid=0, status="CapEff:\t00000000a80425fb\n"), "right to mount")
    assert found.state == "missing"
    assert "--cap-add SYS_ADMIN" in found.remedy
    assert "AppArmor" in found.remedy


def test_a_user_who_may_not_gain_rights(machine: Callable[..., Host]) -> None:
    assert find(machine(status="NoNewPrivs:\t1\n"), "right to mount").state == "missing"


@pytest.mark.parametrize(
    ("release", "remedy"),
    [
        (DEBIAN, "sudo apt-get install fuse3"),
        ("ID=debian\n", "sudo apt-get install fuse3"),
        (FEDORA, "sudo dnf install fuse3"),
        ("ID=fedora\n", "sudo dnf install fuse3"),
    ],
)
def test_no_fusermount(machine: Callable[..., Host], release: str, remedy: str) -> None:
    found = find(machine(fusermount_mode=None, release=release), "fusermount3")
    assert (found.state, found.remedy) == ("missing", remedy)


@pytest.mark.parametrize("release", ["ID=arch\n", "", "ID=\n", "rubbish"])
def test_elsewhere_everything_is_said(machine: Callable[..., Host], release: str) -> None:
    remedy = find(machine(fusermount_mode=None, release=release), "fusermount3").remedy
    assert "sudo apt-get install fuse3" in remedy
    assert "sudo dnf install fuse3" in remedy


def test_root_needs_no_fusermount(machine: Callable[..., Host]) -> None:
    host = machine(fusermount_mode=None, uid=0)
    assert find(host, "fusermount3").state == "warning"
    assert exit_status(check(host)) == 0


def test_a_fusermount_that_is_not_setuid(machine: Callable[..., Host], tmp_path: Path) -> None:
    found = find(machine(fusermount_mode=0o755), "fusermount3")
    program = tmp_path / "bin/fusermount3"
    assert (found.state, found.remedy) == (
        "missing",
        f"sudo chown root {program} && sudo chmod u+s {program}",
    )
    assert not program.stat().st_mode & stat.S_ISUID


@pytest.mark.parametrize(
    ("conf", "state"),
    [
        ("user_allow_other", "ok"),
        ("# head\n  user_allow_other # yes\n", "ok"),
        ("#user_allow_other\n", "warning"),
        ("", "warning"),
    ],
)
def test_allow_other(machine: Callable[..., Host], conf: str, state: str) -> None:
    host = machine(conf=conf)
    assert find(host, "--allow-other").state == state
    assert exit_status(check(host)) == 0


def test_an_old_python(machine: Callable[..., Host]) -> None:
    assert find(machine(python=(3, 10, 1)), "Python").state == "missing"


def test_no_pyfuse3(machine: Callable[..., Host]) -> None:
    found = find(machine(missing=("pyfuse3",)), "pyfuse3")
    assert found.state == "missing"
    assert found.remedy == (
        "sudo apt-get install fuse3 libfuse3-dev pkg-config gcc python3-dev; then: pip install pyfuse3"
    )


def test_a_pyfuse3_that_cannot_be_imported(machine: Callable[..., Host]) -> None:
    def fail(name: str) -> object:
        raise ImportError("libfuse3.so.3: cannot open shared object file")

    found = find(machine(import_module=fail), "pyfuse3")
    assert found.state == "missing"
    assert "cannot open shared object file" in found.detail


def test_no_libfuse(machine: Callable[..., Host]) -> None:
    assert find(machine(libfuse_version=lambda: None), "libfuse3").state == "missing"


def test_packages(machine: Callable[..., Host]) -> None:
    host = machine(missing=("s3fs", "obstore"))
    assert find(host, "s3fs") == Finding(
        "s3fs",
        "warning",
        "is not installed; for s3:// with --backend fsspec",
        "pip install 'zarrmount[s3]'",
    )
    assert find(host, "obstore").state == "missing"
    assert find(host, "zarr") == Finding("zarr", "ok", "1.2.3")


MOUNTS = (
    "22 1 0:21 / /proc rw - proc proc rw\n"
    "90 1 0:50 / /mnt/with\\040space rw,nosuid shared:1 - fuse.zarrmount s3://b rw\n"
    "91 1 0:51 / /mnt/other rw - fuse.sshfs h: rw\n"
    "rubbish\n"
)  # fmt: skip


def dead(path: str) -> object:
    raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))


def test_a_dead_mount(machine: Callable[..., Host]) -> None:
    host = machine(mountinfo=MOUNTS, probe=dead)
    assert find(host, "mount") == Finding(
        "mount", "warning", "/mnt/with space: its process is gone", "fusermount3 -u '/mnt/with space'"
    )
    assert exit_status(check(host)) == 0


def test_a_live_mount(machine: Callable[..., Host]) -> None:
    assert find(machine(mountinfo=MOUNTS, probe=lambda path: None), "mount").state == "ok"


def test_a_mount_that_hangs(machine: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ANSWER_SECONDS", 0.05)
    release = threading.Event()
    try:
        found = find(machine(mountinfo=MOUNTS, probe=lambda path: release.wait()), "mount")
    finally:
        release.set()
    assert found.remedy == "fusermount3 -uz '/mnt/with space'"


def test_this_machine_can_be_looked_at() -> None:
    findings = check()
    assert {"FUSE device", "fusermount3", "Python", "pyfuse3", "obstore"} <= {
        found.name for found in findings
    }
    assert find(Host(), "trio").state == "ok"
    assert render(findings)
