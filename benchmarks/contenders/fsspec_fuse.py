"""fsspec.fuse, on mfusepy; run as a program it mounts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.contenders.base import Contender
from benchmarks.places import Place

ROOT = Path(__file__).resolve().parent.parent.parent


class FsspecFuse(Contender):
    """To read (with mfusepy it doesn't write); without threads, with which it mixed up bytes of one file."""

    name = "fsspec.fuse"
    peer = True

    def version(self) -> str:
        return f"{version('fsspec')} (mfusepy {version('mfusepy')})"

    def command(self, place: Place, path: Path, scratch: Path, *, read_only: bool) -> Sequence[str]:
        if place.directory is not None:
            what = {"root": place.directory, "protocol": "file", "options": {}}
        else:
            # A bucket on loopback for a benchmark: its key is no secret.
            options = {"key": place.key, "secret": place.secret, "endpoint_url": place.endpoint}
            what = {"root": place.bucket, "protocol": "s3", "options": options}
        return [sys.executable, "-m", "benchmarks.contenders.fsspec_fuse", json.dumps(what), str(path)]

    def environment(self, place: Place) -> dict[str, str]:
        return {"PYTHONPATH": str(ROOT)}


def _serve(root: str, protocol: str, options: dict[str, Any], path: str) -> None:
    import mfusepy

    sys.modules["fuse"] = mfusepy
    import fsspec
    from fsspec.fuse import run

    run(fsspec.filesystem(protocol, **options), root, path, foreground=True, threads=False)


if __name__ == "__main__":
    _serve(**json.loads(sys.argv[1]), path=sys.argv[2])
