"""The order in which stores list chunks."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zarrmount.zarr.chunks import ChunkMap
from zarrmount.zarr.metadata import parse_v3
from zarrmount.zarr.order import KeyOrder


def chunk_map(grid: tuple[int, ...], name: str, separator: str, path: str = "a") -> ChunkMap:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": grid,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * len(grid)}},
        "chunk_key_encoding": {"name": name, "configuration": {"separator": separator}},
        "codecs": [{"name": "bytes"}],
        "fill_value": 0,
    }
    found = ChunkMap.of(path, parse_v3(json.dumps(document).encode()))
    assert found is not None
    return found


grids = st.lists(st.integers(0, 35), max_size=2).map(tuple) | st.lists(st.integers(1, 11), max_size=3).map(
    tuple
)


@settings(max_examples=50, deadline=None)
@given(
    grids, st.sampled_from(["default", "v2"]), st.sampled_from("/."), st.sampled_from(["", "a/b"]), st.text()
)
def test_places_are_those_of_the_sorted_keys(
    grid: tuple[int, ...], name: str, separator: str, path: str, text: str
) -> None:
    chunks = chunk_map(grid, name, separator, path)
    keys = sorted(chunks.key(at) for at in itertools.product(*map(range, grid)))
    order = KeyOrder(chunks)
    assert order.count == len(keys)
    assert [order.key_at(place) for place in range(len(keys))] == keys
    for probe in [text, f"{path}/{text}", *keys[::7], *(f"{key}/x" for key in keys[::11]), f"{path}/c/1"]:
        assert order.place_after(probe) == sum(key <= probe for key in keys)


@pytest.mark.parametrize("grid", [(10**18,), (10**9, 10**9), (10**12, 10**6)])
def test_a_huge_grid_costs_nothing(grid: tuple[int, ...]) -> None:
    order = KeyOrder(chunk_map(grid, "default", "/"))
    for place in (0, 1, 12_345_678_901, order.count - 1):
        assert order.place_after(order.key_at(place)) == place + 1
