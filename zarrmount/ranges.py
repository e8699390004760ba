"""A flat listing by several disjoint ranges of the keys at once, handed out in the order of the keys.

A page of a listing begins where the one before it ended, so that one listing is one request after the
other.  Where the keys are chunks of a known grid it can be told about where later pages begin, and they
are asked for before the earlier ones have come:

1. The keys are cut into ranges of as many chunks as probably make one page: a page of 1000, if none is
   missing so far.  A page that goes past the end of its range is cut off there; a range that holds more
   than a page takes another one.  The last range has no end.
2. Each page is asked for because somebody wants one: with a *window* of one, when it is wanted.  The
   window grows while whoever takes the pages waits for them, and bounds the pages that are under way
   and those that nobody took yet.
3. What shows that ranges hold nothing (the next key, or the end) ends them: a part of the grid that is
   not there costs a window of requests at most.
4. A page that waited until it is too old to be told is asked for again, and so is all after it.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections import deque
from contextlib import aclosing
from itertools import pairwise

import trio

from stores.base import Store
from stores.errors import StoreError, Unavailable, Unsupported
from stores.meta import ListPage
from zarrmount.background import Background
from zarrmount.errors import deadline
from zarrmount.settings import TreeSettings
from zarrmount.zarr.order import KeyOrder

__all__ = ["MOST_PAGES", "Ranges"]

MOST_PAGES = 8
"""Requests of one listing that are under way at once, and pages that wait to be taken."""
_DEVIATIONS = 3
"""By how much a range is kept short where chunks are missing here and there, so that it is one page."""
_SPARSEST = 1e-9


@dataclasses.dataclass(slots=True, eq=False)
class _Range:
    """The keys after one, up to and including another (None: all that come)."""

    position: str
    until: str | None = None
    pages: deque[tuple[float, ListPage]] = dataclasses.field(default_factory=deque)
    started: bool = False
    asking: bool = False
    complete: bool = False
    error: StoreError | None = None
    may_ask: trio.Event = dataclasses.field(default_factory=trio.Event)
    scope: trio.CancelScope = dataclasses.field(default_factory=trio.CancelScope)

    @property
    def load(self) -> int:
        """How many pages it has, those that are to come included."""
        return len(self.pages) + self.asking

    def end(self) -> None:
        """Ask for nothing more."""
        self.complete = True
        self.asking = False
        self.scope.cancel()


class Ranges:
    """One flat listing under way.

    Parameters
    ----------
    store : Store
        What is listed; it lists in order.
    settings : TreeSettings
        For how long a page holds, and how long it may take.
    background : Background
        Where the requests are made.
    prefix : str
        Below which to list.
    after : str
        After which key to begin.
    order : KeyOrder or None
        The chunks to be expected; None: there is no telling where pages begin.
    window : int
        For how many pages to ask at once at first.
    """

    def __init__(
        self,
        store: Store,
        settings: TreeSettings,
        background: Background,
        prefix: str,
        after: str,
        order: KeyOrder | None,
        *,
        window: int = 1,
    ) -> None:
        self._store = store
        self._settings = settings
        self._background = background
        self._prefix = prefix
        self._order = order
        self._window = window
        self._position = after
        self._ranges = deque([_Range(after)])
        self._moved = trio.Event()
        self._waiting = False
        self._given = self._widened_at = 0
        self._page = 0
        self._keys = self._chunks = 0.0
        self._bare_until = ""

    # -- taking --------------------------------------------------------------------------------

    async def next(self) -> tuple[float, ListPage] | None:
        """Return the next page and when it was asked for; None after the last one.

        Raises
        ------
        StoreError
            If the store did not answer, or lists in another order; nothing follows then.
        """
        self._plan()
        waited = False
        while True:
            head = self._head()
            if head.pages:
                asked, page = head.pages[0]
                if waited or trio.current_time() < asked + self._settings.metadata_ttl:
                    head.pages.popleft()
                    self._position = page.objects[-1].key
                    self._given += 1
                    return asked, page
                self._begin_again()
            elif head.error is not None:
                raise head.error
            elif head.complete:
                return None
            waited = True
            await self._wait()

    def _head(self) -> _Range:
        """Return the range that the next page is of."""
        head = self._ranges[0]
        while head.complete and not head.load and head.error is None and len(self._ranges) > 1:
            self._ranges.popleft()
            head = self._ranges[0]
        return head

    async def _wait(self) -> None:
        self._plan()
        if not self._head().asking:
            return
        self._waiting = True
        try:
            await self._moved.wait()
        finally:
            self._waiting = False

    def widen(self) -> None:
        """Take note that somebody waits for the next page, and would be glad of more at once."""
        if self._ranges[0].pages or self._widened_at == self._given:
            return
        self._widened_at = self._given
        self._window = min(2 * self._window, MOST_PAGES)
        if self._waiting:
            self._plan()

    def close(self) -> None:
        """Stop listing."""
        for part in self._ranges:
            part.end()
            part.pages.clear()

    def _begin_again(self) -> None:
        """Ask anew for all that was not taken: nobody was as fast as it seemed."""
        self.close()
        self._ranges = deque([_Range(self._position)])
        self._bare_until = ""
        self._window = 1

    # -- planning ------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Ask for as many pages as the window has room for, and for the first one in any case."""
        while sum(part.load for part in self._ranges) < self._window or self._is_stuck():
            idle = next((part for part in self._ranges if not (part.complete or part.asking)), None)
            if idle is not None:
                self._ask(idle)
                continue
            cut = self._cut(self._ranges[-1])
            if cut is None:
                return
            self._ranges[-1].until = cut
            self._ranges.append(_Range(cut))

    def _is_stuck(self) -> bool:
        first = next((part for part in self._ranges if part.load or not part.complete), None)
        return first is not None and not first.load

    def _ask(self, part: _Range) -> None:
        part.asking = True
        part.may_ask.set()
        if not part.started:
            part.started = True
            if not self._background.start(self._list, part):
                part.end()
                part.error = Unavailable("the mount is about to end", key=self._prefix)

    def _cut(self, last: _Range) -> str | None:
        """Return where the last range may end, so that what it still has to list is about one page."""
        if self._order is None or last.complete or not (self._page and self._chunks):
            return None
        density = max(self._keys / self._chunks, _SPARSEST)
        keys = self._page - _DEVIATIONS * math.sqrt(self._page * max(0.0, 1 - density))
        chunks = max(1, int(keys / density + 1e-6))
        begin = self._order.place_after(last.position)
        if self._bare_until > last.position:
            begin = max(begin, self._order.place_after(self._bare_until) - 1)
        place = begin + chunks - 1
        if place >= self._order.count - 1:
            return None
        cut = self._order.key_at(place)
        return cut if not self._prefix or cut.startswith(f"{self._prefix}/") else None

    # -- listing -------------------------------------------------------------------------------

    async def _list(self, part: _Range) -> None:
        try:
            with part.scope:
                async with aclosing(self._store.list_after(self._prefix, part.position)) as pages:
                    while not part.complete:
                        await part.may_ask.wait()
                        part.may_ask = trio.Event()
                        asked = trio.current_time()
                        with deadline(self._settings.read_timeout, self._prefix):
                            page = await anext(pages, None)
                        part.asking = False
                        self._take_in(part, page, asked)
                        self._signal()
        except StoreError as error:
            part.error = error
        finally:
            if not part.complete:
                part.error = part.error or Unavailable("the listing was broken off", key=self._prefix)
                part.end()
            self._signal()

    def _signal(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    def _take_in(self, part: _Range, page: ListPage | None, asked: float) -> None:
        if page is None:
            part.complete = True
            self._is_bare(part, None)
            return
        keys = [meta.key for meta in page.objects]
        if any(one >= other for one, other in pairwise([part.position, *keys])):
            raise Unsupported("the server lists in an order of its own", key=self._prefix)
        if not keys:
            return
        self._page = max(self._page, len(keys))
        inside = len(keys) if part.until is None else bisect_right(keys, part.until)
        reached = keys[-1] if inside == len(keys) or part.until is None else part.until
        self._learn(inside, part.position, reached)
        part.position = reached
        part.complete = part.until is not None and reached >= part.until
        if inside:
            part.pages.append((asked, dataclasses.replace(page, objects=page.objects[:inside])))
        if inside < len(keys):
            self._is_bare(part, keys[inside])

    def _learn(self, keys: int, before: str, after: str) -> None:
        """Take note of how many keys lie between two."""
        if self._order is not None:
            chunks = self._order.place_after(after) - self._order.place_after(before)
            self._keys = self._keys / 2 + keys
            self._chunks = self._chunks / 2 + chunks

    def _is_bare(self, part: _Range, until: str | None) -> None:
        """Take note that there is nothing between a range and some key (None: nothing after it at all)."""
        for later in list(self._ranges)[self._ranges.index(part) + 1 :] if part in self._ranges else ():
            if until is None or (later.until is not None and later.until < until):
                later.end()
            else:
                self._bare_until = max(self._bare_until, until)
