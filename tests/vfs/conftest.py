"""Fixtures of the tests of the VFS."""

from __future__ import annotations

import pytest
from trio.testing import MockClock


@pytest.fixture
def clock() -> MockClock:
    """A clock that jumps over all waiting.

    It leaves worker threads a moment of real time: it cannot see that they work.
    """
    return MockClock(autojump_threshold=0.02)
