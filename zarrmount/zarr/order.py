"""The chunks of an array in the order in which stores list their keys.

Stores sort keys as text: ``c/10`` comes before ``c/2``.  Both separators sort before all digits, so
that the indices of each dimension can be sorted by themselves, the first dimension before the second.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from zarrmount.zarr.chunks import ChunkMap

__all__ = ["KeyOrder"]

_MOST = 1 << 62


class KeyOrder:
    """The keys of all chunks of an array, of which none is kept.

    Parameters
    ----------
    chunks : ChunkMap
        The array.

    Attributes
    ----------
    count : int
        How many there are; no more are counted than an index can be large.
    """

    def __init__(self, chunks: ChunkMap) -> None:
        self._chunks = chunks
        self.count = min(math.prod(chunks.grid), _MOST)

    def key_at(self, place: int) -> str:
        """Return the key that comes after `place` others."""
        coordinates = []
        for count in reversed(self._chunks.grid):
            place, inside = divmod(place, count)
            coordinates.append(_sorted_as_text(inside, count))
        return self._chunks.key(tuple(reversed(coordinates)))

    def place_after(self, key: str) -> int:
        """Return how many of the keys do not come after `key`, which may be any text."""
        return bisect_right(range(self.count), key, key=self.key_at)


def _sorted_as_text(place: int, count: int) -> int:
    """Return the number at a place among ``0 .. count - 1`` when those are sorted as text."""
    if place == 0:
        return 0
    number, place = 1, place - 1
    while place:
        beginning_so = _count_beginning_with(number, count)
        if beginning_so <= place:
            number += 1
            place -= beginning_so
        else:
            number *= 10
            place -= 1
    return number


def _count_beginning_with(number: int, count: int) -> int:
    """Return how many of ``0 .. count - 1`` begin with the digits of a number above 0."""
    found, first, last = 0, number, number + 1
    while first < count:
        found += min(last, count) - first
        first, last = 10 * first, 10 * last
    return found
