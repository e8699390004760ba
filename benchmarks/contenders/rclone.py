"""``rclone mount``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.base import Contender
from benchmarks.places import Place


def _program() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise FileNotFoundError("rclone")
    return found


class Rclone(Contender):
    """With its defaults: no cache of files, so that what is closed is stored."""

    name = "rclone"
    peer = True
    writes = True
    options: ClassVar[tuple[str, ...]] = ()

    def version(self) -> str:
        said = subprocess.run([_program(), "version"], capture_output=True, text=True, check=True).stdout
        return said.split()[1].lstrip("v")

    def command(self, place: Place, path: Path, scratch: Path, *, read_only: bool) -> Sequence[str]:
        remote = f"bench:{place.bucket}" if place.directory is None else place.directory
        cache = ["--config", str(scratch / "rclone.conf"), "--cache-dir", str(scratch / "cache")]
        (scratch / "rclone.conf").touch()
        return [_program(), "mount", *cache, *["--read-only"] * read_only, *self.options, remote, str(path)]

    def environment(self, place: Place) -> Mapping[str, str]:
        values = {
            "TYPE": "s3",
            "PROVIDER": "Ceph",
            "ENDPOINT": place.endpoint,
            "ACCESS_KEY_ID": place.key,
            "SECRET_ACCESS_KEY": place.secret,
        }
        return {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in values.items()}


class TunedRclone(Rclone):
    """As its manual advises for reading from S3: no HEAD for times, a cache of files, parallel chunks."""

    name = "rclone (tuned)"
    places = frozenset({"s3"})
    writes = False  # its cache stores files after they were closed
    options = (
        *("--use-server-modtime", "--no-checksum", "--vfs-cache-mode", "full", "--vfs-fast-fingerprint"),
        *("--vfs-read-chunk-streams", "8", "--vfs-read-chunk-size", "4M", "--dir-cache-time", "1h"),
        *("--attr-timeout", "1h"),
    )
