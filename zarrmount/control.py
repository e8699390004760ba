"""The control socket of a mount: one JSON line in, JSON lines out, the last one has ``done``.

Only the owner can reach it (the directory that holds it is 0700).
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import trio

__all__ = ["Message", "request", "serve_control"]

Message = dict[str, Any]
Answerer = Callable[[Message], AsyncIterator[Message]]

_LONGEST_LINE = 1 << 20


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
            line = b""
            while not line.endswith(b"\n"):
                part = await stream.receive_some(65536)
                if not part or len(line) > _LONGEST_LINE:
                    return
                line += part
            async for message in answer(json.loads(line)):
                await stream.send_all(json.dumps(message).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError, ValueError):
            return  # whoever asked went away, or spoke nonsense

    return converse


def request(path: str, message: Message, timeout: float | None = None) -> Iterator[Message]:
    """Send a request to a mount and yield its answers (blocking).

    Raises
    ------
    OSError
        If the mount cannot be reached, or went away before it was done.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(json.dumps(message).encode() + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)
