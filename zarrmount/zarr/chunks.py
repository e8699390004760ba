"""Which keys of an array are its chunks: keys to coordinates, and back.

What an array stores are its shards if it has any, else its chunks; here both
are called chunks.  A key is told from its text and the array's metadata alone:

1. A *chunk* has a whole coordinate inside the grid.  It is an object; nothing
   that a Zarr library writes lies below it.
2. A *row* is what lies above chunks where keys have slashes: a proper part of a
   coordinate (``c``, ``c/0``).  It is a prefix.
3. Everything else may be anything, and nothing is told of it.
"""

from __future__ import annotations

import dataclasses
import math
import re

from stores.keys import join
from zarrmount.zarr.model import ArrayMeta, Node

__all__ = ["ChunkMap", "Coordinates", "arrays_above", "is_document"]

Coordinates = tuple[int, ...]

DOCUMENTS = frozenset({"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"})
"""The names under which Zarr libraries keep metadata."""

_LAST_SEGMENT = re.compile(r"c|(c\.)?(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_SEGMENT = re.compile(r"c|0|[1-9][0-9]*")


def is_document(key: str) -> bool:
    """Whether the name of a key is one that Zarr libraries keep metadata under."""
    return key.rpartition("/")[2] in DOCUMENTS


def arrays_above(key: str) -> list[str]:
    """Return the paths of which a key could be a chunk or a row, the outermost first.

    It takes names like a chunk's: numbers, ``c``, or several with dots between them.
    """
    names = key.split("/")
    if not _LAST_SEGMENT.fullmatch(names[-1]):
        return []
    depth = len(names) - 1
    while depth > 0 and _SEGMENT.fullmatch(names[depth - 1]):
        depth -= 1
    return ["/".join(names[:length]) for length in range(depth, len(names))]


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkMap:
    """The chunks of one array, by key and by coordinates.

    Attributes
    ----------
    path : str
        Of the array; ``""`` for one at the root.
    meta : ArrayMeta
        What its metadata says.
    grid : tuple of int
        How many chunks lie along each dimension.
    """

    path: str
    meta: ArrayMeta
    grid: Coordinates

    @classmethod
    def of(cls, path: str, node: Node | None) -> ChunkMap | None:
        """Return the map of a node; None if it is no array, or one whose keys cannot be told."""
        if not isinstance(node, ArrayMeta) or node.grid_shape is None or not node.chunk_keys.known:
            return None
        return cls(path, node, node.grid_shape)

    @property
    def has_shards(self) -> bool:
        """Whether readers are likely to want parts of an object only."""
        return self.meta.shard_shape is not None

    @property
    def most_bytes(self) -> int | None:
        """About the most that one object takes; None where elements vary in size.

        Compressors never promise not to expand: what they add to bytes that they cannot compress
        is little, and so is the index of a shard.
        """
        shape = self.meta.shard_shape or self.meta.chunk_shape
        if shape is None or self.meta.item_size is None:
            return None
        decoded = math.prod(shape) * self.meta.item_size
        inner = 1
        if self.meta.shard_shape and self.meta.chunk_shape:
            inner = math.prod(
                -(-whole // part) if part else 0
                for whole, part in zip(self.meta.shard_shape, self.meta.chunk_shape, strict=True)
            )
        return decoded + decoded // 64 + 4096 + 16 * inner

    def coordinates(self, key: str) -> Coordinates | None:
        """Return the coordinates of a chunk inside the grid, None for any other key."""
        inside = self._inside(key)
        found = None if inside is None else self.meta.chunk_keys.decode(inside, len(self.grid))
        if found is None or not all(at < count for at, count in zip(found, self.grid, strict=True)):
            return None
        return found if self.meta.chunk_keys.encode(found) == inside else None

    def key(self, coordinates: Coordinates) -> str:
        """Return the key of a chunk."""
        return join(self.path, self.meta.chunk_keys.encode(coordinates))

    def is_row(self, key: str) -> bool:
        """Whether a key is a proper prefix of the keys of chunks inside the grid."""
        inside, keys = self._inside(key), self.meta.chunk_keys
        if inside is None or keys.separator != "/":
            return False
        names = inside.split("/")
        if keys.name == "default" and names.pop(0) != "c":
            return False
        return len(names) < len(self.grid) and all(
            _SEGMENT.fullmatch(name) is not None and name != "c" and int(name) < count
            for name, count in zip(names, self.grid, strict=False)
        )

    def rows_above(self, key: str) -> list[str]:
        """Return the rows that the key of a chunk lies in."""
        names = key[len(self.path) + 1 if self.path else 0 :].split("/")[:-1]
        return [join(self.path, "/".join(names[:length])) for length in range(1, len(names) + 1)]

    def _inside(self, key: str) -> str | None:
        """Return a key relative to the array, None for one that is not below it."""
        if not self.path:
            return key
        start = f"{self.path}/"
        return key[len(start) :] if key.startswith(start) else None
