"""Whole objects that are fetched before anybody asks for them.

1. A fetch is one ``get``.  Its bytes go to the cache under their version, where
   they are right for ever; what it says of the key (that it is there, in that
   version, or that it is not) is an *answer*, held until somebody takes it, for
   as long as any other answer of the store would be told.
2. Whoever wants a key that is being fetched waits for that very request.
3. What is held or under way is bounded, in requests and in bytes.  What was
   fetched for a reader that has gone makes room for others.
4. When a key changes here its answer is dropped, and one under way is not
   believed.
5. A fetch that fails is forgotten: whoever wants the key asks himself, with all
   the patience that is due to him.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Container, Iterable
from typing import Protocol

import trio

from stores.base import Store
from stores.errors import NotFound, StoreError
from stores.meta import ObjectMeta
from zarrmount.errors import deadline
from zarrmount.objects.reader import ReaderPool

__all__ = ["Answer", "Prefetcher", "Walker"]

log = logging.getLogger(__name__)

MOST_REQUESTS = 32
"""Requests under way at once; a store's connections are for other calls, too."""
MOST_KEYS = 64
MOST_BYTES = 64 << 20
_SHORTEST_DOUBT = 0.1
_STRAGGLERS = 16
"""Steps of a walk until nobody is left who is behind: its threads do not come in order."""


class Walker(Protocol):
    """Whoever is expected to want what is fetched.

    Attributes
    ----------
    interval : float
        Seconds from one step to the next.
    """

    interval: float

    def is_gone(self, now: float) -> bool:
        """Tell whether nothing was heard of it for longer than it used to take."""

    def shrink(self) -> None:
        """Take note that it did not want what was fetched for it in time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What the store said of a key.

    Attributes
    ----------
    meta : ObjectMeta or None
        None: there is no such object.
    at : float
        When it said so (``trio.current_time()``).
    """

    meta: ObjectMeta | None
    at: float


@dataclasses.dataclass(slots=True, eq=False)
class _Fetch:
    """One object that is fetched, or was and is held."""

    key: str
    size: int
    only_head: bool
    rows: tuple[str, ...]
    walker: Walker
    unwanted_from: float = math.inf
    waited_for: int = 0
    landed: trio.Event = dataclasses.field(default_factory=trio.Event)
    scope: trio.CancelScope = dataclasses.field(default_factory=trio.CancelScope)
    answer: Answer | None = None


