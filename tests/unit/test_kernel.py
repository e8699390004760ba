"""What only root may set of the kernel's side of a mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from zarrmount import kernel
from zarrmount.kernel import raise_readahead

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
70 27 0:55 / /mnt/a\040b rw - fuse.zarrmount /below rw
71 27 0:56 / /mnt/a\040b rw - fuse.zarrmount /above rw
72 27 0:57 / /mnt/a rw - fuse.zarrmount /other rw
"""


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.strip())
    monkeypatch.setattr(kernel, "_MOUNTS", mounts)
    monkeypatch.setattr(kernel, "_DEVICES", tmp_path)
    for device in ("0:55", "0:56", "0:57"):
        (tmp_path / device).mkdir()
        (tmp_path / device / "read_ahead_kb").write_text("128\n")
    return tmp_path


def readahead(devices: Path) -> dict[str, int]:
    return {path.parent.name: int(path.read_text()) for path in devices.glob("*/read_ahead_kb")}


def test_the_readahead_of_the_uppermost_mount_is_raised(devices: Path) -> None:
    raise_readahead("/mnt/a b")
    assert readahead(devices) == {"0:55": 128, "0:56": 1024, "0:57": 128}


def test_it_is_never_lowered(devices: Path) -> None:
    (devices / "0:57/read_ahead_kb").write_text("4096\n")
    raise_readahead("/mnt/a")
    assert readahead(devices)["0:57"] == 4096


def test_without_the_right_or_the_file_nothing_is_done(devices: Path) -> None:
    (devices / "0:57/read_ahead_kb").unlink()
    raise_readahead("/mnt/a")
    raise_readahead("/mnt/not there")
    assert readahead(devices) == {"0:55": 128, "0:56": 128}
