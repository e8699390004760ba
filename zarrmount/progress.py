"""How far a long piece of work is: measured, told in a line, and drawn for a person."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TextIO

from rich.filesize import decimal

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

__all__ = ["Progress", "RateMeter", "StoringMeter", "drawn", "in_words"]

_WINDOW = 10.0
_MOST_NAMED = 5

_BAR_AFTER = 0.5
_LINE_AFTER = 1.0
_LINE_EVERY = 5.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it is.

    Attributes
    ----------
    done_bytes, total_bytes : int
        Bytes.
    done_files, total_files : int
        Files; 0 of 0 where they are not counted.
    rate : float
        Bytes per second, of late.
    retrying : mapping
        Some of the keys that are tried again, each with the reason.
    retrying_files : int
        How many there are of them.
    """

    done_bytes: int
    total_bytes: int
    done_files: int = 0
    total_files: int = 0
    rate: float = 0.0
    retrying: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retrying_files: int = 0


class RateMeter:
    """Bytes per second over the last seconds.

    Parameters
    ----------
    clock : callable
        Tells the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples = deque([(clock(), 0)])

    def rate(self, done: int) -> float:
        """Return the rate, now that so many bytes are done."""
        now = self._clock()
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        return max(0, done - before) / (now - then) if now > then else 0.0


class StoringMeter:
    """Tells how far the storing of dirty files is, by those that are dirty still.

    Parameters
    ----------
    clock : callable
        Tells the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._sizes: dict[str, int] = {}
        self._rate = RateMeter(clock)

    def measure(self, dirty: Iterable[tuple[str, int]], retrying: Mapping[str, str]) -> Progress:
        """Return how far it is.

        Parameters
        ----------
        dirty : iterable of (str, int)
            Keys that are not stored yet, with their sizes; new ones add to what is to be done.
        retrying : mapping
            Keys that are tried again, each with the reason.
        """
        left = dict(dirty)
        self._sizes |= left
        total = sum(self._sizes.values())
        done = total - sum(left.values())
        return Progress(
            done_bytes=done,
            total_bytes=total,
            done_files=len(self._sizes) - len(left),
            total_files=len(self._sizes),
            rate=self._rate.rate(done),
            retrying=dict(islice(retrying.items(), _MOST_NAMED)),
            retrying_files=len(retrying),
        )


# -- in words ----------------------------------------------------------------------------------


def in_words(what: str, progress: Progress) -> str:
    """Tell it in one line, such as ``storing: 3 of 4 files, 1.2 GB of 4.0 GB, 80.0 MB/s``."""
    said = f"{what}: {', '.join([*_counts(progress), _rate(progress)])}"
    return "; ".join([said, *_retries(progress)])


def _counts(progress: Progress) -> list[str]:
    files = [f"{progress.done_files} of {progress.total_files} files"] if progress.total_files else []
    return [*files, f"{decimal(progress.done_bytes)} of {decimal(progress.total_bytes)}"]


def _rate(progress: Progress) -> str:
    return f"{decimal(int(progress.rate))}/s"


def _retries(progress: Progress) -> list[str]:
    more = progress.retrying_files - len(progress.retrying)
    named = [f"retrying {key!r}: {' '.join(reason.split())}" for key, reason in progress.retrying.items()]
    return [*named, f"retrying {more} more"] if more > 0 else named


# -- drawn -------------------------------------------------------------------------------------


class _Drawing(Protocol):
    def show(self, progress: Progress) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def drawn(what: str, stream: TextIO | None = None) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows how far it is: a bar on a terminal, elsewhere a line now and then.

    What is soon done shows nothing, and a bar goes when it is done.

    Parameters
    ----------
    what : str
        What is being done: "storing".
    stream : text file, optional
        Standard error if not given.
    """
    stream = stream or sys.stderr
    is_terminal = stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    drawing: _Drawing = _Bar(what, stream) if is_terminal else _Lines(what, stream)
    try:
        yield drawing.show
    finally:
        drawing.close()


class _Lines:
    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        self._stream = stream
        self._next = time.monotonic() + _LINE_AFTER

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LINE_EVERY
            print(in_words(self._what, progress), file=self._stream, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    """Imports what draws it when there is something to draw: most unmounts are over before that."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        self._stream = stream
        self._first = time.monotonic() + _BAR_AFTER
        self._live: Live | None = None

    def show(self, progress: Progress) -> None:
        if time.monotonic() < self._first:
            return
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self._picture(progress), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _picture(self, progress: Progress) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, progress.total_bytes), completed=progress.done_bytes, width=30)
        line.add_row(self._what, bar, ", ".join(_counts(progress)), _rate(progress))
        retries = [
            Text("  " + said, "yellow", no_wrap=True, overflow="ellipsis") for said in _retries(progress)
        ]
        return Group(line, *retries)
