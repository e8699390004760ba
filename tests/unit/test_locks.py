"""The lock that many share or one has alone."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zarrmount.locks import SharedLock


@pytest.fixture
def clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_many_share_at_once() -> None:
    lock, inside, most = SharedLock(), 0, 0

    async def share() -> None:
        nonlocal inside, most
        async with lock.shared():
            inside += 1
            most = max(most, inside)
            await wait_all_tasks_blocked()
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(share)
    assert most == 10


async def test_newcomers_queue_behind_one_who_waits_to_be_alone() -> None:
    lock, order = SharedLock(), []

    async def share(name: str) -> None:
        async with lock.shared():
            order.append(name)

    async def alone() -> None:
        async with lock.alone():
            order.append("alone")

    async with trio.open_nursery() as nursery, lock.shared():
        nursery.start_soon(alone)
        await wait_all_tasks_blocked()
        nursery.start_soon(share, "late")
        await wait_all_tasks_blocked()
        assert order == []
    assert order == ["alone", "late"]


@pytest.mark.parametrize(("held", "wanted"), [("shared", "alone"), ("alone", "shared"), ("alone", "alone")])
async def test_a_waiter_that_is_cancelled_leaves_the_lock_usable(held: str, wanted: str) -> None:
    lock, over = SharedLock(), trio.Event()

    async def hold() -> None:
        async with getattr(lock, held)():
            await over.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as scope:
            async with getattr(lock, wanted)():
                raise AssertionError
        assert scope.cancelled_caught
        if held == "shared":
            async with lock.shared():
                pass
        over.set()
    async with lock.alone():
        pass
    async with lock.shared():
        pass


@pytest.mark.parametrize("seed", range(20))
async def test_random_schedules(clock: MockClock, seed: int) -> None:
    """One alone is alone, everybody gets in, and cancelled ones leave nothing behind."""
    chance = random.Random(seed)
    lock, sharers, loners, done = SharedLock(), 0, 0, 0

    async def work() -> None:
        nonlocal sharers, loners, done
        await trio.sleep(chance.random() * 5)
        with trio.move_on_after(chance.choice([0.1, 1, 1000])):
            if chance.random() < 0.3:
                async with lock.alone():
                    loners += 1
                    try:
                        assert (loners, sharers) == (1, 0)
                        await trio.sleep(chance.random())
                        assert (loners, sharers) == (1, 0)
                    finally:
                        loners -= 1
            else:
                async with lock.shared():
                    sharers += 1
                    try:
                        assert loners == 0
                        await trio.sleep(chance.random())
                        assert loners == 0
                    finally:
                        sharers -= 1
        done += 1

    with trio.fail_after(5000):
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(work)
    assert (done, sharers, loners) == (60, 0, 0)
    async with lock.alone():
        pass
