"""Zarr arrays whose bytes are known: uint8, not compressed."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from benchmarks.content import content
from benchmarks.places import Objects

BYTES = {"name": "bytes"}
INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


@dataclass(frozen=True)
class Array:
    """An array in a store.

    Attributes
    ----------
    name : str
        Its prefix.
    grid : sequence of int
        How many chunks there are along each dimension.
    chunk : sequence of int
        The shape of a chunk.
    """

    name: str
    grid: Sequence[int]
    chunk: Sequence[int]

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return prod(self.grid)

    @property
    def size(self) -> int:
        """The bytes of a chunk."""
        return prod(self.chunk)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(n * length for n, length in zip(self.grid, self.chunk, strict=True))

    def indices(
        self, order: Sequence[int] | None = None, *, backwards: bool = False
    ) -> Iterator[tuple[int, ...]]:
        """Give the chunks' places in the grid, the last dimension of `order` fastest."""
        order = order or range(len(self.grid))
        lengths = [range(self.grid[d])[:: -1 if backwards else 1] for d in order]
        for index in itertools.product(*lengths):
            yield tuple(at for _, at in sorted(zip(order, index, strict=True)))

    def key(self, index: Sequence[int]) -> str:
        """Return the key of a chunk."""
        return "/".join((self.name, "c", *map(str, index)))

    def chunk_keys(self, order: Sequence[int] | None = None, *, backwards: bool = False) -> Iterator[str]:
        """Give the chunks' keys; see `indices`."""
        return map(self.key, self.indices(order, backwards=backwards))

    def metadata(self, codecs: Sequence[dict[str, Any]] = (BYTES,)) -> tuple[str, bytes]:
        """Return the array's own object."""
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.shape,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": codecs,
            "attributes": {},
        }
        return f"{self.name}/zarr.json", json.dumps(document).encode()

    def objects(self) -> Objects:
        """Give all objects of the array."""
        yield self.metadata()
        for key in self.chunk_keys():
            yield key, content(key, self.size)

    def values(self, dtype: str = "uint8") -> Any:
        """Return the array's values."""
        import numpy as np

        values = np.empty(self.shape, dtype)
        for index in self.indices():
            values[self.region(index)] = self.values_of(index)
        return values

    def region(self, index: Sequence[int]) -> tuple[slice, ...]:
        """Return where in the array a chunk is."""
        return tuple(slice(at * n, (at + 1) * n) for at, n in zip(index, self.chunk, strict=True))

    def values_of(self, index: Sequence[int]) -> Any:
        """Return the values of a chunk."""
        import numpy as np

        return np.frombuffer(content(self.key(index), self.size), "uint8").reshape(self.chunk)


@dataclass(frozen=True)
class ShardedArray:
    """An array of shards, the inner chunks in order, the index at the end.

    Attributes
    ----------
    shards : Array
        The array, a shard for a chunk.
    inner : sequence of int
        The shape of an inner chunk.
    """

    shards: Array
    inner: Sequence[int]

    @property
    def inner_size(self) -> int:
        """The bytes of an inner chunk."""
        return prod(self.inner)

    @property
    def inner_count(self) -> int:
        """The inner chunks of a shard."""
        return self.shards.size // self.inner_size

    def objects(self) -> Objects:
        """Give all objects of the array."""
        sharding = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": self.inner,
                "codecs": [BYTES],
                "index_codecs": INDEX_CODECS,
                "index_location": "end",
            },
        }
        yield self.shards.metadata([sharding])
        index = self._index()
        for key in self.shards.chunk_keys():
            shard = bytearray()
            for at in range(self.inner_count):
                shard += content(key, self.inner_size, at * self.inner_size)
            yield key, bytes(shard + index)

    def _index(self) -> bytes:
        from numcodecs.checksum32 import CRC32C

        index = b"".join(
            struct.pack("<QQ", i * self.inner_size, self.inner_size) for i in range(self.inner_count)
        )
        return bytes(CRC32C(location="end").encode(index))
