"""Arrays and groups as their metadata describes them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from zarrmount.zarr.codecs import Codec
from zarrmount.zarr.datatypes import fill_text

__all__ = ["ArrayMeta", "ChunkKeys", "GroupMeta", "Node", "grid"]

_COORDINATE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkKeys:
    """How the coordinates of a chunk (or shard) make its key.

    Attributes
    ----------
    name : str
        ``default`` (``c/0/1``), ``v2`` (``0.1``), or an extension, of which no key can be told.
    separator : str
        ``/`` or ``.``.
    """

    name: str
    separator: str

    @property
    def known(self) -> bool:
        """Whether keys can be told."""
        return self.name in ("default", "v2")

    def encode(self, coordinates: tuple[int, ...]) -> str:
        """Return the key of a chunk, relative to its array."""
        if self.name == "default":
            return self.separator.join(("c", *map(str, coordinates)))
        return self.separator.join(map(str, coordinates)) or "0"

    def decode(self, key: str, dimensions: int) -> tuple[int, ...] | None:
        """Return the coordinates that a key relative to its array stands for, or None."""
        parts = key.split(self.separator)
        if self.name == "default":
            if parts.pop(0) != "c":
                return None
        elif dimensions == 0:
            return () if key == "0" else None
        if not self.known or len(parts) != dimensions:
            return None
        if not all(_COORDINATE.fullmatch(part) for part in parts):
            return None
        return tuple(map(int, parts))


@dataclasses.dataclass(frozen=True, slots=True)
class ArrayMeta:
    """What the metadata of one array tells.

    Attributes
    ----------
    zarr_format : int
        2 or 3.
    shape : tuple of int
        Length of each dimension.
    chunk_shape : tuple of int or None
        Of the chunks that are decoded (inside the shards, if there are any); None for a grid that
        is not regular.
    shard_shape : tuple of int or None
        Of the stored objects, where they are shards.
    data_type : str
        As numpy writes it where numpy has it.
    item_size : int or None
        Decoded bytes of one element; None where it varies or is not known.
    order : str
        ``C`` or ``F``.
    fill_value : object
        As it stands in the metadata.
    filters, serializer, compressors : Codec
        Inside the shards, if there are any; v2 has no serializer.
    chunk_keys : ChunkKeys
        Names of the stored objects.
    dimension_names : tuple of (str or None), or None
        Names of the dimensions.
    attributes : mapping
        The user's own.
    """

    zarr_format: int
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...] | None
    shard_shape: tuple[int, ...] | None
    data_type: str
    item_size: int | None
    order: str
    fill_value: object = dataclasses.field(hash=False)
    filters: tuple[Codec, ...]
    serializer: Codec | None
    compressors: tuple[Codec, ...]
    chunk_keys: ChunkKeys
    dimension_names: tuple[str | None, ...] | None
    attributes: Mapping[str, object] = dataclasses.field(hash=False)

    @property
    def grid_shape(self) -> tuple[int, ...] | None:
        """Number of stored objects (shards, else chunks) along each dimension."""
        return grid(self.shape, self.shard_shape or self.chunk_shape)

    @property
    def number_of_chunks(self) -> int | None:
        """Number of chunks, those inside shards counted singly; None for an irregular grid."""
        counts = grid(self.shape, self.chunk_shape)
        return None if counts is None else math.prod(counts)

    @property
    def number_of_objects(self) -> int | None:
        """Number of objects that hold the whole array: its shards, else its chunks."""
        return None if self.grid_shape is None else math.prod(self.grid_shape)

    @property
    def decoded_bytes(self) -> int | None:
        """Size of the whole array when decoded; None where that varies or is not known."""
        return None if self.item_size is None else math.prod(self.shape) * self.item_size

    @property
    def fill_text(self) -> str:
        """The fill value, for a person."""
        return fill_text(self.fill_value, self.data_type)

    def is_chunk(self, key: str) -> bool:
        """Whether `key`, relative to the array, names one of its chunks or shards."""
        counts = self.grid_shape
        found = self.chunk_keys.decode(key, len(self.shape))
        if counts is None or found is None:
            return False
        return all(at < count for at, count in zip(found, counts, strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class GroupMeta:
    """What the metadata of one group tells.

    Attributes
    ----------
    zarr_format : int
        2 or 3.
    attributes : mapping
        The user's own.
    consolidated : mapping or None
        Paths below the group and what is there, where it has consolidated metadata.
    consolidated_error : str or None
        Why its consolidated metadata cannot be used.
    """

    zarr_format: int
    attributes: Mapping[str, object] = dataclasses.field(hash=False)
    consolidated: Mapping[str, ArrayMeta | GroupMeta] | None = dataclasses.field(default=None, hash=False)
    consolidated_error: str | None = None


Node = ArrayMeta | GroupMeta


def grid(shape: tuple[int, ...], chunks: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return how many chunks lie along each dimension; None if there is no regular shape of them."""
    if chunks is None:
        return None
    return tuple(-(-length // chunk) if chunk else 0 for length, chunk in zip(shape, chunks, strict=True))
