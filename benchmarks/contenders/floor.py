"""The floor: benchmarks/floor.c."""

from __future__ import annotations

import atexit
import functools
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders.base import Contender
from benchmarks.places import Place

SOURCE = Path(__file__).resolve().parent.parent / "floor.c"


@functools.cache
def _build() -> str:
    directory = Path(tempfile.mkdtemp(prefix="bench-floor-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True
    ).stdout
    program = directory / "floor"
    subprocess.run(["gcc", "-O2", "-o", program, SOURCE, *shlex.split(flags)], check=True)
    return str(program)


class Floor(Contender):
    """A C server that answers from memory: nothing in user space can be much faster."""

    name = "C floor"
    ours = True
    places = frozenset({"local"})

    def version(self) -> str:
        _build()
        said = subprocess.run(
            ["pkg-config", "--modversion", "fuse3"], capture_output=True, text=True, check=True
        )
        return f"libfuse {said.stdout.strip()}"

    def command(self, place: Place, path: Path, scratch: Path, *, read_only: bool) -> Sequence[str]:
        assert place.directory is not None
        return [_build(), place.directory, str(path)]
