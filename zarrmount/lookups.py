"""How a name is asked for: with as few requests as what is known of it allows.

A name can be an object, a prefix, or both, so that in general it takes two
requests to look it up.  Where the store's own metadata says what a key is, one
is enough, and often it was made before anybody asked:

1. A *chunk* of a known array is an object, and it is looked up because it is to
   be read: one ``get`` answers both.  Objects too large for that, those of
   which the bytes are here, and those of an array whose chunks are looked at
   and never opened (``ls -l``), are asked for with ``head``.
2. A *row*, the directory above chunks, is there if a chunk below it is.
3. A *metadata document* is an object, and is fetched at once, too; what it says
   makes its array known.
4. Whoever opens a chunk, or finds that it is not there, is on a walk: the
   chunks that come next are fetched ahead, ever more as long as the guesses
   come true, but none that would not be asked for while the answer still holds.

What is told is as old as the store's answer: `Told.at` says how old.  That a
chunk's name is not there is only told while its array is known to be one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice

import trio

from stores.base import Store
from stores.errors import NotFound
from stores.meta import Lookup, ObjectMeta, PrefixMeta
from zarrmount.arrays import Arrays, KnownArray
from zarrmount.background import Background
from zarrmount.objects.prefetch import MOST_KEYS, Prefetcher
from zarrmount.objects.reader import WHOLE_OBJECT, ReaderPool
from zarrmount.runs import Runs
from zarrmount.zarr.chunks import ChunkMap, is_document
from zarrmount.zarr.walks import Walk

__all__ = ["Known", "Lookups", "Told"]

_LONGEST_LEAD = 2.5
"""Most seconds by which a chunk is fetched before it is wanted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What the store said of a name.

    Attributes
    ----------
    found : Lookup or None
        None: there is no such name.
    at : float
        When it said so.
    requests : int
        How many requests a listing of the directory would have spared.
    """

    found: Lookup | None
    at: float
    requests: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What is known of a key before the store is asked.

    Attributes
    ----------
    fresh : bool
        Whether that is still to be told.
    is_dir : bool
        Whether it is a directory.
    meta : ObjectMeta or None
        What the store said last of a file.
    has_pages : bool
        Whether the kernel may have its bytes.
    """

    fresh: bool = False
    is_dir: bool = False
    meta: ObjectMeta | None = None
    has_pages: bool = False


NOTHING = Known()


