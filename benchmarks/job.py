"""One run of one case, in a process that can be killed: ``python -m benchmarks.job ORDER``."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from benchmarks.cases import CASES
from benchmarks.interface import Case, Figures
from benchmarks.places import Place
from benchmarks.processes import end, kill, start, tail
from benchmarks.requests import MARK

ROOT = Path(__file__).resolve().parent.parent


class RunFailed(Exception):
    """A run has no figures; the message says why."""


@dataclass(frozen=True)
class Order:
    """What a process is to do.

    Attributes
    ----------
    case : str
        The name of the case.
    smoke : bool
        Whether in its small form.
    way : str
        The method of the case.
    place : Place
        Its store.
    root : str
        Where that is mounted, for the method ``run``.
    """

    case: str
    smoke: bool
    way: str
    place: Place
    root: str = ""


def do(order: Order, log: Path, deadline: float, mount: subprocess.Popen[bytes] | None) -> Figures:
    """Run a case in a process of its own; on its deadline kill it, and end the mount."""
    command = [sys.executable, "-m", "benchmarks.job", json.dumps(asdict(order))]
    with log.open("wb") as output:
        process = start(command, output=output, cwd=ROOT)
        try:
            status = process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"killed after {deadline:.0f} s") from None
        finally:
            if process.poll() is None:
                # First it, lest it goes on in the directory below the mount; but it may wait for the mount.
                kill(process)
                if mount is not None:
                    end(mount, 0.1)
            end(process)
    said, _, answer = log.read_text(errors="replace").rpartition("\0")
    if status:
        raise RunFailed(tail(log, 1))
    if said.strip():
        print(said.strip(), file=sys.stderr)
    return cast("Figures", json.loads(answer))


def _main(text: str) -> None:
    values = json.loads(text)
    place = Place(**values["place"])
    case = next(case for case in CASES if case.name == values["case"])(smoke=values["smoke"])
    if place.endpoint:
        case.mark = lambda: _mark(place.endpoint)
    print("\0" + json.dumps(_run(case, values["way"], place, Path(values["root"]))))


def _run(case: Case, way: str, place: Place, root: Path) -> Figures:
    if way == "run":
        return case.run(root)
    return cast("Figures", getattr(case, way)(place))


def _mark(endpoint: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(endpoint + MARK, timeout=10).close()


if __name__ == "__main__":
    _main(sys.argv[1])
