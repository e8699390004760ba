"""What a contender is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from benchmarks.interface import Case
    from benchmarks.places import Place


class Contender:
    """Something that does the cases: a mount, or a library without one.

    A mount is a command that stays in the foreground; mounting, waiting, unmounting and the figures of its
    process are the same for all (`benchmarks.mounting`).
    """

    name: ClassVar[str]
    peer: ClassVar[bool] = False
    """Another mount: one of those that this project is held against."""
    ours: ClassVar[bool] = False
    """A fault of it is a fault of the benchmark, and fails it."""
    places: ClassVar[frozenset[str]] = frozenset({"local", "s3"})
    writes: ClassVar[bool] = False
    way: ClassVar[str] = "run"
    """The method of the case that does the work: ``run`` on a mount, else without one."""

    def version(self) -> str:
        """Return what exactly it is.

        Raises
        ------
        FileNotFoundError or ImportError
            If it is not installed.
        """
        raise NotImplementedError

    def can(self, case: Case) -> bool:
        """Tell whether it can do a case."""
        if case.only is not None and self.name not in case.only:
            return False
        if self.way != "run":
            return case.can(self.way)
        return case.can("run") and case.place in self.places and (self.writes or not case.writes)

    def command(self, place: Place, path: Path, scratch: Path, *, read_only: bool) -> Sequence[str]:
        """Return the command that mounts `place` on `path`; `scratch` is a directory of its own."""
        raise NotImplementedError

    def environment(self, place: Place) -> Mapping[str, str]:
        """Return the variables that the command is given; secrets go here."""
        return {}
