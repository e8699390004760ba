"""Reading one version of an object through the cache.

1. A small object comes whole, in one request, whatever part was asked for.
2. A large one comes in runs of blocks: as long as reads follow one another the
   runs double, so that a sequential reader soon pays few requests; a read
   elsewhere begins again with the blocks that it needs.
3. A block that somebody is fetching already is waited for, not fetched twice;
   and if the store fails him it has failed whoever waits, who would otherwise
   sit out one deadline after the other.
4. Stores whose reads cost no network, and objects without a version, are read
   directly: the kernel caches their pages.
"""

from __future__ import annotations

import dataclasses

import trio

from stores.base import ObjectReader
from stores.errors import StoreError, Unavailable
from stores.meta import ObjectMeta
from zarrmount.cache.memory import BlockCache, BlockId
from zarrmount.errors import patiently

__all__ = ["Reader", "ReaderPool"]

BLOCK_SIZE = 1 << 20
WHOLE_OBJECT = 8 << 20
"""Objects up to this size are fetched whole."""
MAX_RUN = 16
"""Most blocks fetched by one request of a sequential reader."""


@dataclasses.dataclass(slots=True, eq=False)
class Flight:
    """Blocks that are being fetched.

    Attributes
    ----------
    landed : trio.Event
        Set when it is over.
    blocks : dict
        What came, by index; empty if nothing did.
    error : StoreError or None
        Why nothing came; None, too, if whoever fetched was cancelled.
    """

    landed: trio.Event = dataclasses.field(default_factory=trio.Event)
    blocks: dict[int, bytes] = dataclasses.field(default_factory=dict)
    error: StoreError | None = None


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
    """

    def __init__(self, cache: BlockCache, timeout: float, *, direct: bool) -> None:
        self.cache = cache
        self.timeout = timeout
        self.direct = direct
        self.in_flight: dict[BlockId, Flight] = {}

    def reader(self, source: ObjectReader) -> Reader:
        """Return a reader of what `source` reads."""
        return Reader(self, source)


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
        self._next_offset = 0
        self._run = 1

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
        self._run = min(self._run * 2, MAX_RUN) if offset == self._next_offset else 1
        self._next_offset = offset + size
        first, last = offset // BLOCK_SIZE, (offset + size - 1) // BLOCK_SIZE
        blocks = await self._blocks(first, last)
        if first == last:
            start = offset - first * BLOCK_SIZE
            return blocks[first][start : start + size]
        joined = b"".join(blocks[index] for index in range(first, last + 1))
        start = offset - first * BLOCK_SIZE
        return joined[start : start + size]

    async def aclose(self) -> None:
        """Let go of the object."""
        await self._source.aclose()

    def _id(self, index: int) -> BlockId:
        return (self.meta.key, self.meta.version or "", index)

    async def _blocks(self, first: int, last: int) -> dict[int, bytes]:
        """Return the blocks `first` to `last`, from the cache, from a fetch of another's, or fetched."""
        cache, in_flight = self._pool.cache, self._pool.in_flight
        blocks: dict[int, bytes] = {}
        index = first
        while index <= last:
            if index in blocks:
                index += 1
                continue
            data = cache.get(self._id(index))
            if data is not None:
                blocks[index] = data
                index += 1
            elif (flight := in_flight.get(self._id(index))) is not None:
                await flight.landed.wait()
                if flight.error is not None:
                    raise flight.error
                blocks |= {at: data for at, data in flight.blocks.items() if first <= at <= last}
            else:
                blocks |= await self._fetch_run(self._run_start(index), last)
        return blocks

    async def _fetch_run(self, first: int, last: int) -> dict[int, bytes]:
        """Fetch blocks from `first` on: what is needed to `last`, and what probably follows."""
        end = self._run_end(first, last)
        flight = Flight()
        ids = [self._id(index) for index in range(first, end)]
        for block in ids:
            self._pool.in_flight[block] = flight
        try:
            start = first * BLOCK_SIZE
            data = await self._fetch(start, min(end * BLOCK_SIZE, self.meta.size) - start)
            flight.blocks = {
                index: data[(index - first) * BLOCK_SIZE : (index - first + 1) * BLOCK_SIZE]
                for index in range(first, end)
            }
            for index, block_data in flight.blocks.items():
                self._pool.cache.put(self._id(index), block_data)
            return flight.blocks
        except StoreError as error:
            flight.error = error
            raise
        finally:
            for block in ids:
                del self._pool.in_flight[block]
            flight.landed.set()

    def _run_start(self, index: int) -> int:
        """Return the first block worth fetching with `index`: what is missing of a small object."""
        while self.meta.size <= WHOLE_OBJECT and index > 0:
            block = self._id(index - 1)
            if block in self._pool.in_flight or self._pool.cache.get(block) is not None:
                break
            index -= 1
        return index

    def _run_end(self, first: int, last: int) -> int:
        """Return the block after the last one worth fetching with `first`."""
        block_count = -(-self.meta.size // BLOCK_SIZE)
        wanted = block_count if self.meta.size <= WHOLE_OBJECT else max(last + 1, first + self._run)
        end = first + 1
        while end < min(wanted, block_count):
            block = self._id(end)
            if block in self._pool.in_flight or (end > last and self._pool.cache.get(block) is not None):
                break
            end += 1
        return end

    async def _fetch(self, start: int, size: int) -> bytes:
        async def fetch() -> bytes:
            data = await self._source.read(start, size)
            if len(data) != size:
                message = f"the store sent {len(data)} bytes of {size} at {start}"
                raise Unavailable(message, key=self.meta.key)
            return data

        return await patiently(self._pool.timeout, self.meta.key, fetch)
