"""Chunks that are looked at, one after the other, in the order of their keys: asked for by the page.

Whoever lists a large directory and then looks at each file (``find -ls``, ``ls -l``) comes back to the
first when what the listing said of it is too old to be told.  Each would cost a request.  So:

1. Some chunks of an array that are looked at in the order of their keys are a *run*.  The next one that
   is asked for brings a page of a listing that begins there, and the page answers for those after it.
2. What it says holds for the time to live, from when it was asked for.
3. A change of anything in the array that is made here ends the run.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from contextlib import aclosing

import trio

from stores.base import Store
from stores.errors import Unsupported
from stores.meta import ObjectMeta
from zarrmount.objects.prefetch import Answer

__all__ = ["Runs"]

log = logging.getLogger(__name__)

_FEW = 4
"""Chunks in a row that are asked for one by one."""
_MOST = 16
"""Runs at once."""


@dataclasses.dataclass(slots=True, eq=False)
class _Run:
    """The last chunk of an array that was looked at, and what a page says of those after it."""

    last: str = ""
    last_at: float = 0.0
    in_a_row: int = 0
    metas: dict[str, ObjectMeta] = dataclasses.field(default_factory=dict)
    after: str = ""
    until: str = ""
    asked: float = 0.0
    turn: trio.Lock = dataclasses.field(default_factory=trio.Lock)


class Runs:
    """The runs through the arrays of one store.

    Parameters
    ----------
    store : Store
        The store.
    time_to_live : float
        Seconds for which an answer may be told.
    """

    def __init__(self, store: Store, time_to_live: float) -> None:
        self._store = store
        self._time_to_live = time_to_live
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    async def answer(self, array: str, key: str) -> Answer | None:
        """Return what a page says of a chunk of an array; None: ask for it.

        Raises
        ------
        StoreError
            If the store did not answer.
        """
        if not self._store.capabilities.ordered or self._time_to_live <= 0:
            return None
        run = self._runs.setdefault(array, _Run())
        self._runs.move_to_end(array)
        if len(self._runs) > _MOST:
            self._runs.popitem(last=False)
        async with run.turn:
            before = self._follow(run, key)
            if run.in_a_row < _FEW:
                return None
            answer = self._told(run, key)
            if answer is None:
                await self._list(array, run, before)
                answer = self._told(run, key) if self._runs.get(array) is run else None
            return answer

    def _follow(self, run: _Run, key: str) -> str:
        """Take note that a chunk is looked at; return the one before it."""
        now, before = trio.current_time(), run.last
        follows = before < key and now < run.last_at + self._time_to_live
        run.in_a_row = run.in_a_row + 1 if follows else 0
        run.last, run.last_at = key, now
        return before

    def _told(self, run: _Run, key: str) -> Answer | None:
        covered = run.after < key <= run.until and trio.current_time() < run.asked + self._time_to_live
        return Answer(run.metas.get(key), run.asked) if covered else None

    async def _list(self, array: str, run: _Run, after: str) -> None:
        asked = trio.current_time()
        try:
            async with aclosing(self._store.list_after(array, after)) as pages:
                page = await anext(pages, None)
        except Unsupported as error:
            log.debug("%r is not listed from %r on: %s", array, after, error)
            page = None
        run.metas = {meta.key: meta for meta in page.objects} if page is not None else {}
        run.after, run.until, run.asked = after, max(run.metas, default=""), asked
        if not run.metas:
            run.in_a_row = 0

    def changed(self, array: str) -> None:
        """Take note that something in an array changes here: believe nothing that was said of it."""
        self._runs.pop(array, None)

    def changed_below(self, prefix: str) -> None:
        """Take note that all below a prefix changes here."""
        for array in [array for array in self._runs if not prefix or f"{array}/".startswith(f"{prefix}/")]:
            del self._runs[array]
