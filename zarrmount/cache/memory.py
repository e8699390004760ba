"""Blocks of objects in memory, bounded in bytes.

Blocks are keyed by (key, version, index).  A version names bytes that never
change, so nothing here is ever invalidated: what is out of date is merely not
asked for any more, and is the first to go.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["WHOLE", "BlockCache", "BlockId"]

BlockId = tuple[str, str, int]
"""Key, version, index of the block."""

WHOLE = -1
"""The index under which an object that came whole is kept."""

_OVERHEAD = 256
"""What the book-keeping of one block costs, roughly; so that empty blocks are bounded too."""


class BlockCache:
    """Least-recently-used blocks.

    Parameters
    ----------
    limit : int
        Bytes that all blocks together may take.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._blocks: OrderedDict[BlockId, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: object) -> bool:
        """Whether a block is there; it does not count as a use."""
        return block in self._blocks

    def get(self, block: BlockId) -> bytes | None:
        """Return a block and mark it as used, or None."""
        data = self._blocks.get(block)
        if data is not None:
            self._blocks.move_to_end(block)
        return data

    def put(self, block: BlockId, data: bytes) -> None:
        """Keep a block; older ones make room.  One that is larger than the limit is not kept."""
        cost = len(data) + _OVERHEAD
        if cost > self.limit:
            return
        old = self._blocks.pop(block, None)
        if old is not None:
            self.used -= len(old) + _OVERHEAD
        self._blocks[block] = data
        self.used += cost
        while self.used > self.limit:
            _, dropped = self._blocks.popitem(last=False)
            self.used -= len(dropped) + _OVERHEAD

    def check_invariants(self) -> None:
        """Assert that the books are right (used by tests)."""
        assert self.used == sum(len(data) + _OVERHEAD for data in self._blocks.values())
        assert self.used <= self.limit
