"""Metadata documents: what zarr-python writes is read as zarr-python reads it; anything else ends well."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore as ZarrMemoryStore

from zarrmount.zarr import metadata
from zarrmount.zarr.metadata import (
    ArrayMeta,
    ChunkKeys,
    GroupMeta,
    MetadataError,
    parse_v2_array,
    parse_v2_consolidated,
    parse_v2_group,
    parse_v3,
)

V3: dict[str, Any] = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [10, 7],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 3]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0.0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    "attributes": {},
}
V2: dict[str, Any] = {
    "zarr_format": 2,
    "shape": [10, 7],
    "chunks": [4, 3],
    "dtype": "<f4",
    "fill_value": None,
    "order": "C",
    "filters": None,
    "compressor": None,
}


def dumped(document: object) -> bytes:
    return json.dumps(document).encode()


def v3(**changes: Any) -> ArrayMeta:
    found = parse_v3(dumped({**V3, **changes}))
    assert isinstance(found, ArrayMeta)
    return found


def v2(**changes: Any) -> ArrayMeta:
    return parse_v2_array(dumped({**V2, **changes}))


DTYPES: list[Any] = [
    "bool", "i1", "u1", "<i2", ">i2", "<u4", ">u8", "<f2", "<f4", ">f4", "<f8", "<c8", ">c16",
    "<M8[s]", "<M8[10ms]", ">M8[D]", "<m8[ns]", "S5", "<U5", ">U3", "V8",
    [("a", "<i4"), ("b", "<f8")],
    [("a", "?"), ("b", "<M8[s]"), ("c", "<U3"), ("d", "S2")],
]  # fmt: skip


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_data_type_reads_as_zarr_reads_it(zarr_format: int, dtype: Any) -> None:
    held: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # data types without a specification
        array = zarr.create_array(
            ZarrMemoryStore(held), shape=(10, 7), chunks=(4, 3), dtype=dtype, zarr_format=zarr_format
        )
    meta = read(held, zarr_format)
    found = zarr.open_array(ZarrMemoryStore(held))
    if zarr_format == 3 and found.dtype.byteorder == ">":
        pytest.fail("zarr-python keeps the byte order of v3 in the codec")  # else the name must tell it
    assert meta.data_type == str(found.dtype)
    assert meta.item_size == array.dtype.itemsize
    assert meta.decoded_bytes == array.nbytes


def test_structured_data_types_nest() -> None:
    # zarr-python writes these and, in v2, cannot read them again
    fields = np.dtype([("a", "u1"), ("b", [("c", "<f4"), ("d", "S3", (2, 3))])])
    raw = [["a", "|u1"], ["b", [["c", "<f4"], ["d", "|S3", [2, 3]]]]]
    assert v2(dtype=raw).data_type == str(fields)
    assert v2(dtype=raw).item_size == fields.itemsize


def read(held: dict[str, Any], zarr_format: int, path: str = "") -> ArrayMeta:
    start = f"{path}/" if path else ""
    if zarr_format == 3:
        found = parse_v3(held[f"{start}zarr.json"].to_bytes())
    else:
        attributes = held.get(f"{start}.zattrs")
        found = parse_v2_array(
            held[f"{start}.zarray"].to_bytes(), None if attributes is None else attributes.to_bytes()
        )
    assert isinstance(found, ArrayMeta)
    return found


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        ("f4", 1.5), ("f8", float("nan")), ("f4", float("-inf")), ("i2", -7), ("bool", True), ("c8", 1 + 2j),
        ("c16", 0j), ("S5", b"ab"), ("U5", "äb"), ("M8[s]", np.datetime64("NaT")), ("V3", b"\1\2\3"),
    ],
)  # fmt: skip
def test_fill_values_read_as_zarr_shows_them(zarr_format: int, dtype: str, fill: Any) -> None:
    held: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.create_array(
            ZarrMemoryStore(held), shape=(3,), dtype=dtype, fill_value=fill, zarr_format=zarr_format
        )
    shown = next(line for line in repr(array.info).splitlines() if line.startswith("Fill value"))
    assert read(held, zarr_format).fill_text == shown.partition(" : ")[2]


@pytest.mark.parametrize(("zarr_format", "dtype"), [(2, str), (3, str), (3, "bytes")])
def test_a_variable_length_has_no_size(zarr_format: int, dtype: Any) -> None:
    held: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.create_array(ZarrMemoryStore(held), shape=(3,), dtype=dtype, zarr_format=zarr_format)
    meta = read(held, zarr_format)
    assert meta.data_type == ("string" if dtype is str else "bytes")
    assert meta.item_size is None
    assert meta.decoded_bytes is None


def test_shards() -> None:
    held: dict[str, Any] = {}
    array = zarr.create_array(
        ZarrMemoryStore(held),
        shape=(10, 7),
        chunks=(4, 3),
        shards=(8, 6),
        dtype="i2",
        dimension_names=["y", "x"],
    )
    meta = read(held, 3)
    assert (meta.chunk_shape, meta.shard_shape) == (array.chunks, array.shards)
    assert meta.number_of_chunks == array.nchunks
    assert (meta.grid_shape, meta.number_of_objects) == ((2, 2), 4)
    assert meta.dimension_names == ("y", "x")
    assert str(meta.serializer) == "BytesCodec(endian='little')"
    assert [str(codec) for codec in meta.compressors] == ["ZstdCodec(level=0, checksum=False)"]
    assert meta.is_chunk("c/1/1")
    assert not meta.is_chunk("c/2/0")


def test_shards_that_another_codec_wraps_are_not_taken_apart() -> None:
    inner = {"name": "sharding_indexed", "configuration": {"chunk_shape": [2, 3], "codecs": V3["codecs"]}}
    meta = v3(codecs=[inner, {"name": "gzip", "configuration": {"level": 5}}])
    assert (meta.chunk_shape, meta.shard_shape) == ((4, 3), None)
    assert v3(codecs=[inner]).shard_shape == (4, 3)


def test_codecs_of_v2() -> None:
    held: dict[str, Any] = {}
    zarr.create_array(
        ZarrMemoryStore(held),
        shape=(10,),
        dtype="f4",
        order="F",
        zarr_format=2,
        filters=[numcodecs.Delta("f4")],
        compressors=numcodecs.Blosc(),
    )
    meta = read(held, 2)
    assert [str(codec) for codec in meta.filters] == [repr(numcodecs.Delta("f4"))]
    assert [str(codec) for codec in meta.compressors] == [repr(numcodecs.Blosc())]
    assert (meta.order, meta.serializer) == ("F", None)


def test_an_unknown_serializer_is_found_by_its_place() -> None:
    meta = v3(
        codecs=[{"name": "transpose", "configuration": {"order": [1, 0]}}, {"name": "x"}, {"name": "gzip"}]
    )
    assert [str(codec) for codec in meta.filters] == ["TransposeCodec(order=(1, 0))"]
    assert str(meta.serializer) == "x()"
    assert [str(codec) for codec in meta.compressors] == ["GzipCodec()"]


@pytest.mark.parametrize(
    ("name", "separator", "coordinates", "key"),
    [
        ("default", "/", (1, 20), "c/1/20"),
        ("default", ".", (1, 20), "c.1.20"),
        ("default", "/", (), "c"),
        ("v2", ".", (1, 20), "1.20"),
        ("v2", "/", (1, 20), "1/20"),
        ("v2", ".", (), "0"),
    ],
)
def test_chunk_keys(name: str, separator: str, coordinates: tuple[int, ...], key: str) -> None:
    keys = ChunkKeys(name, separator)
    assert keys.encode(coordinates) == key
    assert keys.decode(key, len(coordinates)) == coordinates


@pytest.mark.parametrize(
    "key", ["", "c", "c/1", "c/01/2", "c/1/2/3", "c/-1/2", "c/1/x", "c/1/٣", "zarr.json"]
)
def test_what_is_no_chunk_key(key: str) -> None:
    assert ChunkKeys("default", "/").decode(key, 2) is None


def test_an_irregular_grid_has_no_chunk_shape() -> None:
    meta = v3(chunk_grid={"name": "rectilinear", "configuration": {"chunk_shapes": [[5, 5], [7]]}})
    assert meta.chunk_shape is None
    assert meta.number_of_chunks is None
    assert not meta.is_chunk("c/0/0")


def test_an_extension_data_type_is_shown_and_has_no_size() -> None:
    meta = v3(data_type={"name": "my.type", "configuration": {"bits": 3}})
    assert (meta.data_type, meta.item_size) == ("my.type(bits=3)", None)
    assert v3(data_type="r16").data_type == "|V2"
    assert v3(data_type="bfloat16").item_size == 2


def test_consolidated_v3() -> None:
    held: dict[str, Any] = {}
    make_tree(held, 3)
    group = parse_v3(held["zarr.json"].to_bytes())
    assert isinstance(group, GroupMeta)
    assert group.consolidated is not None
    assert {path: type(node) for path, node in group.consolidated.items()} == {
        "a": ArrayMeta,
        "g": GroupMeta,
        "g/b": ArrayMeta,
    }
    assert group.consolidated["g"].attributes == {"k": 1}


def test_consolidated_v2() -> None:
    held: dict[str, Any] = {}
    make_tree(held, 2)
    nodes = parse_v2_consolidated(held[".zmetadata"].to_bytes())
    assert set(nodes) == {"", "a", "g", "g/b"}
    assert nodes["g"].attributes == {"k": 1}
    assert isinstance(nodes["g/b"], ArrayMeta)


def make_tree(held: dict[str, Any], zarr_format: Any) -> None:
    store = ZarrMemoryStore(held)
    top = zarr.create_group(store, zarr_format=zarr_format)
    top.create_array("a", shape=(3,), dtype="f4")
    sub = top.create_group("g", attributes={"k": 1})
    sub.create_array("b", shape=(3, 4), dtype="i2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)


def test_a_damaged_entry_spoils_the_consolidated_metadata_and_not_the_group() -> None:
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "consolidated_metadata": {"kind": "inline", "metadata": {"x/y": {"zarr_format": 3}}},
    }
    group = parse_v3(dumped(document))
    assert isinstance(group, GroupMeta)
    assert group.consolidated is None
    assert group.consolidated_error is not None
    assert "'x/y'" in group.consolidated_error


def test_attributes_may_hold_what_json_does_not() -> None:
    group = parse_v2_group(b'{"zarr_format": 2}', b'{"valid_max": NaN}')
    assert str(group.attributes["valid_max"]) == "nan"


def test_xarray_names_of_dimensions() -> None:
    data = dumped(V2)
    assert parse_v2_array(data, b'{"_ARRAY_DIMENSIONS": ["y", "x"]}').dimension_names == ("y", "x")
    assert parse_v2_array(data, b'{"_ARRAY_DIMENSIONS": ["y"]}').dimension_names is None
    assert parse_v2_array(data, b'{"_ARRAY_DIMENSIONS": 5}').dimension_names is None


def test_a_dimension_of_length_zero_has_no_chunks() -> None:
    assert v2(shape=[0, 7], chunks=[0, 3]).number_of_chunks == 0
    assert v2(shape=[0, 7], chunks=[1, 3]).number_of_chunks == 0
    assert v2(shape=[], chunks=[]).number_of_chunks == 1
    assert v2(shape=[], chunks=[]).is_chunk("0")


HUGE = 2**63
BAD_V3: list[tuple[dict[str, Any], str]] = [
    ({"zarr_format": 2}, "zarr_format"),
    ({"zarr_format": True}, "zarr_format"),
    ({"node_type": "file"}, "node_type"),
    ({"shape": None}, "shape"),
    ({"shape": "ab"}, "shape"),
    ({"shape": [-1, 7]}, "shape"),
    ({"shape": [1.0, 7]}, "shape"),
    ({"shape": [True, 7]}, "shape"),
    ({"shape": [float("nan"), 7]}, "shape"),
    ({"shape": [HUGE, 7]}, "shape"),
    ({"shape": [1] * 65}, "dimensions"),
    ({"shape": [10]}, "dimensions"),
    ({"shape": [2**40, 2**40]}, "chunks"),
    ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 3]}}}, "length 0"),
    ({"chunk_grid": {"name": "regular"}}, "chunk_shape"),
    ({"chunk_grid": 5}, "chunk_grid"),
    ({"chunk_grid": {"name": {}}}, "chunk_grid"),
    ({"chunk_key_encoding": {"name": "default", "configuration": {"separator": "-"}}}, "separator"),
    ({"chunk_key_encoding": None}, "chunk_key_encoding"),
    ({"data_type": None}, "data type"),
    ({"data_type": ""}, "data type"),
    ({"data_type": "r7"}, "whole number of bytes"),
    ({"data_type": {"name": "numpy.datetime64", "configuration": {"unit": "x"}}}, "unit"),
    ({"data_type": {"name": "raw_bytes", "configuration": {"length_bytes": -1}}}, "length"),
    ({"data_type": {"name": "structured", "configuration": {"fields": [["a"]]}}}, "field"),
    ({"codecs": []}, "codecs"),
    ({"codecs": [{"name": "transpose"}]}, "bytes"),
    ({"codecs": [5]}, "name"),
    ({"codecs": [{"name": "sharding_indexed"}]}, "shards"),
    ({"dimension_names": ["x"]}, "dimension_names"),
    ({"dimension_names": [1, 2]}, "dimension_names"),
    ({"attributes": []}, "attributes"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD_V3, ids=str)
def test_bad_v3(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(MetadataError, match=reason):
        parse_v3(dumped({**V3, **changes}))


BAD_V2: list[tuple[dict[str, Any], str]] = [
    ({"zarr_format": 3}, "zarr_format"),
    ({"chunks": None}, "chunks"),
    ({"chunks": [4, 0]}, "length 0"),
    ({"dtype": "<f3"}, "data type"),
    ({"dtype": "float32"}, "data type"),
    ({"dtype": []}, "fields"),
    ({"dtype": {}}, "data type"),
    ({"dtype": [["a", "<f4", [2**40]]]}, "shape of a field"),
    ({"dtype": [["a", "<f4", [2**30, 2**30]]]}, "too large"),
    ({"dtype": [["a", "|V2000000000"]] * 2}, "too large"),
    ({"dtype": "|S9999999999"}, "too large"),
    ({"order": "K"}, "order"),
    ({"filters": {}}, "filters"),
    ({"filters": [{}]}, "id"),
    ({"compressor": "gzip"}, "id"),
    ({"dimension_separator": []}, "separator"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD_V2, ids=str)
def test_bad_v2(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(MetadataError, match=reason):
        parse_v2_array(dumped({**V2, **changes}))


def nested_fields(depth: int) -> Any:
    return "<f4" if depth == 0 else [["a", nested_fields(depth - 1)]]


def test_nesting_is_bounded() -> None:
    with pytest.raises(MetadataError, match="nested"):
        v2(dtype=nested_fields(20))
    for levels in (200, 900, 100_000):
        with pytest.raises(MetadataError, match="nested"):
            parse_v3(b'{"a":' * levels + b"1" + b"}" * levels)
        with pytest.raises(MetadataError, match="nested"):
            parse_v3(b'{"a":' + b"[" * levels + b"]" * levels + b"}")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe\xfd", b"\0\0\0", b"NaN", b"{} x",
        b'{"zarr_format": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_what_is_no_document(data: bytes) -> None:
    for parse in (parse_v3, parse_v2_array, parse_v2_group, parse_v2_consolidated):
        with pytest.raises(MetadataError) as caught:
            parse(data)
        assert len(str(caught.value)) < 300


def test_a_document_that_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MAX_METADATA_BYTES", 2**20)
    with pytest.raises(MetadataError, match="larger than 1 MiB"):
        parse_v3(b" " * (2**20 + 1))


def test_a_hostile_document_takes_bounded_time() -> None:
    started = time.process_time()
    with pytest.raises(MetadataError):
        v3(shape=[2**62] * 300_000)
    with pytest.raises(MetadataError):
        v2(dtype=[["a", "<f4", [2**30] * 300_000]])
    assert v3(fill_value=[[0] * 100_000]).fill_text == "a list of 1 items"
    assert time.process_time() - started < 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["regular", "default", "bytes", "sharding_indexed", "struct", "<f4", "|O", "/", "C"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["name", "configuration", "fields", "chunk_shape", "codecs", "id", "unit"])
        | st.text(max_size=3),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """One good document in which a few fields are anything at all, or missing."""
    changed = dict(document)
    for field in draw(st.lists(st.sampled_from(sorted(document)), max_size=3, unique=True)):
        if draw(st.booleans()):
            changed[field] = draw(JSON)
        else:
            del changed[field]
    return changed


def check_node(node: object) -> None:
    """Whatever was accepted can be used."""
    if isinstance(node, ArrayMeta):
        assert all(type(length) is int and length >= 0 for length in node.shape)
        assert node.number_of_chunks is None or 0 <= node.number_of_chunks < 2**63
        assert node.decoded_bytes is None or node.decoded_bytes >= 0
        assert len(node.fill_text) <= 80
        assert isinstance(node.data_type, str)
        for codec in (*node.filters, *node.compressors):
            assert isinstance(str(codec), str)
        node.is_chunk("c/0/0")
        hash(node)
    elif isinstance(node, GroupMeta):
        for inner in (node.consolidated or {}).values():
            check_node(inner)
    else:
        pytest.fail(f"{node!r} is no node")


@settings(deadline=None, max_examples=400)
@given(damaged(V3 | {"dimension_names": ["a", "b"]}))
def test_any_v3_document_is_a_node_or_an_error(document: dict[str, Any]) -> None:
    try:
        node = parse_v3(dumped(document))
    except MetadataError:
        return
    check_node(node)


@settings(deadline=None, max_examples=400)
@given(damaged(V2), st.none() | JSON)
def test_any_v2_document_is_a_node_or_an_error(document: dict[str, Any], attributes: object) -> None:
    try:
        node = parse_v2_array(dumped(document), None if attributes is None else dumped(attributes))
    except MetadataError:
        return
    check_node(node)


ENTRIES = st.sampled_from([".zgroup", ".zarray", ".zattrs", "a/.zgroup", "a/.zarray", "../.zarray", "/", ""])


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(ENTRIES, damaged(V2) | JSON, max_size=5), st.dictionaries(st.text(), damaged(V3) | JSON)
)
def test_any_consolidated_metadata_is_nodes_or_an_error(
    entries: dict[str, Any], inline: dict[str, Any]
) -> None:
    try:
        nodes = parse_v2_consolidated(dumped({"zarr_consolidated_format": 1, "metadata": entries}))
    except MetadataError:
        nodes = {}
    for node in nodes.values():
        check_node(node)
    group = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": inline}}
    check_node(parse_v3(dumped(group)))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_node_or_an_error(data: bytes) -> None:
    for parse in (parse_v3, parse_v2_array, parse_v2_group, parse_v2_consolidated):
        with pytest.raises(MetadataError):
            parse(data)


def test_neither_zarr_nor_numpy_is_imported() -> None:
    heavy = ("zarr", "numpy", "numcodecs", "fsspec")
    code = f"import sys, zarrmount.info; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