class Lookups:
    """Asks one store for names.

    Parameters
    ----------
    store : Store
        The store.
    readers : ReaderPool
        Whose cache takes what comes with an answer.
    time_to_live : float
        Seconds for which an answer may be told.
    """

    def __init__(self, store: Store, readers: ReaderPool, time_to_live: float) -> None:
        self._store = store
        self._readers = readers
        self._time_to_live = time_to_live
        self._arrays = Arrays(store, readers, time_to_live)
        self._runs = Runs(store, time_to_live)
        self.ahead = Prefetcher(store, readers, time_to_live)
        self.known: Callable[[str], Known] = lambda _: NOTHING
        """Tells what is known of a key here; for whoever keeps it to set."""

    @property
    def _by_metadata(self) -> bool:
        """Whether requests cost so much that what is known of keys is worth using."""
        can = self._store.capabilities
        return can.versions and not (self._store.near or can.posix)

    # -- asking --------------------------------------------------------------------------------

    async def ask(self, key: str, known: Known, *, only_attributes: bool = False) -> Told:
        """Ask for a key.

        Parameters
        ----------
        key : str
            What to ask for.
        known : Known
            What is known of it, fresh or not.
        only_attributes : bool
            Whether nobody is going to read it now.

        Raises
        ------
        StoreError
            If the store did not answer, or refused.
        """
        disk = self._readers.disk
        if disk is not None and key not in self.ahead:
            kept = await disk.told(key)
            if kept is not None:
                return Told(kept, trio.current_time())
        if self._by_metadata:
            array = await self._arrays.find(key)
            if array is not None and array.chunks.coordinates(key) is not None and not known.is_dir:
                return await self._ask_for_chunk(array, key, known, only_attributes)
            if array is not None and array.chunks.is_row(key):
                at = await self.ahead.row(key)
                if at is not None:
                    return Told(Lookup(prefix=PrefixMeta(key)), at)
                if self._store.read_only and await self._arrays.confirm(array):
                    # The grid has it; whether a chunk is there is asked when one is wanted.
                    return Told(Lookup(prefix=PrefixMeta(key)), array.checked_at)
                told = await self._ask_for_anything(key)
                return told if told.found is None else dataclasses.replace(told, requests=0)
            if array is None and is_document(key) and not known.is_dir:
                return await self._ask_for_document(key, known, only_attributes)
        return await self._ask_for_anything(key)

    def ask_now(self, key: str) -> Told | None:
        """Ask for a key if the store can answer without waiting; None if it has to be waited for."""
        if self._by_metadata:
            return None
        try:
            found = self._store.lookup_now(key)
        except NotFound:
            return Told(None, trio.current_time(), 2)
        return None if found is None else Told(found, trio.current_time(), 2)

    async def _ask_for_anything(self, key: str) -> Told:
        try:
            found = await self._store.lookup(key)
        except NotFound:
            return Told(None, trio.current_time(), 2)
        return Told(found, trio.current_time(), 2)

    async def _ask_for_chunk(self, array: KnownArray, key: str, known: Known, only_attributes: bool) -> Told:
        whole = array.comes_whole and array.is_read and not only_attributes
        answer = await self.ahead.take(key)
        of_run = await self._runs.answer(array.chunks.path, key) if answer is None and not whole else None
        answer = answer or of_run
        if answer is not None:
            meta, at = answer.meta, answer.at
        else:
            array.asking += 1
            try:
                meta = await self._object(key, known, whole=whole)
            finally:
                array.asking -= 1
            at = trio.current_time()
            if whole and meta is not None and not array.asking:
                array.unread += 1
        if meta is not None:
            array.largest = max(array.largest, meta.size)
            return Told(Lookup(object=meta), at, 1 if only_attributes else 0)
        if of_run is None:
            self._visit(array, key)
        # Where there are empty directories one may have the name; else it takes what no library writes.
        if not self._store.capabilities.directories and await self._arrays.confirm(array):
            return Told(None, at)
        return await self._ask_for_anything(key)

    async def _ask_for_document(self, key: str, known: Known, only_attributes: bool) -> Told:
        too_large = known.meta is not None and known.meta.size > WHOLE_OBJECT
        meta = await self._object(key, known, whole=not (only_attributes or too_large), learn=True)
        if meta is None:
            return Told(None, trio.current_time(), 1)
        return Told(Lookup(object=meta), trio.current_time())

    async def _object(self, key: str, known: Known, *, whole: bool, learn: bool = False) -> ObjectMeta | None:
        """Ask for an object in one request, with its bytes if they are wanted and not here."""
        here = known.has_pages or (known.meta is not None and self._readers.holds(known.meta))
        try:
            if here or not whole:
                return await self._store.head(key)
            data, meta = await self._readers.get(self._store, key)
        except NotFound:
            return None
        self._readers.keep(meta, data)
        if learn:
            self._arrays.learn(key, data, meta)
        return meta

    @property
    def background(self) -> Background:
        """What works ahead."""
        return self._readers.background

    async def array_above(self, directory: str) -> ChunkMap | None:
        """Return the chunks of the known array of which a directory holds some, None for any other.

        Raises
        ------
        StoreError
            If the store did not answer.
        """
        array = await self._arrays.find(directory) if self._by_metadata else None
        if array is None or array.chunks.coordinates(f"{directory}/0") is None:
            return None
        return array.chunks

    async def chunks_with(self, key: str) -> ChunkMap | None:
        """Return the chunks of the known array that a key is one of, None for any other key.

        Raises
        ------
        StoreError
            If the store did not answer.
        """
        array = await self._arrays.find(key) if self._by_metadata else None
        return array.chunks if array is not None and array.chunks.coordinates(key) is not None else None

    # -- reading -------------------------------------------------------------------------------

    def opened(self, key: str) -> None:
        """Take note that a file was opened to be read."""
        array = self._arrays.known(key) if self._by_metadata else None
        if array is not None:
            array.unread = 0
            self._visit(array, key)

    async def arrived(self, key: str) -> None:
        """Return when the bytes of a file that are on their way have come."""
        await self.ahead.arrived(key)

    def _visit(self, array: KnownArray, key: str) -> None:
        """Follow a reader to a chunk, and fetch what comes next on its way."""
        coordinates = array.chunks.coordinates(key)
        if coordinates is None:
            return
        now = trio.current_time()
        walk = array.walks.visit(coordinates, now)
        if walk is None:
            return
        if not (self._readers.background.running and array.comes_whole) or self._time_to_live <= 0:
            return
        window = self._window(walk)
        if walk.covered > window // 2:
            return
        steps = [(at, array.chunks.key(at)) for at in islice(walk.ahead(), window)]
        if walk.turned:
            self.ahead.doubt_others(walk, {key for _, key in steps})
        walk.covered = 0
        for at, ahead in steps:
            was_read = now - array.walks.visited_at(at) <= self._time_to_live
            if not (was_read or self._fetch(array, ahead, walk)):
                break
            walk.covered += 1

    def _window(self, walk: Walk) -> int:
        """Return how many chunks ahead are worth fetching: those wanted while the answer holds."""
        lead = min(0.8 * self._time_to_live, _LONGEST_LEAD)
        return min(walk.window, MOST_KEYS, int(lead / max(walk.interval, 1e-4)))

    def _fetch(self, array: KnownArray, key: str, walk: Walk) -> bool:
        """Fetch a chunk ahead unless it is here; return False if there is no room for more."""
        if key in self.ahead:
            return True
        known = self.known(key)
        here = known.has_pages or (known.meta is not None and self._readers.holds(known.meta))
        if known.fresh and (here or known.meta is None):
            return True
        size = array.largest or array.object_bytes or 0
        return self.ahead.start(key, size, rows=array.chunks.rows_above(key), only_head=here, walker=walk)

    # -- what changes here ---------------------------------------------------------------------

    def changed(self, key: str) -> None:
        """Take note that a key changes here: what the store said of it is history."""
        self.ahead.drop(key)
        array = self._arrays.known(key)
        if array is not None:
            self._runs.changed(array.chunks.path)
        if not is_document(key) and array is not None:
            return
        self._arrays.forget(key)

    def changed_below(self, prefix: str) -> None:
        """Take note that all below a prefix changes here."""
        self.ahead.drop_below(prefix)
        self._runs.changed_below(prefix)
        self._arrays.forget(prefix)
