"""Limits on what stores do at once."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio
from anyio.lowlevel import RunVar

from stores.errors import StoreError

__all__ = ["LoopLimiter", "for_each"]

T = TypeVar("T")

_numbers = itertools.count()


class LoopLimiter:
    """A capacity limiter for each event loop that asks for it.

    One limiter belongs to one loop, and a store may be called from several: zarr-python has a loop of
    its own beside its caller's.

    Parameters
    ----------
    tokens : int
        How many may hold the limiter of one loop.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._variable: RunVar[anyio.CapacityLimiter] = RunVar(f"stores-limiter-{next(_numbers)}")

    def __reduce__(self) -> tuple[type[LoopLimiter], tuple[int]]:
        return LoopLimiter, (self.tokens,)

    def get(self) -> anyio.CapacityLimiter:
        """Return the limiter of the running loop."""
        limiter = self._variable.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(self.tokens)
            self._variable.set(limiter)
        return limiter


async def for_each(function: Callable[[T], Awaitable[None]], items: Iterable[T], at_once: int = 64) -> None:
    """Call `function` with each of the items, `at_once` at a time.

    Raises
    ------
    StoreError
        The first that a call raised, with its cause; the other calls are then cancelled.
    """
    waiting = iter(items)
    failed: StoreError | None = None

    async def work() -> None:
        nonlocal failed
        for item in waiting:
            try:
                await function(item)
            except StoreError as error:
                if failed is None:
                    failed = error
                group.cancel_scope.cancel()
                return

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(work)
    if failed is not None:
        raise failed
