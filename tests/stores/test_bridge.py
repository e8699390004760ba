"""The bridge to asyncio, called from trio and from asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
import sniffio

from stores.bridge import Bridge, run_on_loop
from stores.errors import Unavailable


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    bridge = Bridge("test-bridge")
    yield bridge
    bridge.close()


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run an async function to its end under one of the libraries, with a deadline."""

    def run(function: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            with anyio.fail_after(20):
                return await function()

        return anyio.run(main, backend=request.param)

    return run


def test_results_and_arguments(bridge: Bridge, run: Callable[..., Any]) -> None:
    async def add(a: int, b: int) -> tuple[int, str]:
        await asyncio.sleep(0)
        return a + b, threading.current_thread().name

    async def main() -> Any:
        return await bridge.run(add, 2, 3)

    assert run(main) == (5, "test-bridge")


def test_exceptions_come_back_as_they_are(bridge: Bridge, run: Callable[..., Any]) -> None:
    error = ValueError("from the other side")

    async def fail() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(ValueError, match="from the other side") as caught:
            await bridge.run(fail)
        assert caught.value is error

    run(main)


def test_the_function_itself_may_raise_before_it_awaits(bridge: Bridge, run: Callable[..., Any]) -> None:
    def broken() -> Awaitable[None]:
        raise KeyError("no coroutine")

    async def main() -> None:
        with pytest.raises(KeyError):
            await bridge.run(broken)

    run(main)


def test_the_task_sees_asyncio_and_none_of_the_callers_context(
    bridge: Bridge, run: Callable[..., Any]
) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def look() -> tuple[str, str]:
        return sniffio.current_async_library(), variable.get()

    async def main() -> Any:
        variable.set("set by the caller")
        return await bridge.run(look)

    assert run(main) == ("asyncio", "unset")


def test_200_calls_at_once(bridge: Bridge, run: Callable[..., Any]) -> None:
    inside = 0
    all_inside = asyncio.Event()

    async def wait_for_the_others(number: int) -> int:
        nonlocal inside
        inside += 1
        if inside == 200:
            all_inside.set()
        await all_inside.wait()
        return number

    async def main() -> list[int]:
        results: list[int] = []

        async def one(number: int) -> None:
            results.append(await bridge.run(wait_for_the_others, number))

        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(one, number)
        return sorted(results)

    assert run(main) == list(range(200))


def test_a_cancelled_caller_cancels_the_task(bridge: Bridge, run: Callable[..., Any]) -> None:
    started = threading.Event()
    cancelled = threading.Event()

    async def hang() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def main() -> bool:
        async with anyio.create_task_group() as group:
            group.start_soon(bridge.run, hang)
            await anyio.to_thread.run_sync(started.wait)
            group.cancel_scope.cancel()
        return group.cancel_scope.cancel_called

    assert run(main)
    assert cancelled.is_set()  # the caller waited for it


def test_a_task_that_ignores_the_cancellation_holds_nobody_up(
    bridge: Bridge, run: Callable[..., Any]
) -> None:
    started = threading.Event()
    ignored = threading.Event()
    release = asyncio.Event()
    ended = threading.Event()

    async def stubborn() -> None:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                ignored.set()
        ended.set()

    async def call() -> None:
        await bridge.run(stubborn, grace=0.05)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.to_thread.run_sync(started.wait)
            group.cancel_scope.cancel()

    run(main)  # has a deadline
    assert ignored.wait(10)
    assert not ended.is_set()
    bridge.loop.call_soon_threadsafe(release.set)
    assert ended.wait(10)


def test_a_task_cancelled_on_the_loop_is_unavailable(bridge: Bridge, run: Callable[..., Any]) -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(Unavailable, match="cancelled"):
            await bridge.run(give_up)

    run(main)


def test_closing_releases_the_callers(run: Callable[..., Any]) -> None:
    bridge = Bridge("test-bridge")
    started = threading.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    async def wait_for_it() -> None:
        with pytest.raises(Unavailable):
            await bridge.run(hang)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_it)
            await anyio.to_thread.run_sync(started.wait)
            await anyio.to_thread.run_sync(bridge.close)
        with pytest.raises(Unavailable, match="closed"):
            await bridge.run(hang)
        with pytest.raises(Unavailable, match="closed"):
            await run_on_loop(bridge.loop, hang)

    run(main)
    assert bridge.closed
    bridge.close()


def test_shared_is_one_and_made_anew_after_close() -> None:
    first = Bridge.shared()
    assert Bridge.shared() is first
    first.close()
    second = Bridge.shared()
    try:
        assert second is not first
        assert not second.closed
    finally:
        second.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_gets_its_own() -> None:
    async def number() -> int:
        return 42

    parent = Bridge.shared()
    try:
        child = os.fork()
        if child == 0:
            try:
                bridge = Bridge.shared()
                good = bridge is not parent and parent.closed and anyio.run(bridge.run, number) == 42
                os._exit(0 if good else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert anyio.run(parent.run, number) == 42
    finally:
        parent.close()
