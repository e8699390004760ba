"""The control socket of a mount: one JSON line in, JSON lines out, the last one has ``done``.

Whoever asked may send ``{"do": "cancel"}`` while he waits; to go away means the same.  Only the
owner can reach the socket (the directory that holds it is 0700).
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import trio

__all__ = ["Conversation", "Message", "Request", "serve_control"]

Message = dict[str, Any]

_LONGEST_LINE = 1 << 20
_LOOK_EVERY = 0.5
_LAST_WORD = 5.0


class Conversation:
    """One request, as the mount sees it.

    Attributes
    ----------
    request : dict
        What is asked for.
    cancelled : trio.Event
        Set when whoever asked does not wait any more.
    """

    def __init__(self, request: Message, stream: trio.SocketStream) -> None:
        self.request = request
        self.cancelled = trio.Event()
        self._stream = stream

    async def tell(self, message: Message) -> None:
        """Send a message; to one who went away it is lost."""
        try:
            await self._stream.send_all(json.dumps(message).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.cancelled.set()

    async def listen(self) -> None:
        """Wait until whoever asked cancels the request, or goes away."""
        await _receive_line(self._stream)  # there is but one thing that he can say
        self.cancelled.set()


Answerer = Callable[[Conversation], Awaitable[None]]


async def serve_control(
    path: Path,
    answer: Answerer,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on a Unix socket until cancelled."""
    path.unlink(missing_ok=True)
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        await listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(8)
        task_status.started()
        await trio.serve_listeners(_conversation(answer), [trio.SocketListener(listener)])


def _conversation(answer: Answerer) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def converse(stream: trio.SocketStream) -> None:
        try:
            request = json.loads(await _receive_line(stream) or b"null")
        except ValueError:
            return
        if not isinstance(request, dict):
            return  # whoever asked went away, or spoke nonsense
        conversation = Conversation(request, stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conversation.listen)
            await answer(conversation)
            nursery.cancel_scope.cancel()

    return converse


async def _receive_line(stream: trio.SocketStream) -> bytes | None:
    """Return what came up to the end of a line; None if the other went away before that."""
    line = b""
    while not line.endswith(b"\n"):
        try:
            part = await stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        if not part or len(line) > _LONGEST_LINE:
            return None
        line += part
    return line


class Request:
    """One request, as another process makes it (blocking); iterate over it for the answers.

    Parameters
    ----------
    path : str
        The socket of the mount.
    message : dict
        What is asked for.

    Raises
    ------
    OSError
        If the mount cannot be reached, or went away before it was done, or (`TimeoutError`) has no
        last word after a `cancel`.
    """

    def __init__(self, path: str, message: Message) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._last_word: float | None = None
        try:
            self._connection.connect(path)
            self._send(message)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _send(self, message: Message) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def cancel(self) -> None:
        """Say that nobody waits any more; how things stand is what the last answer tells."""
        self._last_word = time.monotonic() + _LAST_WORD
        with contextlib.suppress(OSError):  # a mount that went away has no last word, as will be seen
            self._send({"do": "cancel"})

    def __iter__(self) -> Iterator[Message]:
        self._connection.settimeout(_LOOK_EVERY)
        received = b""
        while True:
            line, end, rest = received.partition(b"\n")
            if end:
                received = rest
                yield json.loads(line)
                continue
            try:
                part = self._connection.recv(65536)
            except TimeoutError:
                if self._last_word is not None and time.monotonic() > self._last_word:
                    raise
                continue
            if not part:
                raise ConnectionResetError("it went away before it was done")
            received += part
