"""Runs each case on each contender in turn, again and again, each time on a fresh mount."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Self

from benchmarks import job, machine
from benchmarks.contenders import Contender
from benchmarks.content import WrongBytes
from benchmarks.interface import Case, Figures
from benchmarks.mounting import DidNotMount, Mount, mounted
from benchmarks.places import Place, local_root
from benchmarks.processes import peak_memory
from benchmarks.requests import tally
from benchmarks.results import Outcome, Record
from benchmarks.server import SlowServer, slow_server

BUDGET = 7.0
"""Seconds after which a contender's case is not repeated any more."""

_PATHS = re.compile(r"benchmarks\.content\.|/\S*/bench-\w+/|/\S*/site-packages/")
"""What says nothing in a note."""


class Runner:
    """Servers, stores and scratch space of one run; all gone when it is left.

    Parameters
    ----------
    repetitions : int
        How often at most each contender does each case.
    smoke : bool
        Whether in the small form.
    tell : callable
        Is told of every run.
    """

    def __init__(self, *, repetitions: int, smoke: bool, tell: Callable[[str], None]) -> None:
        self._repetitions = repetitions
        self._smoke = smoke
        self._tell = tell
        self._stack = ExitStack()
        self._server: SlowServer | None = None
        self._prepared: tuple[str, Place] | None = None
        self._dataset = ExitStack()

    def __enter__(self) -> Self:
        self._scratch = Path(self._stack.enter_context(_directory(None)))
        self._stack.push(lambda *_: self._dataset.close())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, case: Case, contenders: Sequence[Contender]) -> Record:
        """Run one case on those that can do it."""
        self._tell(f"{case.name}: {case.title}")
        able = [contender for contender in contenders if contender.can(case)]
        outcomes = {contender.name: _introduce(contender) for contender in able}
        able = [contender for contender in able if not outcomes[contender.name].note]
        spent = dict.fromkeys(outcomes, 0.0)
        for _ in range(self._repetitions):
            for contender in able:
                outcome = outcomes[contender.name]
                if outcome.note or spent[contender.name] > BUDGET:
                    continue
                began = time.monotonic()
                try:
                    outcome.runs.append(self._once(case, contender))
                except (DidNotMount, job.RunFailed, WrongBytes) as error:
                    outcome.note = _PATHS.sub("", str(error))
                spent[contender.name] += time.monotonic() - began
                self._tell(f"  {contender.name}: {outcome.note or _short(case, outcome.runs[-1])}")
        return Record(
            case=case.name,
            title=case.title,
            place=case.place,
            figure=case.figure,
            unit=case.unit,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=machine.describe(),
            targets=list(case.targets),
            outcomes=list(outcomes.values()),
        )

    def _once(self, case: Case, contender: Contender) -> Figures:
        with ExitStack() as stack:
            place = stack.enter_context(self._empty(case)) if case.writes else self._filled(case)
            scratch = Path(stack.enter_context(_directory(self._scratch)))
            if case.cold and not self._smoke:
                machine.drop_caches()
            mount = None
            if contender.way == "run":
                mount = stack.enter_context(self._mount(contender, place, scratch, read_only=not case.writes))
            return self._measure(case, contender, place, scratch, mount)

    def _measure(
        self, case: Case, contender: Contender, place: Place, scratch: Path, mount: Mount | None
    ) -> Figures:
        order = job.Order(case.name, self._smoke, contender.way, place, str(mount.path) if mount else "")
        before = self._server.mark() if self._server else 0
        figures = job.do(order, scratch / "job", case.deadline, mount.process if mount else None)
        if place.kind == "s3":
            assert self._server is not None
            calls = self._server.quiet_since(before)
            figures |= tally(calls) | case.count(calls, figures)
        if mount is not None:
            figures |= {"peak_mb": peak_memory(mount.process.pid), "ready_s": mount.ready_s}
        case.verify(place, figures)
        return figures

    def _mount(
        self, contender: Contender, place: Place, scratch: Path, *, read_only: bool
    ) -> AbstractContextManager[Mount]:
        path = scratch / "mnt"
        command = contender.command(place, path, scratch, read_only=read_only)
        return mounted(command, scratch, path, contender.environment(place))

    def _filled(self, case: Case) -> Place:
        """Return the store that a case reads, which is kept until another one is needed."""
        name = f"{case.place}:{case.dataset}"
        if self._prepared is None or self._prepared[0] != name:
            self._dataset.close()
            self._prepared = None
            place = self._dataset.enter_context(self._empty(case))
            began = time.monotonic()
            case.prepare(place)
            self._tell(f"  prepared in {time.monotonic() - began:.0f} s")
            self._prepared = name, place
        return self._prepared[1]

    @contextmanager
    def _empty(self, case: Case) -> Iterator[Place]:
        """Make a store of the kind that a case wants, and remove it afterwards."""
        if case.place == "local":
            with _directory(local_root()) as path:
                yield Place(directory=path)
            return
        if self._server is None:
            self._tell("  starting the S3 server")
            # Before the data sets in the order of things: they are removed while it runs.
            self._server = self._stack.enter_context(slow_server())
            self._stack.push(lambda *_: self._dataset.close())
        place = self._server.bucket()
        try:
            yield place
        finally:
            place.clear()


@contextmanager
def _directory(parent: Path | None) -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="bench-", dir=parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _introduce(contender: Contender) -> Outcome:
    """Return the outcome of a contender that has not run yet; the note says if it is not installed."""
    try:
        return Outcome(contender.name, contender.version(), contender.peer)
    except (ImportError, OSError, subprocess.CalledProcessError) as error:
        return Outcome(contender.name, "", contender.peer, note=f"not installed ({error})")


def _short(case: Case, figures: Figures) -> str:
    words = [f"{figures[case.figure]:.4g} {case.unit}"] if case.figure in figures else []
    words += [f"{figures['part']:.0%} done"] if figures.get("part", 1) < 1 else []
    words += [f"{figures[name]:.3g} {name}" for name in ("requests", "peak_mb", "ready_s") if name in figures]
    return ", ".join(words)