class Prefetcher:
    """Fetches objects in the background, and holds what the store said of them.

    Parameters
    ----------
    store : Store
        Where they are.
    readers : ReaderPool
        Whose cache takes the bytes, and whose background does the work.
    time_to_live : float
        Seconds for which an answer may be told.
    """

    def __init__(self, store: Store, readers: ReaderPool, time_to_live: float) -> None:
        self._store = store
        self._readers = readers
        self._time_to_live = time_to_live
        self._fetches: dict[str, _Fetch] = {}
        self._below: dict[str, dict[_Fetch, None]] = {}
        self._limiter = trio.CapacityLimiter(min(MOST_REQUESTS, store.max_connections or MOST_REQUESTS))
        self._most_bytes = min(MOST_BYTES, readers.cache.limit // 2)
        self.bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._fetches

    def __len__(self) -> int:
        return len(self._fetches)

    def start(
        self,
        key: str,
        size: int,
        *,
        rows: Iterable[str] = (),
        only_head: bool = False,
        walker: Walker,
    ) -> bool:
        """Begin to fetch an object; return False if there is no room for more.

        Parameters
        ----------
        key : str
            Of the object.
        size : int
            How large it probably is.
        rows : iterable of str
            Prefixes of which it is to be told that they are there if the object is.
        only_head : bool
            Its bytes are here: only ask whether they are still those of the key.
        walker : Walker
            For whom it is fetched.
        """
        if key in self._fetches:
            return True
        size = 0 if only_head else size
        self._make_room(size)
        if len(self._fetches) >= MOST_KEYS or self.bytes + size > self._most_bytes:
            return False
        fetch = _Fetch(key, size, only_head, tuple(rows), walker)
        if not self._readers.background.start(self._run, fetch):
            return False
        self._fetches[key] = fetch
        self.bytes += size
        for row in fetch.rows:
            self._below.setdefault(row, {})[fetch] = None
        return True

    async def take(self, key: str) -> Answer | None:
        """Return what the store said of a key, once it has, and hold it no longer; None: ask it."""
        fetch = self._fetches.get(key)
        if fetch is None:
            return None
        await self._landing(fetch)
        answer = fetch.answer
        if self._fetches.get(key) is fetch:
            self._remove(fetch)
        elif answer is not None:  # somebody else has taken it
            return answer if self._holds(answer) else None
        if answer is None:
            return None
        if not self._holds(answer):
            fetch.walker.shrink()
            return None
        return answer

    async def row(self, prefix: str) -> float | None:
        """Return when the store said that there is something below a prefix; None: ask it."""
        while fetches := self._below.get(prefix):
            for fetch in fetches:
                if fetch.answer is not None and fetch.answer.meta is not None and self._holds(fetch.answer):
                    return fetch.answer.at
            waiting = next((fetch for fetch in fetches if not fetch.landed.is_set()), None)
            if waiting is None:
                return None
            await self._landing(waiting)
            answer = waiting.answer
            if answer is not None and answer.meta is not None and self._holds(answer):
                return answer.at
        return None

    async def arrived(self, key: str) -> None:
        """Return when a fetch of a key has ended, for the sake of its bytes alone."""
        fetch = self._fetches.get(key)
        if fetch is not None:
            await self._landing(fetch)
            if self._fetches.get(key) is fetch:
                self._remove(fetch)

    async def _landing(self, fetch: _Fetch) -> None:
        """Return when a fetch has ended; nobody gives it up meanwhile to make room."""
        fetch.waited_for += 1
        try:
            await fetch.landed.wait()
        finally:
            fetch.waited_for -= 1

    def drop(self, key: str) -> None:
        """Believe nothing that was said of a key until now."""
        fetch = self._fetches.get(key)
        if fetch is not None:
            self._give_up(fetch)

    def doubt_others(self, walker: Walker, wanted: Container[str]) -> None:
        """Let what was fetched for somebody who probably does not want it make room for others."""
        for fetch in self._fetches.values():
            if fetch.walker is walker:
                passed_by = trio.current_time() + max(_SHORTEST_DOUBT, _STRAGGLERS * walker.interval)
                fetch.unwanted_from = (
                    min(fetch.unwanted_from, passed_by) if fetch.key not in wanted else math.inf
                )

    def drop_below(self, prefix: str) -> None:
        """Believe nothing that was said of the keys below a prefix until now."""
        for key in [key for key in self._fetches if not prefix or key.startswith(f"{prefix}/")]:
            self._give_up(self._fetches[key])

    def _give_up(self, fetch: _Fetch) -> None:
        self._remove(fetch)
        fetch.answer = None
        fetch.scope.cancel()

    def _remove(self, fetch: _Fetch) -> None:
        del self._fetches[fetch.key]
        self.bytes -= fetch.size
        for row in fetch.rows:
            below = self._below[row]
            del below[fetch]
            if not below:
                del self._below[row]

    def _holds(self, answer: Answer) -> bool:
        return trio.current_time() < answer.at + self._time_to_live

    def _make_room(self, size: int) -> None:
        """If there is none, drop what holds no longer and what is for readers that have gone."""
        if len(self._fetches) < MOST_KEYS and self.bytes + size <= self._most_bytes:
            return
        now = trio.current_time()
        for fetch in list(self._fetches.values()):
            expired = fetch.answer is not None and not self._holds(fetch.answer)
            unwanted = now >= fetch.unwanted_from or fetch.walker.is_gone(now)
            if expired or (unwanted and not fetch.waited_for):
                self._give_up(fetch)
                fetch.walker.shrink()

    async def _run(self, fetch: _Fetch) -> None:
        try:
            with fetch.scope:
                async with self._limiter:
                    answer = await self._ask(fetch)
                if self._fetches.get(fetch.key) is fetch:
                    fetch.answer = answer
        finally:
            if fetch.answer is None and self._fetches.get(fetch.key) is fetch:
                self._remove(fetch)
            fetch.landed.set()

    async def _ask(self, fetch: _Fetch) -> Answer | None:
        try:
            with deadline(self._readers.timeout, fetch.key):
                if fetch.only_head:
                    return Answer(await self._store.head(fetch.key), trio.current_time())
                data, meta = await self._readers.get(self._store, fetch.key)
        except NotFound:
            return Answer(None, trio.current_time())
        except StoreError as error:
            log.debug("not fetched ahead: %s", error)
            return None
        self.bytes += meta.size - fetch.size if self._fetches.get(fetch.key) is fetch else 0
        fetch.size = meta.size
        return Answer(meta, trio.current_time()) if self._readers.keep(meta, data) else None
