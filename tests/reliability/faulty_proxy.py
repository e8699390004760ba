"""A proxy in front of a real HTTP server that does what bad networks and tired servers do.

================  =============================================================================
latency           the request waits a while
refused           the connection breaks before anything is passed on
stall_request     the request is never passed on, and never answered
stall_response    half of the answer comes, and then nothing more
reset_request     the connection breaks in the middle of the request's body
reset_response    the connection breaks in the middle of the answer's body
truncated         the answer ends in the middle of its body
dropped           the server does its work, and the connection breaks before any of the answer
late              the connection breaks, and the server does its work a while later
500, 503, 429     the server's own error, or its wish to be left alone
expired           403 ExpiredToken
too_long          Content-Length says more than there is
too_short         Content-Length says less than there is
corrupt           one bit of the answer's body is another (bodies of GETs only)
corrupt_request   one bit of the request's body is another
================  =============================================================================

It runs in a thread with an event loop of its own.  Besides the schedule there is `blocked`: every
request fails in one way, as when the server is gone.  It tells and takes all this over HTTP too, at
``/-faults-``, for tests that run in another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from reliability.faults import Schedule

__all__ = ["KINDS", "FaultyProxy", "faulty_proxy"]

_ANSWERS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "429": (429, "TooManyRequests", "Too many requests."),
    "expired": (403, "ExpiredToken", "The provided token has expired."),
}
_ALWAYS = frozenset(
    {"latency", "refused", "stall_request", "stall_response", "dropped", "truncated", *_ANSWERS}
)
_WITH_BODY = frozenset({"reset_request", "corrupt_request"})
_ANSWER_WITH_BODY = frozenset({"reset_response", "too_long", "too_short", "corrupt"})
KINDS = _ALWAYS | _WITH_BODY | _ANSWER_WITH_BODY | {"late"}
CONTROL = b"/-faults-"


@dataclasses.dataclass(slots=True)
class _Message:
    """A request or an answer: the lines of its head, and its body (None: none is expected)."""

    first: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    def header(self, name: bytes) -> bytes:
        return next((value for key, value in self.headers if key.lower() == name), b"")

    def head(self, length: int | None = None) -> bytes:
        lines = [self.first]
        for key, value in self.headers:
            lower = key.lower()
            if lower == b"transfer-encoding" or (lower == b"content-length" and length is not None):
                continue
            lines.append(key + b": " + value)
        if length is not None:
            lines.append(b"Content-Length: %d" % length)
        return b"\r\n".join(lines) + b"\r\n\r\n"


class _Gone(Exception):
    """The connection is over."""


class FaultyProxy:
    """One proxy; made by `faulty_proxy`.

    Attributes
    ----------
    schedule : Schedule
        Which faults come.
    blocked : str
        Empty, or one of the kinds above that hits every request (and is not counted).
    requests : int
        How many requests came.
    asked_for : list of tuple
        Method and path of each.
    struck : Counter
        Faults by the address that was asked for.
    late : int
        Requests that the client believes lost, and the server will still get.
    port : int
        Where it listens.
    """

    def __init__(self, upstream: str, schedule: Schedule, host: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = parts.hostname or "", parts.port or 80
        self.schedule = schedule
        self.host = host
        self.blocked = ""
        self.requests = 0
        self.asked_for: list[tuple[str, str]] = []
        self.port = 0
        self.struck: Counter[str] = Counter()
        self.late = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    # -- connections ---------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of a client."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while True:
                request = await _read_head(reader)
                if request.first.split()[1].startswith(CONTROL):
                    await self._control(request, reader, writer)
                    continue
                self.requests += 1
                method, address = request.first.split()[:2]
                self.asked_for.append((method.decode(), unquote(urlsplit(address.decode()).path)))
                if server is None:
                    server = await asyncio.open_connection(*self._upstream)
                if not await self._pass_on(request, reader, writer, *server):
                    server[1].close()
                    server = None
        except (_Gone, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, server[1] if server is not None else None):
                if end is not None:
                    end.close()

    async def _pass_on(
        self,
        request: _Message,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> bool:
        """Serve one request; return whether the connection to the server can be used again."""
        method = request.first.split()[0]
        possible = set(_ALWAYS)
        length = int(request.header(b"content-length") or 0)
        if length:
            possible |= _WITH_BODY
        if method == b"GET":
            possible |= _ANSWER_WITH_BODY
        if method == b"PUT":
            possible.add("late")
        kind = self.blocked or self.schedule.draw(possible)
        if kind is not None and kind != "latency":
            self.struck[unquote(request.first.split()[1].decode("latin-1"))] += 1
        if kind == "latency":
            await asyncio.sleep(self.schedule.number(0.005, 0.1))
        if kind == "refused":
            _reset(writer)
            raise _Gone
        if kind == "reset_request":
            await reader.readexactly(length // 2)
            _reset(writer)
            raise _Gone
        if request.header(b"expect").lower() == b"100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.body = await _read_body(request, reader)
        if kind == "stall_request":
            await reader.read(1)  # until the client has had enough
            raise _Gone
        if kind in _ANSWERS:
            writer.write(_error(*_ANSWERS[kind], method))
            await writer.drain()
            return True
        if kind == "corrupt_request":
            request.body = _flip(request.body, self.schedule)
        if kind == "late":
            self.late += 1
            task = asyncio.create_task(self._later(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            _reset(writer)
            raise _Gone
        answer = await _ask(request, from_server, to_server)
        if kind == "dropped":
            _reset(writer)
            raise _Gone
        await self._answer(kind, method, answer, reader, writer)
        return b"close" not in answer.header(b"connection").lower()

    async def _answer(
        self,
        kind: str | None,
        method: bytes,
        answer: _Message,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        body, length = answer.body, len(answer.body)
        if kind == "corrupt":
            body = _flip(body, self.schedule)
        if kind == "too_long":
            length += 100
        if kind == "too_short":
            length = body_sent = len(body) // 2
            body = body[:body_sent]
        has_length = bool(answer.header(b"content-length") or answer.header(b"transfer-encoding"))
        bodiless = method == b"HEAD" or answer.first.split()[1] in (b"204", b"304")
        head = answer.head(None if bodiless or not (has_length or body) else length)
        if kind in ("stall_response", "reset_response", "truncated"):
            whole = head + body
            writer.write(whole[: len(head) + len(body) // 2] if body else head[: len(head) // 2])
            await writer.drain()
            if kind == "stall_response":
                await reader.read(1)
            if kind == "reset_response":
                await asyncio.sleep(0.01)  # what was sent arrives first
                _reset(writer)
            raise _Gone
        writer.write(head + body)
        await writer.drain()
        if kind == "too_long":
            raise _Gone

    async def _later(self, request: _Message) -> None:
        try:
            await asyncio.sleep(self.schedule.number(0.05, 1.0))
            with contextlib.suppress(OSError, _Gone, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(*self._upstream)
                try:
                    await _ask(request, reader, writer)
                finally:
                    writer.close()
        finally:
            self.late -= 1

    # -- control -------------------------------------------------------------------------------

    async def _control(
        self, request: _Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        told = json.loads(await _read_body(request, reader) or b"{}")
        before = self.schedule.weather
        if "weather" in told:
            self.schedule.weather = told["weather"]
        self.blocked = told.get("blocked", self.blocked)
        said = json.dumps(
            {
                "counts": self.schedule.counts,
                "requests": self.requests,
                "struck": self.struck,
                "late": self.late,
                "before": before,
            }
        ).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
        await writer.drain()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.contextmanager
def faulty_proxy(
    upstream: str, schedule: Schedule | None = None, host: str = "127.0.0.1"
) -> Iterator[FaultyProxy]:
    """Run a proxy before the server at `upstream` (``http://HOST:PORT``)."""
    proxy = FaultyProxy(upstream, schedule or Schedule(), host)
    started = threading.Event()
    ended: asyncio.Event | None = None
    loop = asyncio.new_event_loop()

    async def main() -> None:
        nonlocal ended
        ended = asyncio.Event()
        server = await asyncio.start_server(proxy.serve, host, 0)
        proxy.port = server.sockets[0].getsockname()[1]
        started.set()
        await ended.wait()
        server.close()
        await proxy.stop()
        await asyncio.sleep(0)

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
            started.set()

    thread = threading.Thread(target=run, name="faulty-proxy", daemon=True)
    thread.start()
    started.wait()
    assert ended is not None, "the proxy did not start"
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)


