"""Fixtures of the tests of the VFS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import pytest
import trio
from trio.testing import MockClock

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps over all waiting.

    It leaves worker threads a moment of real time: it cannot see that they work.
    """
    return MockClock(autojump_threshold=0.02)


@pytest.fixture
def threads_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is given to worker threads take no time, for tests of when things happen."""

    async def run_sync(function: Callable[[*Args], Result], *arguments: *Args, **_: object) -> Result:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
