"""Going to the background, and coming back only when the work is up (or why it is not)."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable

__all__ = ["StartFailedError", "run_in_background"]


class StartFailedError(Exception):
    """The background process could not start; the text says why."""


def run_in_background(work: Callable[[Callable[[], None]], int]) -> int:
    """Run `work` in a process of its own, detached from the terminal.

    Must be called before any thread is started.

    Parameters
    ----------
    work : callable
        Given a function to call when it is up; returns the exit status of the process, or raises.

    Returns
    -------
    int
        The process id, once `work` is up.

    Raises
    ------
    StartFailedError
        If it ended, or raised, before it was up.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _be_the_background(work, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read()
    if not said:
        _, status = os.waitpid(pid, 0)
        raise StartFailedError(f"the background process ended unexpectedly ({_in_words(status)})")
    message = json.loads(said)
    if "error" in message:
        os.waitpid(pid, 0)
        raise StartFailedError(message["error"])
    return pid


def _be_the_background(work: Callable[[Callable[[], None]], int], pipe: int) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    status = 1
    up = threading.Event()

    def tell(message: dict[str, str]) -> None:
        if not up.is_set():
            up.set()
            os.write(pipe, json.dumps(message).encode())
            os.close(pipe)

    def ready() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.chdir("/")
        tell({"up": ""})

    try:
        status = work(ready)
        tell({"error": f"it ended with status {status} before it was up"})
    except BaseException as error:  # noqa: BLE001 (the parent prints it; there is nobody else to tell)
        tell({"error": str(error) or type(error).__name__})
    finally:
        os._exit(status)


def _in_words(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {-code}"
