"""Which arrays a mount knows, and what it has learnt of each.

An array becomes known when its metadata document is looked up, or when a name
like a chunk's is looked up below a directory of which nothing is known: then
the document is asked for, once.  To be known changes how a key is asked for,
never what is told of it: so knowledge is kept beyond the time to live.  Only
where an answer rests on it alone, that a chunk's name is no directory either,
it must be as fresh as any other answer (`Arrays.confirm`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict

import trio

from stores.base import Store
from stores.errors import NotFound, StoreError, Unavailable
from stores.keys import join, split
from stores.meta import ObjectMeta
from zarrmount.objects.reader import SMALL_OBJECT, WHOLE_OBJECT, ReaderPool
from zarrmount.zarr.chunks import ChunkMap, arrays_above, is_document
from zarrmount.zarr.errors import MetadataError
from zarrmount.zarr.metadata import parse_v2_array, parse_v3
from zarrmount.zarr.walks import Walks

__all__ = ["Arrays", "KnownArray"]

log = logging.getLogger(__name__)

_MOST_KNOWN = 4096
_LARGEST_DOCUMENT = 1 << 20
"""Larger ones are not parsed here: it would take too long, and arrays have small ones."""
_NO_ARRAY_FOR = 60.0
_UNREAD_SMALL, _UNREAD_LARGE = 4, 1


class KnownArray:
    """One array that is known.

    Attributes
    ----------
    chunks : ChunkMap
        Its chunks by key.
    walks : Walks
        Where its readers are.
    document : ObjectMeta
        Of its metadata document, as of `checked_at`.
    largest : int
        Size of the largest of its objects that was seen.
    asking : int
        Lookups that are under way.
    unread : int
        Objects that a lookup fetched whole, in a row, and that nobody opened.
    """

    def __init__(self, chunks: ChunkMap, document: ObjectMeta, at: float) -> None:
        self.chunks = chunks
        self.walks = Walks(chunks.grid)
        self.document = document
        self.checked_at = at
        self.largest = 0
        self.asking = 0
        self.unread = 0

    @property
    def object_bytes(self) -> int | None:
        """How large one of its objects probably is, at most; None if that cannot be told."""
        most = self.chunks.most_bytes
        if not self.largest:
            return most
        return 2 * self.largest if most is None else min(most, 2 * self.largest)

    @property
    def comes_whole(self) -> bool:
        """Whether whoever opens one of its objects is likely to want all of it, in one request."""
        size = self.object_bytes
        return size is not None and size <= (SMALL_OBJECT if self.chunks.has_shards else WHOLE_OBJECT)

    @property
    def is_read(self) -> bool:
        """Whether those who look up its objects open them, too, as far as was seen."""
        small = (self.object_bytes or 0) <= SMALL_OBJECT
        return self.unread < (_UNREAD_SMALL if small else _UNREAD_LARGE)


class Arrays:
    """The arrays that are known of one store.

    Parameters
    ----------
    store : Store
        Where they are.
    readers : ReaderPool
        Whose cache takes the documents.
    time_to_live : float
        Seconds for which an answer of the store may be told.
    """

    def __init__(self, store: Store, readers: ReaderPool, time_to_live: float) -> None:
        self._store = store
        self._readers = readers
        self._time_to_live = time_to_live
        self._known: OrderedDict[str, KnownArray] = OrderedDict()
        self._no_arrays: OrderedDict[str, float] = OrderedDict()
        self._asking: dict[str, trio.Event] = {}
        self._forgotten = 0
        self._version_3_first = True

    def known(self, key: str) -> KnownArray | None:
        """Return the known array of which a key is a chunk or a row, without asking."""
        for path in arrays_above(key):
            array = self._known.get(path)
            if array is not None:
                return array if _belongs(array, key) else None
        return None

    async def find(self, key: str) -> KnownArray | None:
        """Return the array of which a key is a chunk or a row; None: no array, or not one that is known.

        Raises
        ------
        Unavailable
            If the store did not answer.
        """
        for path in arrays_above(key):
            while path not in self._known and trio.current_time() >= self._no_arrays.get(path, 0.0):
                asking = self._asking.get(path)
                if asking is not None:
                    await asking.wait()
                else:
                    await self._ask(path, key)
            array = self._known.get(path)
            if array is not None:
                self._known.move_to_end(path)
                return array if _belongs(array, key) else None
        return None

    async def _ask(self, path: str, key: str) -> None:
        """Ask for the metadata documents that could be at a path, until there is one."""
        self._asking[path] = trio.Event()
        forgotten = self._forgotten
        try:
            inside = key[len(path) + 1 if path else 0 :]
            names = ["zarr.json", ".zarray"]
            if not (self._version_3_first or inside[0] == "c"):
                names.reverse()
            for name in names:
                document = join(path, name)
                try:
                    data, meta = await self._readers.get(self._store, document)
                except NotFound:
                    continue
                except Unavailable:
                    raise
                except StoreError as error:
                    log.debug("not known whether it is an array: %s", error)
                    break
                if forgotten == self._forgotten:
                    self._readers.keep(meta, data)
                    self.learn(document, data, meta)
                return
            if forgotten == self._forgotten:
                self._note_no_array(path)
        finally:
            self._asking.pop(path).set()

    def learn(self, document: str, data: bytes, meta: ObjectMeta) -> None:
        """Take note of a metadata document that the store just gave."""
        path, name = split(document)
        if name not in ("zarr.json", ".zarray", ".zgroup"):
            return
        self._version_3_first = name == "zarr.json"
        known = self._known.get(path)
        if known is not None and known.document == meta:
            known.checked_at = trio.current_time()
            return
        if known is not None and name != "zarr.json" and known.chunks.meta.zarr_format == 3:
            return  # version 3 wins
        self._known.pop(path, None)
        chunks = _parse(path, name, data)
        if chunks is None:
            self._note_no_array(path)
            return
        self._no_arrays.pop(path, None)
        self._known[path] = KnownArray(chunks, meta, trio.current_time())
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)

    async def confirm(self, array: KnownArray) -> bool:
        """Tell whether a known array is still what it was, as fresh as any other answer.

        Raises
        ------
        StoreError
            As the store says, if that is no answer.
        """
        if trio.current_time() < array.checked_at + self._time_to_live:
            return True
        if self._time_to_live <= 0 or array.document.version is None:
            return False
        try:
            meta = await self._store.head(array.document.key)
        except NotFound:
            meta = None
        if meta is None or meta.version != array.document.version:
            self._known.pop(array.chunks.path, None)
            return False
        array.checked_at = trio.current_time()
        return True

    def forget(self, key: str) -> None:
        """Forget what is at a key and below, and the node that the key is a document of."""
        self._forgotten += 1
        for known in (self._known, self._no_arrays):
            if is_document(key):
                known.pop(split(key)[0], None)
            for below in [below for below in known if below == key or below.startswith(f"{key}/") or not key]:
                known.pop(below, None)

    def _note_no_array(self, path: str) -> None:
        self._no_arrays[path] = trio.current_time() + _NO_ARRAY_FOR
        self._no_arrays.move_to_end(path)
        if len(self._no_arrays) > _MOST_KNOWN:
            self._no_arrays.popitem(last=False)


def _belongs(array: KnownArray, key: str) -> bool:
    return array.chunks.coordinates(key) is not None or array.chunks.is_row(key)


def _parse(path: str, name: str, data: bytes) -> ChunkMap | None:
    if name == ".zgroup" or len(data) > _LARGEST_DOCUMENT:
        return None
    try:
        return ChunkMap.of(path, parse_v3(data) if name == "zarr.json" else parse_v2_array(data))
    except MetadataError as error:
        log.debug("%r is not used: %s", join(path, name), error)
        return None
