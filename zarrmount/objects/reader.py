"""Reading one version of an object through the cache.

1. A small object comes whole, in one request, whatever part was asked for; one
   of middle size if it is read from its start.
2. Of a large one come the blocks that were asked for, those that lie together
   in one request, and runs that lie apart at once.
3. As long as reads follow one another the blocks after them are fetched in the
   background, several runs at once, but never more than was read in a row by
   then: so the window doubles.  A read elsewhere closes it.
4. A block that somebody is fetching already is waited for, not fetched twice;
   and if the store fails him it has failed whoever waits, who would otherwise
   sit out one deadline after the other.
5. Stores whose reads cost no network, and objects without a version, are read
   directly: the kernel caches their pages.
6. What is not in memory may be on disk: that is looked for before the store is
   asked, within the same flight.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import trio

from stores.base import ObjectReader, Store
from stores.errors import NotFound, Precondition, StoreError, Unavailable
from stores.meta import ObjectMeta
from zarrmount.background import Background
from zarrmount.cache.disk import DiskCache
from zarrmount.cache.memory import WHOLE, BlockCache, BlockId
from zarrmount.errors import patiently

__all__ = ["Reader", "ReaderPool"]

BLOCK_SIZE = 64 << 10
SMALL_OBJECT = 1 << 20
"""Objects up to this size are fetched whole."""
WHOLE_OBJECT = 8 << 20
"""So are objects up to this size whose first bytes are read first."""
LARGEST_WINDOW = 32 << 20
SMALLEST_RUN = 256 << 10
LARGEST_RUN = 4 << 20
"""Least and most bytes that one request reads ahead."""

_SLACK = 512 << 10
"""How far from where the last one ended a read may begin, and still follow it: kernels reorder."""


@dataclasses.dataclass(slots=True, eq=False)
class Flight:
    """Bytes that are being fetched.

    Attributes
    ----------
    blocks : range
        Their indices.
    landed : trio.Event
        Set when it is over.
    data : dict
        What came, by index; empty if nothing did.
    error : StoreError or None
        Why nothing came; None, too, if whoever fetched was cancelled.
    scope : trio.CancelScope
        To give it up.
    """

    blocks: range
    landed: trio.Event = dataclasses.field(default_factory=trio.Event)
    data: dict[int, bytes] = dataclasses.field(default_factory=dict)
    error: StoreError | None = None
    scope: trio.CancelScope = dataclasses.field(default_factory=trio.CancelScope)


class ReaderPool:
    """What the readers of one mount share.

    Parameters
    ----------
    cache : BlockCache
        Where blocks are kept.
    timeout : float
        Seconds that one request may take.
    direct : bool
        Whether the store's reads need no cache (see above).
    background : Background
        What reads ahead.
    disk : DiskCache or None
        Where blocks are kept that outlive the mount.
    """

    def __init__(
        self,
        cache: BlockCache,
        timeout: float,
        *,
        direct: bool,
        background: Background | None = None,
        disk: DiskCache | None = None,
    ) -> None:
        self.cache = cache
        self.timeout = timeout
        self.direct = direct
        self.disk = disk
        self.background = background or Background()
        self.in_flight: dict[BlockId, Flight] = {}
        self.bytes_ahead = 0

    async def open(self, store: Store, key: str, meta: ObjectMeta) -> Reader:
        """Return a reader of one version of an object, asking the store only if that is needed.

        Raises
        ------
        NotFound, Precondition
            If it is not there, or not of that version, any more; else the first read tells.
        """
        if meta.version is None or store.capabilities.snapshot_reads:
            source = await patiently(
                self.timeout, key, lambda: store.open_reader(key, if_version=meta.version)
            )
        else:
            source = _VersionReader(store, meta if meta.key == key else replace(meta, key=key))
        return self.reader(source)

    def open_now(self, store: Store, key: str, meta: ObjectMeta) -> Reader | None:
        """Do the same without waiting; None if the store has to be waited for."""
        if not self.direct:
            return None
        source = store.open_reader_now(key, if_version=meta.version)
        return None if source is None else self.reader(source)

    def reader(self, source: ObjectReader) -> Reader:
        """Return a reader of what `source` reads."""
        return Reader(self, source)

    async def get(self, store: Store, key: str) -> tuple[bytes, ObjectMeta]:
        """Get an object whole, its bytes from the disk if the store says that they are still those.

        Raises
        ------
        StoreError
            As ``Store.get`` does.
        """
        kept = await self.disk.object(key) if self.disk is not None else None
        if kept is None:
            return await store.get(key)
        data, meta = kept
        if self.disk is not None and not self.disk.immutable:
            now = await store.head(key)
            if (now.version, now.size) != (meta.version, len(data)):
                return await store.get(key)
            meta = now
        return data, meta

    def keep(self, meta: ObjectMeta, data: bytes) -> bool:
        """Keep an object that came whole for those who will read it; tell whether that helps them."""
        if meta.version is None or self.direct or len(data) != meta.size:
            return False
        self.cache.put((meta.key, meta.version, WHOLE), data)
        if self.disk is not None:
            self.disk.keep(meta, {WHOLE: data})
        return True

    def holds(self, meta: ObjectMeta) -> bool:
        """Whether this version of an object is here as a whole."""
        return meta.version is not None and (meta.key, meta.version, WHOLE) in self.cache


class _VersionReader(ObjectReader):
    """Reads one version by conditional requests; opening it costs none."""

    def __init__(self, store: Store, meta: ObjectMeta) -> None:
        self._store = store
        self.meta = meta

    async def read(self, start: int, size: int) -> bytes:
        meta = self.meta
        return await self._store.get_range(meta.key, start, start + size, if_version=meta.version)


class Reader:
    """Random access to one version of one object.

    Attributes
    ----------
    meta : ObjectMeta
        Of that version; never changes.
    """

    def __init__(self, pool: ReaderPool, source: ObjectReader) -> None:
        self._pool = pool
        self._source = source
        self.meta: ObjectMeta = source.meta
        self._untouched = True
        self._next_offset = 0
        self._read_in_a_row = 0
        self._window = 0
        self._fetched_to = 0
        self._ahead: set[Flight] = set()

    async def read(self, offset: int, size: int) -> bytes:
        """Return the bytes ``[offset, offset + size)``, fewer only at the end of the object.

        Raises
        ------
        StoreError
            As the store says; Unavailable past the deadline or when it sent too little.
        """
        size = max(0, min(size, self.meta.size - offset))
        if size == 0:
            return b""
        if self._pool.direct or self.meta.version is None:
            return await self._fetch(offset, size)
        if self._comes_whole(offset):
            whole = (await self._blocks(range(WHOLE, WHOLE + 1)))[WHOLE]
            return whole[offset : offset + size]
        self._follow(offset, size)
        first, last = offset // BLOCK_SIZE, (offset + size - 1) // BLOCK_SIZE
        blocks = await self._blocks(range(first, last + 1))
        start = offset - first * BLOCK_SIZE
        if first == last:
            return blocks[first][start : start + size]
        return b"".join(blocks[index] for index in range(first, last + 1))[start : start + size]

    def read_now(self, offset: int, size: int) -> bytes | None:
        """Return the same if the store has it at hand, else None."""
        size = max(0, min(size, self.meta.size - offset))
        if not self._pool.direct:
            return None
        data = self._source.read_now(offset, size) if size else b""
        return data if data is not None and len(data) == size else None

    async def aclose(self) -> None:
        """Let go of the object."""
        if self._pool.direct:  # nothing is waited for
            await self._source.aclose()
            return
        for flight in list(self._ahead):
            flight.scope.cancel()
        with trio.CancelScope(shield=True):
            for flight in list(self._ahead):
                await flight.landed.wait()
            await self._source.aclose()

    # -- what to fetch -------------------------------------------------------------------------

    def _id(self, index: int) -> BlockId:
        return (self.meta.key, self.meta.version or "", index)

    def _comes_whole(self, offset: int) -> bool:
        """Whether a read is best answered from the whole object."""
        untouched, self._untouched = self._untouched, False
        whole = self._id(WHOLE)
        if self.meta.size <= SMALL_OBJECT or whole in self._pool.cache or whole in self._pool.in_flight:
            return True
        kept_for_long = self.meta.size <= min(WHOLE_OBJECT, self._pool.cache.limit // 4)
        return kept_for_long and untouched and offset == 0

    def _follow(self, offset: int, size: int) -> None:
        """Widen the window if a read follows the last one, else close it."""
        end = offset + size
        if abs(offset - self._next_offset) <= _SLACK:
            self._read_in_a_row += size
            self._window = min(self._read_in_a_row, LARGEST_WINDOW, self._pool.cache.limit // 4)
            self._next_offset = max(end, self._next_offset)
        else:
            self._read_in_a_row = size
            self._window = self._fetched_to = 0
            self._next_offset = end

    def _span(self, blocks: range) -> tuple[int, int]:
        """Return where blocks begin, and how many bytes they have."""
        if blocks.start == WHOLE:
            return 0, self.meta.size
        start = blocks.start * BLOCK_SIZE
        return start, min(blocks.stop * BLOCK_SIZE, self.meta.size) - start

    def _is_missing(self, index: int) -> bool:
        block = self._id(index)
        return block not in self._pool.in_flight and block not in self._pool.cache

    # -- fetching ------------------------------------------------------------------------------

    async def _blocks(self, wanted: range) -> dict[int, bytes]:
        """Return blocks from the cache, from a fetch of another's, or fetched."""
        blocks: dict[int, bytes] = {}
        while True:
            missing: list[range] = []
            flights: set[Flight] = set()
            for index in wanted:
                if index in blocks:
                    continue
                if (data := self._pool.cache.get(self._id(index))) is not None:
                    blocks[index] = data
                elif (flight := self._pool.in_flight.get(self._id(index))) is not None:
                    flights.add(flight)
                elif missing and missing[-1].stop == index:
                    missing[-1] = range(missing[-1].start, index + 1)
                else:
                    missing.append(range(index, index + 1))
            if missing and not self._pool.background.running:
                missing[-1] = self._lengthened(missing[-1], wanted)
            mine = [self._take_off(run) for run in missing]
            self._read_ahead(wanted.stop)
            if not mine and not flights:
                return blocks
            await self._fly_all(mine)
            for flight in (*mine, *flights):
                await flight.landed.wait()
                if flight.error is not None:
                    raise flight.error
                blocks |= {index: data for index, data in flight.data.items() if index in wanted}

    def _lengthened(self, run: range, wanted: range) -> range:
        """Return the last missing run with what probably follows it, where nothing else reads ahead."""
        if run.stop != wanted.stop or run.start == WHOLE:
            return run
        most = min(self._window, LARGEST_RUN * 4) // BLOCK_SIZE
        end, stop = run.stop, min(run.start + most, -(-self.meta.size // BLOCK_SIZE))
        while end < stop and self._is_missing(end):
            end += 1
        return range(run.start, end)

    def _read_ahead(self, after: int) -> None:
        """Begin to fetch what of the window is not fetched yet, in runs worth a request."""
        if not self._window or after == WHOLE + 1 or not self._pool.background.running:
            return
        pool = self._pool
        count = -(-self.meta.size // BLOCK_SIZE)
        stop = min(count, after + self._window // BLOCK_SIZE)
        length = max(SMALLEST_RUN, min(self._window // 4, LARGEST_RUN)) // BLOCK_SIZE
        index = max(after, self._fetched_to)
        while index < stop:
            if not self._is_missing(index):
                index += 1
                continue
            end = index + 1
            while end < min(index + length, stop) and self._is_missing(end):
                end += 1
            _, size = self._span(range(index, end))
            if end == stop < count and end - index < length:
                break  # it is worth a request when the window has moved on
            if pool.bytes_ahead + size > pool.cache.limit // 2:
                break
            flight = self._take_off(range(index, end))
            self._ahead.add(flight)
            pool.bytes_ahead += size
            pool.background.start(self._fly_ahead, flight, size)
            index = end
        self._fetched_to = index

    def _take_off(self, blocks: range) -> Flight:
        """Announce a fetch, for others to wait for it."""
        flight = Flight(blocks)
        for index in blocks:
            self._pool.in_flight[self._id(index)] = flight
        return flight

    async def _fly_all(self, flights: list[Flight]) -> None:
        if len(flights) == 1:
            await self._fly(flights[0])
            return
        async with trio.open_nursery() as nursery:
            for flight in flights:
                nursery.start_soon(self._fly, flight)

    async def _fly_ahead(self, flight: Flight, size: int) -> None:
        try:
            with flight.scope:
                await self._fly(flight)
        finally:
            self._pool.bytes_ahead -= size
            self._ahead.discard(flight)

    async def _fly(self, flight: Flight) -> None:
        """Fetch what was announced; whether it came stands in the flight."""
        try:
            flight.data = await self._from_disk(flight.blocks)
            missing = [index for index in flight.blocks if index not in flight.data]
            if missing:
                flight.data |= await self._from_store(range(missing[0], missing[-1] + 1))
            for index, block in flight.data.items():
                self._pool.cache.put(self._id(index), block)
        except StoreError as error:
            flight.error = error
        finally:
            for index in flight.blocks:
                del self._pool.in_flight[self._id(index)]
            flight.landed.set()

    async def _from_disk(self, blocks: range) -> dict[int, bytes]:
        """Return those of some blocks that are on disk."""
        if self._pool.disk is None:
            return {}
        found = await self._pool.disk.blocks(self.meta, blocks)
        return {i: data for i, data in found.items() if len(data) == self._span(range(i, i + 1))[1]}

    async def _from_store(self, blocks: range) -> dict[int, bytes]:
        """Fetch blocks, and keep them on disk."""
        disk = self._pool.disk
        try:
            data = await self._fetch(*self._span(blocks))
        except (NotFound, Precondition):
            if disk is not None:
                disk.forget(self.meta.key)
            raise
        if blocks.start == WHOLE:
            came = {WHOLE: data}
        else:
            came = {i: data[at * BLOCK_SIZE : (at + 1) * BLOCK_SIZE] for at, i in enumerate(blocks)}
        if disk is not None:
            disk.keep(self.meta, came)
        return came

    async def _fetch(self, start: int, size: int) -> bytes:
        async def fetch() -> bytes:
            data = await self._source.read(start, size)
            if len(data) != size:
                message = f"the store sent {len(data)} bytes of {size} at {start}"
                raise Unavailable(message, key=self.meta.key)
            return data

        return await patiently(self._pool.timeout, self.meta.key, fetch)
