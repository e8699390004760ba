"""Many at once, as the cases need it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def in_threads(count: int, items: Iterable[Item], work: Callable[[Item], None]) -> int:
    """Do `work` on all items in some threads; return how many there were; the first error is raised."""
    lock, shared = threading.Lock(), iter(items)

    def take(_: int) -> int:
        done = 0
        while True:
            with lock:
                item = next(shared, None)
            if item is None:
                return done
            work(item)
            done += 1

    with ThreadPoolExecutor(count) as threads:
        return sum(threads.map(take, range(count)))


def in_tasks(count: int, items: Iterable[Item], work: Callable[[Item], Awaitable[None]]) -> int:
    """Do `work` on all items in some asyncio tasks; return how many there were."""
    shared = iter(items)

    async def take() -> int:
        done = 0
        for item in shared:
            await work(item)
            done += 1
        return done

    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(take() for _ in range(count))))

    return asyncio.run(all_of_them())
