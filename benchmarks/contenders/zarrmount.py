"""This project."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.contenders.base import Contender
from benchmarks.places import Place

ROOT = Path(__file__).resolve().parent.parent.parent


class Zarrmount(Contender):
    """``zarrmount mount``, with its defaults."""

    name = "zarrmount"
    ours = True
    writes = True

    def version(self) -> str:
        import zarrmount

        return zarrmount.__version__

    def command(self, place: Place, path: Path, scratch: Path, *, read_only: bool) -> Sequence[str]:
        words = [sys.executable, "-m", "zarrmount", "mount", "--foreground", *["--read-only"] * read_only]
        if place.directory is not None:
            return [*words, place.directory, str(path)]
        options = {"endpoint_url": place.endpoint, "region": place.region}
        named = [word for pair in options.items() for word in ("--storage-option", "=".join(pair))]
        return [*words, *named, f"s3://{place.bucket}", str(path)]

    def environment(self, place: Place) -> Mapping[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": place.key,
            "AWS_SECRET_ACCESS_KEY": place.secret,
            "PYTHONPATH": str(ROOT),
        }
