"""One asyncio event loop on a thread of its own, for libraries that know nothing but asyncio.

fsspec's asynchronous file systems and zarr-python's stores must run on an
asyncio loop, and their sessions live as long as that loop does.  The rest of
the program may run on trio, or on other asyncio loops that come and go.  A
:class:`Bridge` owns the loop and carries calls over to it and outcomes back::

    data = await Bridge.shared().run(filesystem._cat_file, path)
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar, TypeVar, TypeVarTuple, cast

import anyio

from stores.errors import Unavailable

__all__ = ["Bridge", "run_on_loop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_GRACE = 1.0
"""Seconds that a cancelled caller waits for its task to clean up."""


def _waker(event: anyio.Event) -> Callable[[], None]:
    """Return what sets `event`, an event of the running loop, from any other thread."""
    if "trio" in _running_library():
        import trio

        token = trio.lowlevel.current_trio_token()

        def wake_trio() -> None:
            with suppress(trio.RunFinishedError):  # nobody waits any more
                token.run_sync_soon(event.set)

        return wake_trio

    loop = asyncio.get_running_loop()

    def wake_asyncio() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(event.set)

    return wake_asyncio


def _running_library() -> str:
    import sniffio

    return sniffio.current_async_library()


class _Call:
    """One call on its way: started, cancelled and finished on the loop, read by the caller after that.

    The outcome is written before `wake` and read after it, so it needs no lock.
    """

    def __init__(self, function: Callable[[], Awaitable[Any]], wake: Callable[[], None]) -> None:
        self._function = function
        self._wake = wake
        self._task: asyncio.Task[Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._finished)

    async def _run(self) -> Any:
        return await self._function()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            # A CancelledError of this loop would mean something else, or nothing, in the caller's.
            self.error = Unavailable("the call was cancelled on the event loop that it ran on")
        else:
            self.error = task.exception()
            if self.error is None:
                self.result = task.result()
        self._wake()


async def run_on_loop(
    loop: asyncio.AbstractEventLoop,
    function: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    grace: float = _GRACE,
) -> T:
    """Call an asynchronous function on `loop`, which runs in another thread, and await its outcome.

    Parameters
    ----------
    loop : asyncio event loop
        A running loop; never the one that this is awaited on, for which there is no need.
    function, *args
        What to call, on that loop.  It sees none of the caller's context variables.
    grace : float
        A cancelled caller cancels the task and waits this long for it to end, no longer.

    Raises
    ------
    Unavailable
        If the task was cancelled by another than the caller, or the loop is closed.
    """

    def submit(callback: Callable[[], object]) -> None:
        _call_soon(loop, callback)

    return await _carry(submit, lambda: function(*args), grace)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    try:
        # An empty context: the caller's names the caller's library, among other things.
        loop.call_soon_threadsafe(callback, context=contextvars.Context())
    except RuntimeError as error:
        raise Unavailable("the event loop of this store is closed") from error


async def _carry(
    submit: Callable[[Callable[[], object]], None], function: Callable[[], Awaitable[T]], grace: float
) -> T:
    done = anyio.Event()
    call = _Call(function, _waker(done))
    submit(call.start)
    try:
        await done.wait()
    except BaseException:  # cancelled: pass it on, and go on being cancelled
        with suppress(Unavailable):
            submit(call.cancel)
        with anyio.move_on_after(grace, shield=True):
            await done.wait()
        raise
    if call.error is not None:
        try:
            raise call.error
        finally:
            call.error = None  # else the traceback keeps the frame, which keeps the error
    return cast("T", call.result)


class Bridge:
    """An asyncio event loop that runs on a daemon thread until it is closed.

    Parameters
    ----------
    name : str
        Of the thread.
    """

    _shared: ClassVar[Bridge | None] = None
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str = "stores-bridge") -> None:
        self._pid = os.getpid()
        self._submit_lock = threading.Lock()  # what was submitted before the stop is cancelled by it
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    @classmethod
    def shared(cls) -> Bridge:
        """Return the bridge of this process, made on first use, and anew after a fork or a close."""
        with cls._shared_lock:
            bridge = cls._shared
            if bridge is None or bridge.closed:
                bridge = cls._shared = cls()
            return bridge

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop; use it only through `run`, or from a task that runs on it."""
        return self._loop

    @property
    def closed(self) -> bool:
        """Whether it is of no use: closed, or left behind on the other side of a fork."""
        return self._closing or self._pid != os.getpid()

    async def run(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts, grace: float = _GRACE) -> T:
        """Call an asynchronous function on the loop; see :func:`run_on_loop`."""
        return await _carry(self._submit, lambda: function(*args), grace)

    def _submit(self, callback: Callable[[], object]) -> None:
        if self._pid != os.getpid():
            raise Unavailable("the bridge to asyncio was left behind by a fork")
        with self._submit_lock:
            if self._closing:
                raise Unavailable("the bridge to asyncio is closed")
            _call_soon(self._loop, callback)

    def close(self, timeout: float = 5.0) -> None:
        """Cancel what runs on the loop, end its thread and close it.  Idempotent; never from the loop.

        Tasks that do not end within `timeout` seconds are left behind with the (daemon) thread.
        """
        if self._pid != os.getpid():
            return  # the thread is the parent's
        with self._submit_lock:
            if not self._closing:
                self._closing = True
                _call_soon(self._loop, self._loop.stop)
        self._thread.join(timeout)

    def _main(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            while tasks := asyncio.all_tasks(loop):
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    @classmethod
    def _forget_shared(cls) -> None:
        """In the child of a fork: the lock may be held, and the loop's thread is not there."""
        cls._shared_lock = threading.Lock()
        cls._shared = None


os.register_at_fork(after_in_child=Bridge._forget_shared)
