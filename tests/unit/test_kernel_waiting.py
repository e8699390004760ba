"""Waiting for the kernel's requests: at once, one by one, and never at the cost of all else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from zarrmount import requests
from zarrmount.requests import Waiting

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)  # a read without a request must fail rather than hang
    with ours, kernels:
        yield ours, kernels


def waiting(busy: bool = False, patience: float = 0.1) -> Waiting:
    return Waiting(patience, lambda: busy)


async def first_turn(wait: Waiting, ends: Ends) -> None:
    ends[1].send(b"first")
    await wait.wait_readable(ends[0].fileno())
    assert ends[0].recv(99) == b"first"


async def test_a_request_that_is_there_needs_no_event_loop(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = waiting()
    await first_turn(wait, ends)
    wait._turn_ends += 60
    monkeypatch.setattr(trio.lowlevel, "wait_readable", None)
    for _ in range(10):
        ends[1].send(b"next")
        await wait.wait_readable(ends[0].fileno())
        assert ends[0].recv(99) == b"next"


@pytest.mark.parametrize("busy", [False, True])
async def test_it_waits_outside_of_the_event_loop_only_while_nothing_else_is_in_progress(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    wait = waiting(busy)
    await first_turn(wait, ends)
    wait._turn_ends += 60
    patience = []

    def select(readers: tuple[int], writers: object, others: object, seconds: float) -> tuple[list[int], ...]:
        patience.append(seconds)
        return [], [], []

    monkeypatch.setattr(requests.select, "select", select)
    ends[1].send(b"next")
    await wait.wait_readable(ends[0].fileno())
    assert patience == [0.0 if busy else 0.1]


async def test_each_request_wakes_one_of_many(ends: Ends) -> None:
    wait = waiting(patience=0.0)
    taken: list[bytes] = []
    done = trio.Event()

    async def work() -> None:
        while True:
            await wait.wait_readable(ends[0].fileno())
            taken.append(ends[0].recv(99))  # BlockingIOError if another was faster
            if len(taken) == 200:
                done.set()
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(work)
        for number in range(200):
            ends[1].send(b"%d" % number)
            if number % 7 == 0:
                await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(10):
            await done.wait()
        nursery.cancel_scope.cancel()
    assert taken == [b"%d" % number for number in range(200)]


async def test_one_that_is_answering_does_not_keep_the_others_from_requests(ends: Ends) -> None:
    wait = waiting(busy=True)
    taken = trio.Event()
    with trio.fail_after(10):
        await first_turn(wait, ends)

        async def other() -> None:
            await wait.wait_readable(ends[0].fileno())
            ends[0].recv(99)
            taken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await trio.testing.wait_all_tasks_blocked()
            ends[1].send(b"next")
            await taken.wait()  # while this task is still at its answer


async def test_all_else_gets_its_turn_however_many_requests_come(ends: Ends) -> None:
    wait = waiting()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        with trio.fail_after(10):
            while turns < 10:
                ends[1].send(b"more")
                await wait.wait_readable(ends[0].fileno())
                ends[0].recv(99)
        nursery.cancel_scope.cancel()


async def test_the_end_wakes_everybody(ends: Ends) -> None:
    wait = waiting()
    ended = 0

    async def work() -> None:
        nonlocal ended
        with pytest.raises(trio.ClosedResourceError):
            await wait.wait_readable(ends[0].fileno())
        ended += 1

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            wait.notify_closing(ends[0].fileno())
    assert ended == 5


async def test_whoever_is_cancelled_hands_over(ends: Ends) -> None:
    wait = waiting()
    taken = trio.Event()

    async def work(scope: trio.CancelScope) -> None:
        with scope:
            await wait.wait_readable(ends[0].fileno())
            taken.set()

    scopes = [trio.CancelScope(), trio.CancelScope()]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(work, scope)
            await trio.testing.wait_all_tasks_blocked()
            scopes[0].cancel()
            await trio.testing.wait_all_tasks_blocked()
            os.write(ends[1].fileno(), b"next")
            await taken.wait()
            scopes[1].cancel()
