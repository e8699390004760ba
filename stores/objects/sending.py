"""How a body goes into obstore: small ones in one request, large ones in parts, side by side.

A request carries a condition, and the server keeps it.  A multipart upload carries none (obstore has
nowhere to say it), so its condition is looked at twice: before anything is sent, and once more when
all parts are stored, right before the upload is completed.  Until then nobody sees anything of the
object; an upload that is not completed is aborted, which deletes its parts.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import obstore

from stores.bodies import BodyReader, GivenUp
from stores.meta import Body
from stores.objects.errors import OBSTORE_ERRORS

__all__ = ["IN_FLIGHT", "LARGE", "Sending", "send_in_parts", "send_whole"]

PART = 8 << 20
IN_FLIGHT = 8

LARGE = PART * IN_FLIGHT
"""Bodies from this size on go in parts.

One request with less holds no more memory than the parts in flight of a large body do; and most
chunks and shards are smaller, so that the server itself keeps their condition.
"""

MAX_PARTS = 10_000  # of S3, which allows the fewest


class _Part(bytearray):
    """Bytes that can be watched: they are freed when obstore has stored them (or failed to)."""


class Sending:
    """A body on its way, which its sender may give up at any moment.

    Parameters
    ----------
    body : bytes-like or binary file
        It is not touched any more once `give_up` has returned.

    Attributes
    ----------
    body : BodyReader
        Reads it.
    ended : threading.Event
        Set when nothing of it is under way any more, and what was stored of it is removed.
    """

    def __init__(self, body: Body) -> None:
        self.body = BodyReader(body)
        self.ended = threading.Event()
        self._given_up = False
        self._freed: SimpleQueue[None] = SimpleQueue()

    def parts(self, stop: int, part_size: int, in_flight: int) -> Iterator[bytearray]:
        """Give the parts of the bytes ``[0, stop)`` of a body, and end when all have been freed.

        A part is read only when there are less than `in_flight` of them that are not freed yet.
        Raises BodyFailed or GivenUp.
        """
        free = in_flight
        for start in range(0, stop, part_size):
            while not free:
                self._wait_for_a_free_part()
                free += 1
            part = self.part(start, min(start + part_size, stop))
            weakref.finalize(part, self._freed.put, None).atexit = False
            free -= 1
            yield part
            del part
        for _ in range(in_flight - free):
            self._wait_for_a_free_part()

    def part(self, start: int, stop: int) -> bytearray:
        """Return the bytes ``[start, stop)`` of the body; raises as `parts`."""
        part = _Part(stop - start)
        self.body.fill(part, start)
        return part

    def give_up(self) -> None:
        """Let go of the body, and end what is under way as soon as may be."""
        self._given_up = True
        self.body.let_go()
        self._freed.put(None)

    def check_wanted(self) -> None:
        """Raise GivenUp if nobody waits any more."""
        if self._given_up:
            raise GivenUp

    def _wait_for_a_free_part(self) -> None:
        self._freed.get()
        self.check_wanted()


def send_whole(store: Any, path: str, sending: Sending, mode: Any) -> tuple[int, Any]:
    """Put a body in one request; return its size and what obstore told.

    Parameters
    ----------
    store : obstore store
        Where to.
    path : str
        In it.
    sending : Sending
        What.
    mode : obstore.PutMode or None
        The condition, which the server keeps.
    """
    content = sending.body.whole()
    return len(content), obstore.put(store, path, content, mode=mode, use_multipart=False)


def send_in_parts(
    store: Any, path: str, sending: Sending, check: Callable[[], None], *, connections: int = IN_FLIGHT
) -> tuple[int, Any]:
    """Put a body in parts; return its size and what obstore told.

    Parameters
    ----------
    store, path, sending
        As for `send_whole`.
    check : callable
        Raises what the put shall raise if its condition does not hold; called before the first part
        is sent, and again when all are stored.
    connections : int
        How many parts may be under way at once, at most.
    """
    size = sending.body.size()
    part_size, in_flight = _portions(size, connections)
    refused: list[BaseException] = []

    def parts() -> Iterator[bytearray]:
        # The rest, a few kilobytes at most, waits in obstore's buffer until it completes the upload.
        rest = size % part_size
        try:
            yield from sending.parts(size - rest, part_size, in_flight)
            last = sending.part(size - rest, size)
            # obstore allows no call of its own within one of its calls, but from another thread.
            with ThreadPoolExecutor(1) as other:
                other.submit(check).result()
            sending.check_wanted()
        except GeneratorExit:
            raise
        except BaseException as error:
            refused.append(error)
            raise  # obstore then aborts the upload
        yield last

    check()
    try:
        # How many are under way is up to `parts`: it must be called again while there are that many.
        told = obstore.put(
            store, path, parts(), use_multipart=True, chunk_size=part_size, max_concurrency=in_flight + 1
        )
    except OBSTORE_ERRORS:
        if refused:  # and the abort failed
            raise refused[0] from None
        raise
    return size, told


def _portions(size: int, connections: int) -> tuple[int, int]:
    """Return the size of the parts of a body, and how many of them may be under way at once.

    All parts are of that size; fewer bytes than there are parts remain, and go as one part more.
    """
    parts = min(MAX_PARTS - 1, math.ceil(size / PART))
    part_size = size // parts
    # Beyond 80 GB the parts grow: then there are fewer at once, so that memory does not grow with them.
    return part_size, min(connections, max(2, LARGE // part_size))
