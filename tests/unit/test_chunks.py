"""Keys to coordinates and back, and what is no chunk."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, strategies

from zarrmount.zarr.chunks import ChunkMap, arrays_above, is_document
from zarrmount.zarr.metadata import parse_v2_array, parse_v3


def v2(shape: list[int], chunks: list[int], separator: str = ".") -> Any:
    return parse_v2_array(
        json.dumps(
            {
                "zarr_format": 2,
                "shape": shape,
                "chunks": chunks,
                "dtype": "<u2",
                "compressor": None,
                "filters": None,
                "fill_value": 0,
                "order": "C",
                "dimension_separator": separator,
            }
        ).encode()
    )


def v3(shape: list[int], chunks: list[int], name: str, separator: str, inner: list[int] | None = None) -> Any:
    codecs: list[Any] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if inner:
        codecs = [{"name": "sharding_indexed", "configuration": {"chunk_shape": inner, "codecs": codecs}}]
    return parse_v3(
        json.dumps(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": shape,
                "data_type": "uint16",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
                "chunk_key_encoding": {"name": name, "configuration": {"separator": separator}},
                "codecs": codecs,
                "fill_value": 0,
            }
        ).encode()
    )


@strategies.composite
def maps(draw: Any) -> ChunkMap:
    shape = draw(strategies.lists(strategies.integers(1, 40), max_size=4))
    chunks = [draw(strategies.integers(1, 10)) for _ in shape]
    kind = draw(strategies.sampled_from(["v2", "default", "v2 in v3"]))
    separator = draw(strategies.sampled_from("./"))
    if kind == "v2":
        node = v2(shape, chunks, separator)
    else:
        node = v3(shape, chunks, "default" if kind == "default" else "v2", separator)
    found = ChunkMap.of(draw(strategies.sampled_from(["", "a", "a/b", "0", "c/0"])), node)
    assert found is not None
    return found


@given(maps(), strategies.data())
def test_coordinates_make_keys_and_keys_coordinates(chunks: ChunkMap, data: Any) -> None:
    coordinates = tuple(data.draw(strategies.integers(0, count - 1)) for count in chunks.grid)
    key = chunks.key(coordinates)
    assert chunks.coordinates(key) == coordinates
    assert not chunks.is_row(key)
    assert chunks.path in arrays_above(key)
    for row in chunks.rows_above(key):
        assert key.startswith(f"{row}/")
        assert chunks.is_row(row)
        assert chunks.coordinates(row) is None
        assert chunks.path in arrays_above(row)


@given(maps(), strategies.data())
def test_what_is_outside_the_grid_is_no_chunk(chunks: ChunkMap, data: Any) -> None:
    if not chunks.grid:
        return
    coordinates = [data.draw(strategies.integers(0, count - 1)) for count in chunks.grid]
    dimension = data.draw(strategies.integers(0, len(coordinates) - 1))
    coordinates[dimension] = chunks.grid[dimension] + data.draw(strategies.integers(0, 5))
    assert chunks.coordinates(chunks.key(tuple(coordinates))) is None


@given(maps(), strategies.text(alphabet="c0123./_", max_size=12))
def test_no_other_text_is_taken_for_a_chunk(chunks: ChunkMap, text: str) -> None:
    found = chunks.coordinates(text)
    if found is not None:
        assert chunks.key(found) == text
        assert not chunks.is_row(text)


@pytest.mark.parametrize(
    ("key", "row"), [("a/c", True), ("a/c/1", True), ("a/c/2", False), ("a/c/01", False), ("a/c/1/0", False)]
)
def test_rows(key: str, row: bool) -> None:
    chunks = ChunkMap.of("a", v3([4, 4], [2, 2], "default", "/"))
    assert chunks is not None
    assert chunks.is_row(key) is row


def test_where_a_name_like_a_chunks_can_belong() -> None:
    assert arrays_above("a/b/c/0/1") == ["a/b", "a/b/c", "a/b/c/0"]
    assert arrays_above("0/0") == ["", "0"]
    assert arrays_above("a/0.1") == ["a"]
    assert arrays_above("a/c.0.1") == ["a"]
    assert arrays_above("a/0/x") == []
    assert arrays_above("a/zarr.json") == []
    assert arrays_above("a/00") == []


def test_documents() -> None:
    assert is_document("a/zarr.json")
    assert is_document(".zattrs")
    assert not is_document("a/zarr.json/b")


def test_how_large_an_object_can_be() -> None:
    chunks = ChunkMap.of("", v2([1000, 1000], [100, 100]))
    assert chunks is not None
    assert not chunks.has_shards
    assert chunks.most_bytes is not None
    assert 20_000 < chunks.most_bytes < 25_000
    shards = ChunkMap.of("", v3([1000, 1000], [100, 100], "default", "/", [10, 10]))
    assert shards is not None
    assert shards.has_shards
    assert math.prod(shards.grid) == 100
    assert shards.most_bytes is not None
    assert 20_000 + 1600 < shards.most_bytes < 27_000


def test_groups_and_unknown_encodings_have_no_map() -> None:
    assert ChunkMap.of("", None) is None
    assert ChunkMap.of("", v3([4], [2], "suffix", "/")) is None
