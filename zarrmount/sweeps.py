"""Flat listings that run ahead of whoever lists the directories of an array one after the other.

Chunks whose keys have slashes lie in many small directories, and each would cost a request.  In the
order of their keys they are one run, of which a request brings a whole page.  So:

1. Who lists two directories of a known array, right above chunks, in the order of their keys
   begins a *sweep*: a flat listing from there on, a few pages ahead, by directory.  The faster
   they come, the more of its pages are asked for at once (`zarrmount.ranges`).
2. What a page says holds for the time to live from when it was asked for, as everywhere.  A sweep
   that nobody follows for that long ends.
3. A change of anything in the array that is made here ends its sweep: pages of before the change
   are not believed.
4. A directory that holds directories, or what may be the marker of one, is left out; so is all
   that a server gives out of order.  Whoever needs it lists it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import trio

from stores.base import Store
from stores.errors import StoreError
from stores.meta import ListPage, ObjectMeta
from zarrmount.background import Background
from zarrmount.ranges import Ranges
from zarrmount.settings import TreeSettings
from zarrmount.zarr.chunks import ChunkMap
from zarrmount.zarr.order import KeyOrder

__all__ = ["Part", "Sweeps"]

log = logging.getLogger(__name__)

_AHEAD = 4000
"""Entries that are listed before anybody asked for them."""
_PAGES_TO_WAIT = 2
_MOST = 8
"""How many sweeps there may be at once."""


@dataclasses.dataclass(slots=True)
class Part:
    """All that one directory holds: objects only.

    Attributes
    ----------
    objects : list of ObjectMeta
        What is in it.
    asked : float
        When the first of it was asked for.
    complete : bool
        Whether the sweep has passed it.
    """

    objects: list[ObjectMeta]
    asked: float
    complete: bool = False


class _Sweep:
    """One flat listing under way."""

    def __init__(self, listing: Ranges, settings: TreeSettings, array: str, after: str) -> None:
        self._listing = listing
        self._settings = settings
        self._array = array
        self._position = self._after = after
        self._parts: OrderedDict[str, Part] = OrderedDict()
        *above, _ = after.split("/")
        self._left_out = {"/".join(above[:length]) for length in range(len(above) + 1)}  # seen in part only
        self._entries = 0
        self._taken = 0
        self._per_page = 0
        self._began = trio.current_time()
        self._awaited = False
        self._moved, self._room = trio.Event(), trio.Event()
        self._pages = 0
        self._cancelled = trio.CancelScope()
        self.seen: Callable[[str, float], None] = lambda *_: None
        self.ended = False

    # -- listing -------------------------------------------------------------------------------

    async def run(self) -> None:
        """List, a few pages ahead of whoever takes the parts."""
        try:
            with self._cancelled:
                await self._list()
        except StoreError as error:  # whoever lists a directory is told what is the matter
            log.debug("%r is not listed as a whole: %s", self._array, error)
            self._parts.clear()
        finally:
            self._listing.close()
            self.ended = True
            self._signal()

    async def _list(self) -> None:
        directory = ""
        while await self._is_followed():
            found = await self._listing.next()
            if found is None:
                self._close(directory)
                return
            asked, page = found
            directory = self._take_in(page, directory, asked)
            self._pages += 1
            self._per_page = max(self._per_page, len(page.objects))
            self._signal()

    def _take_in(self, page: ListPage, directory: str, asked: float) -> str:
        """Hang the objects of a page into their directories; return the last of those."""
        for meta in page.objects:
            if meta.key <= self._position:
                self.end()  # some servers have an order of their own
                return ""
            self._position = meta.key
            above = meta.key.rpartition("/")[0]
            if above != directory:
                if above.startswith(f"{directory}/") or not directory:
                    self._leave_out(directory)
                self._close(directory)
                if above in self._parts:
                    self._leave_out(above)
                directory = above
                if above not in self._left_out:
                    self._parts[above] = Part([], asked)
            part = self._parts.get(above)
            if part is None:
                continue
            if meta.size == 0:
                self._leave_out(above)
                continue
            part.objects.append(meta)
            self._entries += 1
        return directory

    def _close(self, directory: str) -> None:
        part = self._parts.get(directory)
        if part is not None:
            part.complete = True
            self.seen(directory, part.asked)

    def _leave_out(self, directory: str) -> None:
        self._left_out.add(directory)
        part = self._parts.pop(directory, None)
        if part is not None:
            self._entries -= len(part.objects)

    async def _is_followed(self) -> bool:
        """Wait for room; return False if nobody takes anything any more."""
        with trio.move_on_after(self._settings.metadata_ttl) as waiting:
            while not self._awaited and self._entries >= self._ahead():
                self._room = trio.Event()
                await self._room.wait()
        return not waiting.cancelled_caught

    def _ahead(self) -> float:
        """Return how few entries may wait before the next page is asked for, so that it is taken fresh."""
        if 2 * self._taken < self._per_page:
            return 1  # how fast they are taken is not known yet
        rate = self._taken / max(trio.current_time() - self._began, 1e-3)
        return min(max(0.8 * rate * self._settings.metadata_ttl - self._per_page, 1), _AHEAD)

    def _signal(self) -> None:
        self._awaited = False  # until somebody finds that it is still not there
        self._moved.set()
        self._moved = trio.Event()

    # -- following -----------------------------------------------------------------------------

    async def take(self, directory: str) -> Part | None:
        """Return a directory, and forget those before it; None if it is to be listed by itself."""
        until = self._pages + _PAGES_TO_WAIT
        while True:
            part = self._parts.get(directory)
            if part is not None and part.complete:
                self._forget_up_to(directory)
                stale = trio.current_time() >= part.asked + self._settings.metadata_ttl
                if stale:
                    self.end()
                return None if stale else part
            passed = part is None and self._position > f"{directory}0"  # what comes after a slash
            if self.ended or passed or directory < self._after or self._pages > until:
                return None
            self._forget_up_to(directory)
            self._awaited = True
            self._room.set()
            self._listing.widen()
            await self._moved.wait()

    def _forget_up_to(self, directory: str) -> None:
        for name in list(self._parts):
            part = self._parts[name]
            if f"{name}/" > f"{directory}/" or not part.complete:
                break
            del self._parts[name]
            self._entries -= len(part.objects)
            self._taken += len(part.objects)
            self._room.set()

    def end(self) -> None:
        """List no further, and believe nothing of what was listed."""
        self.ended = True
        self._parts.clear()
        self._entries = 0
        self._cancelled.cancel()
        self._signal()


class Sweeps:
    """The sweeps of one mounted tree.

    Parameters
    ----------
    store : Store
        What is listed.
    settings : TreeSettings
        For how long answers hold, and how long they may take.
    background : Background
        What lists ahead.
    array_above : callable
        Returns the chunks of which a key is a directory right above, or None.

    Attributes
    ----------
    seen : callable
        Called with each directory that was listed, and when its listing was asked for.
    """

    def __init__(
        self,
        store: Store,
        settings: TreeSettings,
        background: Background,
        array_above: Callable[[str], Awaitable[ChunkMap | None]],
    ) -> None:
        self._store = store
        self._settings = settings
        self._background = background
        self._array_above = array_above
        self._last: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._sweeps: OrderedDict[str, _Sweep] = OrderedDict()
        self.seen: Callable[[str, float], None] = lambda *_: None

    async def part(self, directory: str) -> Part | None:
        """Return what a directory holds; None if it is to be listed by itself."""
        able = self._store.capabilities.ordered and self._background.running
        if not able or self._settings.metadata_ttl <= 0:
            return None
        try:
            chunks = await self._array_above(directory)
        except StoreError:
            return None
        if chunks is None:
            return None
        array = chunks.path
        sweep = self._sweeps.get(array)
        part = await sweep.take(directory) if sweep is not None else None
        if part is not None:
            return part
        now = trio.current_time()
        last, at = self._last.get(array, ("", -1.0))
        self._last[array] = directory, now
        self._last.move_to_end(array)
        if len(self._last) > _MOST:
            self._last.popitem(last=False)
        if not 0 <= at <= now < at + self._settings.metadata_ttl or f"{directory}/" <= f"{last}/":
            return None
        return await self._begin(chunks, directory).take(directory)

    def _begin(self, chunks: ChunkMap, directory: str) -> _Sweep:
        array = chunks.path
        self._end(array)
        if len(self._sweeps) >= _MOST:
            self._end(next(iter(self._sweeps)))
        order = KeyOrder(chunks)
        listing = Ranges(self._store, self._settings, self._background, array, directory, order)
        sweep = self._sweeps[array] = _Sweep(listing, self._settings, array, directory)
        sweep.seen = self.seen
        self._background.start(sweep.run)
        return sweep

    def _end(self, array: str) -> None:
        sweep = self._sweeps.pop(array, None)
        if sweep is not None:
            sweep.end()

    def changed(self, key: str) -> None:
        """Take note that a key, or what is below it, changes here."""
        for array in [array for array in self._sweeps if not array or f"{key}/".startswith(f"{array}/")]:
            self._end(array)
        for array in [array for array in self._sweeps if array.startswith(f"{key}/") or not key]:
            self._end(array)
