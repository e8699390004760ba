"""Mounts that are made, watched and always taken away again."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import end, start, tail


class DidNotMount(Exception):
    """A contender ended, or did not answer in time; the message says what it said last."""


@dataclass(frozen=True)
class Mount:
    """A mount that answers.

    Attributes
    ----------
    path : Path
        Where it is.
    process : Popen
        Its server.
    ready_s : float
        From the start of the process to the first answer.
    log : Path
        What it says.
    """

    path: Path
    process: subprocess.Popen[bytes]
    ready_s: float
    log: Path


@contextlib.contextmanager
def mounted(
    command: Sequence[str], scratch: Path, path: Path, environment: Mapping[str, str], deadline: float = 60
) -> Iterator[Mount]:
    """Run a server in the foreground until it shows its mount; take both away afterwards."""
    path.mkdir(parents=True)
    log = scratch / "log"
    with log.open("wb") as output:
        began = time.monotonic()
        process = start(command, output=output, environment=_home(scratch) | dict(environment), cwd=scratch)
    try:
        while not (_is_mounted(path) and answers(path, deadline, process)):
            if process.poll() is not None:
                raise DidNotMount(f"ended with {process.returncode}: {tail(log, 2)}")
            if time.monotonic() - began > deadline:
                raise DidNotMount(f"did not answer within {deadline:.0f} s: {tail(log, 2)}")
            time.sleep(0.005)
        yield Mount(path, process, time.monotonic() - began, log)
    finally:
        _take_away(path, process)


def _home(scratch: Path) -> dict[str, str]:
    """Nobody's caches and configuration: each mount starts with none."""
    places = {
        name: scratch / name.lower()
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
    }
    for directory in places.values():
        directory.mkdir(exist_ok=True, mode=0o700)
    return {name: str(directory) for name, directory in places.items()}


def _is_mounted(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def answers(path: Path, deadline: float, server: subprocess.Popen[bytes]) -> bool:
    """Tell whether a path can be stat'ed, asked by a process that a hanging mount can keep.

    Raises
    ------
    DidNotMount
        If there is no answer, neither yes nor no; the server is ended then.
    """
    process = start(["stat", str(path)], output=subprocess.DEVNULL)
    try:
        return process.wait(deadline) == 0
    except subprocess.TimeoutExpired:
        end(server, 0.1)  # a process that waits for it can't be killed before
        raise DidNotMount(f"hangs: no answer within {deadline:.0f} s") from None
    finally:
        end(process)


def _take_away(path: Path, process: subprocess.Popen[bytes]) -> None:
    if _is_mounted(path):
        _fusermount("-u", path)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
    # Once its server is gone every call that hangs in the mount fails, and it can be detached.
    end(process)
    while _is_mounted(path):
        _fusermount("-uz", path)
    shutil.rmtree(path)


def _fusermount(how: str, path: Path) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["fusermount3", how, str(path)], capture_output=True, timeout=15, check=False)
