"""How the kernel's next request is waited for.

Whoever reads small files one by one sends the next request some microseconds
after the last answer.  To suspend the task and go once through the event loop
for it takes longer than the request itself.  So while no other request is in
progress the file descriptor is waited for right there, for a moment; and all
else that the loop has to do gets its turn when nothing comes, or after a
few milliseconds.

pyfuse3 takes what it needs of trio from its module attribute ``trio``, which
its own asyncio mode replaces, too.  A `Waiting` stands there instead: tasks
that wait are not let through one after the other by a lock, but one waits in
the event loop, the others for it, and whoever has just answered asks first.
"""

from __future__ import annotations

import select
import time
from collections.abc import Awaitable, Callable, Generator

import trio

__all__ = ["PATIENCE", "Waiting"]

PATIENCE = 100e-6
"""Seconds that the whole event loop may wait for a request that is probably about to come."""
_LONGEST_TURN = 3e-3
"""Seconds for which requests may follow one another without the event loop."""
_MOST_SELECTED = 1024
"""File descriptors from here on are too large for ``select(2)``."""


class _Done:
    """An awaitable with nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_DONE = _Done()


class _NoLock:
    """In place of the lock which lets only one task wait; `Waiting` does without."""

    def __aenter__(self) -> Awaitable[None]:
        return _DONE

    def __aexit__(self, *exception: object) -> Awaitable[None]:
        return _DONE


class Waiting:
    """What pyfuse3 uses of trio.

    Parameters
    ----------
    patience : float
        Seconds to wait for a request without the event loop; 0: only look whether there is one.
    is_busy : callable
        Tells whether another request is being answered, for which the event loop is needed.
    """

    Lock = _NoLock
    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)

    def __init__(self, patience: float, is_busy: Callable[[], bool]) -> None:
        self.lowlevel = self
        self._patience = patience
        self._is_busy = is_busy
        self._turn_ends = 0.0
        self._somebody_waits = False
        self._others = trio.lowlevel.ParkingLot()
        self._closing = False

    def wait_readable(self, fd: int) -> Awaitable[None]:
        """Return, awaited, when a request can be read.

        No other task runs between that and the return to the caller: else the request could be
        gone, and reading the next one would stop everything.
        """
        if fd >= _MOST_SELECTED:
            return self._wait(fd)
        if time.perf_counter() > self._turn_ends:
            return self._wait(fd, after_others=True)
        patience = 0.0 if self._patience == 0 or self._is_busy() else self._patience
        return _DONE if select.select((fd,), (), (), patience)[0] else self._wait(fd)

    async def _wait(self, fd: int, *, after_others: bool = False) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if after_others:
            await trio.lowlevel.checkpoint()
            self._turn_ends = time.perf_counter() + _LONGEST_TURN
            if poll.poll(0):
                return
        while True:
            while self._somebody_waits and not self._closing:
                await self._others.park()
            if self._closing:
                raise trio.ClosedResourceError
            self._somebody_waits = True
            try:
                await trio.lowlevel.wait_readable(fd)
            finally:
                self._somebody_waits = False
                self._others.unpark()
            if poll.poll(0):  # else somebody was faster
                self._turn_ends = time.perf_counter() + _LONGEST_TURN
                return

    def notify_closing(self, fd: int) -> None:
        """Let everybody who waits stop."""
        self._closing = True
        self._others.unpark_all()
        trio.lowlevel.notify_closing(fd)
