"""How a file system of fsspec is made, called and closed, whichever way it wants to be called."""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any

import anyio

from stores.bridge import Bridge, run_on_loop
from stores.concurrency import LoopLimiter
from stores.errors import BadLocation
from stores.filesystems.kinds import kind_of, plain, protocols_of
from stores.urls import redact

__all__ = ["Calls", "check_protocol", "make_filesystem", "protocol_names"]

_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


class Calls:
    """A file system that is made when first called, and callable from any event loop.

    Asynchronous file systems are awaited on the loop that they belong to; synchronous ones are called
    in worker threads, one at a time where they are not thread-safe.

    Parameters
    ----------
    make : callable
        Returns the file system and the path of the store in it; called once, in a worker thread, for
        it may connect.
    owned : bool
        Whether `aclose` closes its sessions: not those of a file system that somebody else made.
    concurrency : int
        Calls at once, per event loop.
    """

    def __init__(self, make: Callable[[], tuple[Any, str]], *, owned: bool, concurrency: int) -> None:
        self._make = make
        self._owned = owned
        self._making = threading.Lock()
        self._fs: Any = None
        self._root = ""
        self._is_async = False
        self._serial: threading.Lock | None = None
        self._limiter = LoopLimiter(concurrency)

    async def filesystem(self) -> tuple[Any, str]:
        """Return the file system and the path in it, without a slash at its end; made if need be."""
        if self._fs is None:
            await anyio.to_thread.run_sync(self._made, abandon_on_cancel=True)
        return self._fs, self._root

    def _made(self) -> None:
        with self._making:
            if self._fs is not None:
                return
            fs, path = self._make()
            fs = plain(fs)
            self._root = str(fs._strip_protocol(path)).rstrip("/")
            self._is_async = _is_async(fs)
            if kind_of(protocols_of(fs)).serial:
                with _locks_lock:
                    self._serial = _locks.setdefault(fs, threading.Lock())
                self._limiter = LoopLimiter(1)  # more threads would only wait for the lock
            self._fs = fs

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the method `name` (without the underscore of asynchronous ones) of the file system."""
        fs, _ = await self.filesystem()
        if self._is_async:
            return await self.await_on_loop(getattr(fs, f"_{name}"), *args, **kwargs)
        return await self.in_thread(getattr(fs, name), *args, **kwargs)

    async def await_on_loop(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Await a coroutine function on the loop of an asynchronous file system."""
        async with self._limiter.get():
            loop: asyncio.AbstractEventLoop | None = None if self._fs.asynchronous else self._fs.loop
            if loop is None:
                return await Bridge.shared().run(partial(function, *args, **kwargs))
            return await run_on_loop(loop, partial(function, *args, **kwargs))

    async def in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function that calls a synchronous file system, any number of times."""

        def call() -> Any:
            if self._serial is None:
                return function(*args, **kwargs)
            with self._serial:
                return function(*args, **kwargs)

        return await anyio.to_thread.run_sync(call, limiter=self._limiter.get(), abandon_on_cancel=True)

    @property
    def is_async(self) -> bool:
        """Whether the file system (made already) is asynchronous."""
        return self._is_async

    async def aclose(self) -> None:
        """Close the sessions of an owned file system; the next call opens them again."""
        fs = self._fs
        if fs is None or not self._owned:
            return
        if self._is_async:
            await self.await_on_loop(_close_sessions, fs)
        else:
            await self.in_thread(_close_connections, fs)
        self._fs = None


def _is_async(fs: Any) -> bool:
    from fsspec.implementations.cached import CachingFileSystem

    # A cache answers `async_impl` with its target's, and has synchronous reads only.
    return bool(fs.async_impl) and not isinstance(fs, CachingFileSystem)


def _close_connections(fs: Any) -> None:
    """Close what synchronous file systems keep open: of SSH, of FTP, of archives."""
    held = vars(fs)
    for name in ("client", "ftp", "zip", "tar"):
        if hasattr(held.get(name), "close"):
            held[name].close()


async def _close_sessions(fs: Any) -> None:
    """Close what s3fs, gcsfs, adlfs and fsspec's HTTP file system keep open, each under its name."""
    for name in ("_s3", "_session", "service_client"):
        session = getattr(fs, name, None)
        if session is None or not hasattr(session, "close"):
            continue
        closing = session.close()
        if inspect.isawaitable(closing):
            await closing
        if name != "service_client":
            setattr(fs, name, None)


# -- URLs ------------------------------------------------------------------------------------------


def protocol_names(url: str) -> list[str]:
    """Return the protocols of a URL or chain of URLs; BadLocation if it names none."""
    names = []
    for number, link in enumerate(url.split("::")):
        scheme, mark, _ = link.partition("://")
        if mark:
            names.append(scheme)
        elif number == 0:
            names.append(link if "::" in url else "file")
    if not names or not names[0]:
        raise BadLocation(f"{redact(url)!r} names no protocol")
    return names


def check_protocol(protocol: str) -> Any:
    """Return fsspec's class for a protocol.

    Raises
    ------
    BadLocation
        If there is none, or its package is not installed; says what to type instead.
    """
    import fsspec
    from fsspec.registry import known_implementations

    try:
        return fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        near = get_close_matches(protocol, fsspec.available_protocols(), n=3, cutoff=0.5)
        hint = f": did you mean {', '.join(f'{name}://' for name in near)}?" if near else ""
        raise BadLocation(f"unknown protocol {protocol}://{hint}") from error
    except ImportError as error:
        known = known_implementations.get(protocol, {})
        package = known.get("class", "fsspec").partition(".")[0]
        cause = error.__cause__
        if package == "fsspec" and isinstance(cause, ImportError) and cause.name:
            package = _PACKAGES.get(cause.name, cause.name)
        said = str(known.get("err") or error).strip().rstrip(".")
        raise BadLocation(
            f"{protocol}:// needs a package that is not installed ({said}): pip install {package}"
        ) from error


_PACKAGES = {"smbclient": "smbprotocol", "webdav4": "webdav4[fsspec]", "libarchive": "libarchive-c"}
"""Packages that are not called like the module that they install."""


_SHORTEST_SECRET = 4


def make_filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Make the file system of a URL or chain, for one store alone, and return it and the path in it."""
    import fsspec.core

    extra: dict[str, Any] = {}
    if "::" not in url:
        cls = check_protocol(fsspec.core.split_protocol(url)[0] or "file")
        # An instance of its own, so that its sessions can be closed with the store.
        extra["skip_instance_cache"] = True
        if cls.async_impl:
            extra["use_listings_cache"] = False
            # adlfs means to close its clients on fsspec's loop when it is collected, and prints a
            # traceback where there is none.
            extra["asynchronous"] = cls.__name__ != "AzureBlobFileSystem"
    try:
        fs, path = fsspec.core.url_to_fs(url, **{**extra, **options})
    except (TypeError, ValueError, KeyError) as error:
        said = str(error)
        for value in options.values():
            said = said.replace(str(value), "***") if len(str(value)) >= _SHORTEST_SECRET else said
        raise BadLocation(f"the storage options cannot be used: {type(error).__name__}: {said}") from error
    return fs, path
