"""s3fs-fuse, as Debian has it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.contenders.base import Contender
from benchmarks.places import Place


class S3fs(Contender):
    """With room for the attributes of all files; otherwise its defaults."""

    name = "s3fs"
    peer = True
    places = frozenset({"s3"})
    writes = True

    def version(self) -> str:
        said = subprocess.run(["s3fs", "--version"], capture_output=True, text=True, check=True).stdout
        return next(word for word in said.split() if word.startswith("V")).lstrip("V")

    def command(self, place: Place, path: Path, scratch: Path, *, read_only: bool) -> Sequence[str]:
        options = f"url={place.endpoint},use_path_request_style,max_stat_cache_size=2000000"
        return ["s3fs", place.bucket, str(path), "-f", "-o", options + (",ro" if read_only else "")]

    def environment(self, place: Place) -> Mapping[str, str]:
        return {"AWSACCESSKEYID": place.key, "AWSSECRETACCESSKEY": place.secret}
