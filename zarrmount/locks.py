"""A lock that many may share or one may have alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["SharedLock"]


class SharedLock:
    """Held by any number of tasks together, or by one alone.

    Whoever wants it alone is not starved: once one waits, newcomers queue behind it.
    """

    def __init__(self) -> None:
        self._turnstile = trio.Lock()
        self._sharers = 0
        self._empty = trio.Event()
        self._empty.set()

    @property
    def taken(self) -> bool:
        """Whether somebody has it, or wants it, alone."""
        return self._turnstile.locked()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold it together with others."""
        async with self._turnstile:
            self._sharers += 1
            if self._sharers == 1:
                self._empty = trio.Event()
        try:
            yield
        finally:
            self._sharers -= 1
            if self._sharers == 0:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold it alone."""
        async with self._turnstile:
            await self._empty.wait()
            yield