# -- HTTP ----------------------------------------------------------------------------------------


async def _read_head(reader: asyncio.StreamReader) -> _Message:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise _Gone from error
    first, *lines = raw[:-4].split(b"\r\n")
    return _Message(first, [(k, v.strip()) for k, _, v in (line.partition(b":") for line in lines)])


async def _read_body(message: _Message, reader: asyncio.StreamReader, *, to_end: bool = False) -> bytes:
    if b"chunked" in message.header(b"transfer-encoding").lower():
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(parts)
    length = message.header(b"content-length")
    if length:
        return await reader.readexactly(int(length))
    return await reader.read() if to_end else b""


async def _ask(request: _Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Message:
    """Send a request to the server and return its answer."""
    request.headers = [(key, value) for key, value in request.headers if key.lower() != b"expect"]
    has_length = bool(request.header(b"content-length") or request.header(b"transfer-encoding"))
    writer.write(request.head(len(request.body) if has_length else None) + request.body)
    await writer.drain()
    answer = await _read_head(reader)
    while answer.first.split()[1] == b"100":
        answer = await _read_head(reader)
    if request.first.startswith(b"HEAD ") or answer.first.split()[1] in (b"204", b"304"):
        return answer
    answer.body = await _read_body(answer, reader, to_end=True)
    return answer


def _error(status: int, code: str, message: str, method: bytes) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if method == b"HEAD" else body)


def _flip(body: bytes, schedule: Schedule) -> bytes:
    if not body:
        return body
    changed = bytearray(body)
    changed[int(schedule.number(0, len(body) - 1e-6))] ^= 1 << int(schedule.number(0, 7.99))
    return bytes(changed)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection (RST) rather than end it (FIN)."""
    raw: Any = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
