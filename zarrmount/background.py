"""Work that outlives the call which began it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

__all__ = ["Background"]

log = logging.getLogger(__name__)

Args = TypeVarTuple("Args")


class Background:
    """Where calls leave work that nobody waits for, such as reading ahead.

    While `run` is not at work nothing is taken: whoever asks must do without.
    """

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    @property
    def running(self) -> bool:
        """Whether work is taken."""
        return self._nursery is not None

    def start(self, work: Callable[[*Args], Awaitable[None]], *args: *Args) -> bool:
        """Begin some work; return False if it is not taken."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(self._do, work, args)
        return True

    async def _do(self, work: Callable[..., Awaitable[None]], args: tuple[object, ...]) -> None:
        try:
            await work(*args)
        except Exception as error:  # it must not take the mount with it
            log.error("a fault in zarrmount: %r", error, exc_info=error)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the work that is left here, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None
