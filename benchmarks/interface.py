"""What a case is, what it says, and what it is held against."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from benchmarks.places import Place
from benchmarks.requests import Call

Figures = dict[str, float]
"""What one run measured.  ``rate`` is the figure that contenders are compared by: more is better."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Target:
    """What this project is to reach, in the words of those who asked for it and as a number.

    Attributes
    ----------
    text : str
        The target in words.
    figure : str
        The figure that it is about.
    at_least, at_most : float or None
        The bound; one of the two.
    of : str or None
        The bound is a multiple of the same figure of this contender (``best peer``: of the fastest).
        None: the bound is absolute.
    """

    text: str
    figure: str = "rate"
    at_least: float | None = None
    at_most: float | None = None
    of: str | None = None


MEMORY = Target("peak memory under 300 MB", figure="peak_mb", at_most=300)


class Case:
    """One thing that is done to a mounted store.

    A case does its work in a process of its own, which is killed when it takes longer than
    `deadline`; loops go through `within`, so that a slow contender is measured on the part that it did in
    `patience`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    dataset: ClassVar[str]
    """Cases of one dataset share what the first of them prepared; one that writes begins with nothing."""
    place: ClassVar[Literal["local", "s3"]]
    targets: ClassVar[Sequence[Target]] = (MEMORY,)
    figure: ClassVar[str] = "rate"
    """What the tables and charts show."""
    cold: ClassVar[bool] = True
    """Drop the kernel's caches first."""
    writes: ClassVar[bool] = False
    large: ClassVar[bool] = False
    """Only run when asked for: it takes minutes."""
    deadline: ClassVar[float] = 60
    patience: ClassVar[float] = 8
    only: ClassVar[frozenset[str] | None] = None
    """The contenders that make sense here; None: all that can."""

    def __init__(self, *, smoke: bool = False) -> None:
        self.smoke = smoke
        self.mark: Callable[[], None] = lambda: None
        """Leave a mark in the server's log, which `count` sees as a call of the kind MARK."""

    def prepare(self, place: Place) -> None:
        """Store what the case works on."""

    def run(self, root: Path) -> Figures:
        """Do it on a mount."""
        raise NotImplementedError

    def obstore(self, place: Place) -> Figures:
        """Do it with obstore, without a mount."""
        raise NotImplementedError

    def zarr_python(self, place: Place) -> Figures:
        """Do it with zarr-python on obstore, without a mount."""
        raise NotImplementedError

    def count(self, calls: Sequence[Call], figures: Figures) -> Figures:
        """Return further figures from the requests that the server saw."""
        return {}

    def verify(self, place: Place, figures: Figures) -> None:
        """Look into the store itself, right after the work and before anything is unmounted."""

    def within(self, items: Iterable[Item]) -> Iterator[Item]:
        """Give the items, for as long as patience lasts."""
        end = time.monotonic() + self.patience
        for item in items:
            yield item
            if time.monotonic() > end:
                return

    @classmethod
    def can(cls, method: str) -> bool:
        """Tell whether the case has a way to be done without a mount."""
        return getattr(cls, method) is not getattr(Case, method)


def rated(done: int, wanted: int, seconds: float, **more: float) -> Figures:
    """Return the figures of `done` items in some seconds; `part` says how much of it was done."""
    return {"rate": done / seconds, "seconds": seconds, "done": done, "part": done / wanted, **more}
