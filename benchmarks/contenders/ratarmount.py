"""ratarmount, which shows archives and directories."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.contenders.base import Contender
from benchmarks.places import Place


class Ratarmount(Contender):
    """With its defaults."""

    name = "ratarmount"
    peer = True
    places = frozenset({"local"})

    def version(self) -> str:
        return version("ratarmount")

    def command(self, place: Place, path: Path, scratch: Path, *, read_only: bool) -> Sequence[str]:
        assert place.directory is not None
        program = Path(sys.executable).with_name("ratarmount")
        return [str(program), "-f", "--index-file", ":memory:", place.directory, str(path)]
