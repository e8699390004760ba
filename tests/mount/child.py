"""Test code in a process of its own, with a deadline.

A call on a mount that hangs cannot be interrupted from within; the process that made it can be
killed.  So whatever touches a mount runs in a forked child.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

import pytest

__all__ = ["fails_with", "in_child"]

DEADLINE = 60.0


def in_child(function: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Call `function` in a forked child; AssertionError with its traceback if it raised or hung."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_call, args=(function, theirs), daemon=False)
    with warnings.catch_warnings():
        # Whatever threads the test process has, the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    theirs.close()
    with ours:
        try:
            failure = ours.recv() if ours.poll(seconds) else f"it did not end within {seconds:g} s"
        except EOFError:
            failure = "its process died"
    if failure is not None:
        _kill(child.pid)
    child.join(10)
    if child.exitcode is None:
        failure = f"{failure or 'it ended'}, and its process cannot be killed"
    else:
        child.close()
    if failure is not None:
        raise AssertionError(failure)


def _call(function: Callable[[], object], result: Connection) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        function()
    except BaseException:
        result.send(traceback.format_exc())
    else:
        result.send(None)


def _kill(pid: int | None) -> None:
    """Kill a child and what it started."""
    assert pid is not None
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def fails_with(number: int) -> Iterator[None]:
    """Assert that the block raises an OSError with just this errno."""
    with pytest.raises(OSError) as caught:
        yield
    told = caught.value.errno
    assert told == number, f"{errno.errorcode.get(told or 0, told)}, not {errno.errorcode[number]}"
