"""Reading a body while it is stored, in a thread that its sender may have stopped waiting for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from stores.meta import Body, read_body

__all__ = ["BodyFailed", "BodyReader", "GivenUp"]

T = TypeVar("T")


class BodyFailed(Exception):
    """The file to be stored raised `error`, which is the caller's own business."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class GivenUp(Exception):
    """Nobody waits any more for what is being stored."""


class BodyReader:
    """A body, whole or piece by piece, which its sender may take back at any moment.

    Every method but `let_go` raises BodyFailed for what the body raises, and GivenUp after `let_go`.

    Parameters
    ----------
    body : bytes-like or binary file
        It is not touched any more once `let_go` has returned.

    Attributes
    ----------
    in_memory : bool
        Whether the body is no file.
    """

    def __init__(self, body: Body) -> None:
        self._lock = threading.Lock()
        self._wanted = True
        self._body: Body | None = body
        self.in_memory = isinstance(body, (bytes, bytearray, memoryview))

    def size(self) -> int:
        """Return its size in bytes."""
        return self._with_body(_size_of)

    def whole(self) -> bytes:
        """Return all of it."""
        return self._with_body(lambda body: bytes(read_body(body)))

    def fill(self, buffer: bytearray, start: int) -> None:
        """Fill a buffer with the bytes from `start` on."""
        self._with_body(lambda body: _fill(buffer, body, start))

    def let_go(self) -> None:
        """Return when the body is not touched any more: once what is being read of it is read."""
        self._wanted = False  # the lock is unfair: whoever reads on and on would keep it
        with self._lock:
            self._body = None

    def _with_body(self, read: Callable[[Body], T]) -> T:
        with self._lock:
            if self._body is None or not self._wanted:
                raise GivenUp
            try:
                if isinstance(self._body, memoryview) and not self._body.c_contiguous:
                    self._body = bytes(self._body)
                return read(self._body)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
                raise BodyFailed(error) from None


def _size_of(body: Body) -> int:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return memoryview(body).nbytes
    return body.seek(0, 2)


def _fill(buffer: bytearray, body: Body, start: int) -> None:
    with memoryview(buffer) as rest:
        if isinstance(body, (bytes, bytearray, memoryview)):
            with memoryview(body) as view, view.cast("B") as octets:
                rest[:] = octets[start : start + len(buffer)]
            return
        body.seek(start)
        position = 0
        while position < len(buffer):
            data = body.read(len(buffer) - position)
            if not data:
                raise EOFError(f"the body ended after {start + position} bytes: it was longer before")
            rest[position : position + len(data)] = data
            position += len(data)
