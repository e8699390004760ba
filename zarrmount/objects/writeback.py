"""Closed files whose upload waits: for their rename, or because the mount writes back.

A file is *parked* until it is due.  What happens to it meanwhile needs no word
here: whoever stores a due file looks whether it is still to be stored.  An
upload that fails is tried again, ever later, for as long as the mount lives;
one that met another writer's change is not.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from stores.errors import AlreadyExists, Precondition, StoreError

if TYPE_CHECKING:
    from zarrmount.inodes import Inode

__all__ = ["Writeback"]

log = logging.getLogger(__name__)

_AT_ONCE = 32
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 60.0


class Writeback:
    """The closed files that wait, and the task that stores them when they are due.

    Parameters
    ----------
    store : callable
        Stores one file now, if it is still closed and dirty; raises StoreError or OSError if it cannot.

    Attributes
    ----------
    running : bool
        Whether the task is at work: nothing may wait otherwise.
    """

    def __init__(self, store: Callable[[Inode], Awaitable[None]]) -> None:
        self._store = store
        self._due: dict[Inode, float] = {}
        self._queue: list[tuple[float, int, Inode]] = []
        self._numbers = itertools.count()
        self._changed = trio.Event()
        self.running = False

    def __contains__(self, inode: Inode) -> bool:
        """Whether a file waits."""
        return inode in self._due

    def park(self, inode: Inode, seconds: float) -> None:
        """Let a file be stored in so many seconds."""
        self._put(inode, trio.current_time() + seconds)

    def hasten(self) -> None:
        """Let everything that waits be due now."""
        for inode, due in list(self._due.items()):
            if due > -math.inf:
                self._put(inode, -math.inf)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Store what is due, until cancelled."""
        slots = trio.Semaphore(_AT_ONCE)
        self.running = True
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    await slots.acquire()
                    inode = await self._next_due()
                    nursery.start_soon(self._store_one, inode, slots)
        finally:
            self.running = False

    def _put(self, inode: Inode, due: float) -> None:
        self._due[inode] = due
        heapq.heappush(self._queue, (due, next(self._numbers), inode))
        self._changed.set()

    async def _next_due(self) -> Inode:
        while True:
            self._changed = trio.Event()
            while self._queue and self._due.get(self._queue[0][2]) != self._queue[0][0]:
                heapq.heappop(self._queue)  # it was parked anew
            first = self._queue[0][0] if self._queue else math.inf
            if first <= trio.current_time():
                inode = heapq.heappop(self._queue)[2]
                del self._due[inode]
                return inode
            with trio.move_on_at(first):
                await self._changed.wait()

    async def _store_one(self, inode: Inode, slots: trio.Semaphore) -> None:
        pause = _FIRST_PAUSE
        try:
            while True:
                try:
                    return await self._store(inode)
                except (AlreadyExists, Precondition):
                    return None  # it was logged; the next close, or the unmount, tells of it
                except (StoreError, OSError) as error:
                    log.debug("trying again in %.0f s: %s", pause, error)
                slots.release()
                try:
                    await trio.sleep(pause)
                finally:
                    await slots.acquire()
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            slots.release()
