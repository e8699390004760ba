"""Parse the metadata documents of Zarr v2 and v3, without zarr or numpy.

The documents come from anywhere, so nothing in them is trusted: whatever they hold, parsing ends
soon, and with a node or with :class:`~zarrmount.zarr.errors.MetadataError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from zarrmount.zarr import codecs, datatypes
from zarrmount.zarr.codecs import Pipeline
from zarrmount.zarr.errors import MetadataError
from zarrmount.zarr.model import ArrayMeta, ChunkKeys, GroupMeta, Node, grid

__all__ = [
    "MAX_METADATA_BYTES",
    "ArrayMeta",
    "ChunkKeys",
    "GroupMeta",
    "MetadataError",
    "Node",
    "parse_v2_array",
    "parse_v2_consolidated",
    "parse_v2_group",
    "parse_v3",
]

MAX_METADATA_BYTES = 64 * 2**20
"""Larger documents are refused unread."""

_MAX_DEPTH = 128
_MAX_DIMENSIONS = 64
_MAX_NUMBER = 2**63 - 1


# -- documents -------------------------------------------------------------------------------------


def parse_v3(data: bytes) -> Node:
    """Parse a ``zarr.json``.

    Raises
    ------
    MetadataError
        Whatever is wrong with it.
    """
    return _node_v3(_load(data), consolidated=True)


def parse_v2_array(zarray: bytes, zattrs: bytes | None = None) -> ArrayMeta:
    """Parse a ``.zarray`` and, where there is one, the ``.zattrs`` beside it."""
    return _array_v2(_load(zarray), _attributes_v2(zattrs))


def parse_v2_group(zgroup: bytes, zattrs: bytes | None = None) -> GroupMeta:
    """Parse a ``.zgroup`` and, where there is one, the ``.zattrs`` beside it."""
    return _group_v2(_load(zgroup), _attributes_v2(zattrs))


def parse_v2_consolidated(data: bytes) -> dict[str, Node]:
    """Parse a ``.zmetadata``: paths and what is there; the path of the group itself is ``""``."""
    document = _load(data)
    _expect_format(document, "zarr_consolidated_format", 1)
    entries = document.get("metadata")
    if not isinstance(entries, dict):
        raise MetadataError("the consolidated metadata is no object")
    nodes: dict[str, Node] = {}
    for key in entries:
        path, _, name = key.rpartition("/")
        if name not in (".zarray", ".zgroup") or (name == ".zgroup" and path in nodes):
            continue
        attributes = _object(entries.get(f"{path}/.zattrs" if path else ".zattrs", {}), "the attributes")
        parse = _array_v2 if name == ".zarray" else _group_v2
        nodes[path] = _in_entry(path, parse, _object(entries[key], "an entry"), attributes)
    return nodes


def _load(data: bytes) -> dict[str, Any]:
    """Parse JSON into an object of bounded size and depth."""
    if len(data) > MAX_METADATA_BYTES:
        raise MetadataError(f"larger than {MAX_METADATA_BYTES // 2**20} MiB")
    try:
        document = json.loads(data)
    except RecursionError:
        raise MetadataError(f"nested deeper than {_MAX_DEPTH} levels") from None
    except ValueError as error:  # no JSON, not UTF-8, an integer of too many digits
        raise MetadataError(f"not JSON: {error}"[:200]) from error
    if not isinstance(document, dict):
        raise MetadataError("not a JSON object")
    level: list[object] = [document]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)  # type: ignore[attr-defined]
            if isinstance(child, (dict, list))
        ]
        if not level:
            return document
    raise MetadataError(f"nested deeper than {_MAX_DEPTH} levels")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MetadataError(f"{what} should be an object")
    return value


def _in_entry(path: str, parse: Any, *arguments: object, **options: object) -> Node:
    """Parse one entry of consolidated metadata and say in an error which one it was."""
    try:
        node: Node = parse(*arguments, **options)
    except MetadataError as error:
        raise MetadataError(f"{path[:200]!r}: {error}") from error
    return node


def _expect_format(document: Mapping[str, object], field: str, version: int) -> None:
    found = document.get(field)
    if type(found) is not int or found != version:
        raise MetadataError(f"its {field} should be {version}")


# -- v2 --------------------------------------------------------------------------------------------


def _attributes_v2(zattrs: bytes | None) -> dict[str, Any]:
    if zattrs is None:
        return {}
    try:
        return _load(zattrs)
    except MetadataError as error:
        raise MetadataError(f"its .zattrs: {error}") from error


def _group_v2(document: dict[str, Any], attributes: dict[str, Any]) -> GroupMeta:
    _expect_format(document, "zarr_format", 2)
    return GroupMeta(2, attributes)


def _array_v2(document: dict[str, Any], attributes: dict[str, Any]) -> ArrayMeta:
    _expect_format(document, "zarr_format", 2)
    shape = _shape(document.get("shape"), "shape")
    pipeline = codecs.parse_v2(document.get("filters"), document.get("compressor"))
    data_type = datatypes.parse_v2(document.get("dtype"), tuple(codec.name for codec in pipeline.filters))
    order = document.get("order", "C")
    if order not in ("C", "F"):
        raise MetadataError("its order should be C or F")
    return ArrayMeta(
        zarr_format=2,
        shape=shape,
        chunk_shape=_chunk_shape(document.get("chunks"), shape, "chunks"),
        shard_shape=None,
        data_type=data_type.name,
        item_size=data_type.item_size,
        order=order,
        fill_value=document.get("fill_value"),
        filters=pipeline.filters,
        serializer=None,
        compressors=pipeline.compressors,
        chunk_keys=ChunkKeys("v2", _separator(document.get("dimension_separator", "."))),
        # a convention of xarray's: what does not follow it is an attribute like any other
        dimension_names=_conventional_names(attributes.get("_ARRAY_DIMENSIONS"), len(shape)),
        attributes=attributes,
    )


def _conventional_names(names: object, dimensions: int) -> tuple[str, ...] | None:
    if not isinstance(names, list) or len(names) != dimensions:
        return None
    return tuple(names) if all(isinstance(name, str) for name in names) else None


# -- v3 --------------------------------------------------------------------------------------------


def _node_v3(document: dict[str, Any], *, consolidated: bool) -> Node:
    _expect_format(document, "zarr_format", 3)
    attributes = _object(document.get("attributes", {}), "the attributes")
    kind = document.get("node_type")
    if kind == "array":
        return _array_v3(document, attributes)
    if kind != "group":
        raise MetadataError("its node_type should be array or group")
    inline = document.get("consolidated_metadata") if consolidated else None
    if inline is None:
        return GroupMeta(3, attributes)
    try:
        entries = _object(_object(inline, "the consolidated metadata").get("metadata"), "its metadata")
        nodes = {
            path: _in_entry(path, _node_v3, _object(entry, "an entry"), consolidated=False)
            for path, entry in entries.items()
        }
    except MetadataError as error:
        return GroupMeta(3, attributes, None, str(error))
    return GroupMeta(3, attributes, nodes)


def _array_v3(document: dict[str, Any], attributes: dict[str, Any]) -> ArrayMeta:
    shape = _shape(document.get("shape"), "shape")
    data_type = datatypes.parse_v3(document.get("data_type"))
    chunks, shards, pipeline = _grid_v3(document, shape)
    names = document.get("dimension_names")
    if names is not None and (
        not isinstance(names, list)
        or len(names) != len(shape)
        or not all(name is None or isinstance(name, str) for name in names)
    ):
        raise MetadataError("its dimension_names do not fit its shape")
    return ArrayMeta(
        zarr_format=3,
        shape=shape,
        chunk_shape=chunks,
        shard_shape=shards,
        data_type=data_type.name,
        item_size=data_type.item_size,
        order="C",
        fill_value=document.get("fill_value"),
        filters=pipeline.filters,
        serializer=pipeline.serializer,
        compressors=pipeline.compressors,
        chunk_keys=_chunk_keys_v3(document.get("chunk_key_encoding")),
        dimension_names=None if names is None else tuple(names),
        attributes=attributes,
    )


def _grid_v3(
    document: dict[str, Any], shape: tuple[int, ...]
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None, Pipeline]:
    """Return the shapes of chunks and of shards, and the codecs of the chunks."""
    name, configuration = _named(document.get("chunk_grid"), "chunk_grid")
    pipeline = codecs.parse_v3(document.get("codecs"))
    if name != "regular":
        return None, None, pipeline
    outer = _chunk_shape(configuration.get("chunk_shape"), shape, "chunk_shape")
    codec = pipeline.serializer
    # As zarr-python: what is before or behind the sharding codec changes what lies in the shards.
    if codec is None or codec.name != "sharding_indexed" or pipeline.filters or pipeline.compressors:
        return outer, None, pipeline
    inner = _chunk_shape(codec.configuration.get("chunk_shape"), shape, "chunk_shape of the shards")
    if any(whole % part if part else whole for whole, part in zip(outer, inner, strict=True)):
        raise MetadataError("its shards are no whole number of chunks")
    return inner, outer, codecs.parse_v3(codec.configuration.get("codecs"))


def _chunk_keys_v3(raw: object) -> ChunkKeys:
    name, configuration = _named(raw, "chunk_key_encoding")
    if name not in ("default", "v2"):
        return ChunkKeys(name, "/")
    return ChunkKeys(name, _separator(configuration.get("separator", "/" if name == "default" else ".")))


def _named(raw: object, what: str) -> tuple[str, dict[str, Any]]:
    """Return name and configuration of an extension point; a bare string is a name alone."""
    if isinstance(raw, str):
        return raw, {}
    found = _object(raw, f"its {what}")
    name = found.get("name")
    if not isinstance(name, str):
        raise MetadataError(f"its {what} has no name")
    return name, _object(found.get("configuration", {}), f"the configuration of its {what}")


# -- shapes ----------------------------------------------------------------------------------------


def _shape(raw: object, what: str) -> tuple[int, ...]:
    if not isinstance(raw, list):
        raise MetadataError(f"its {what} should be a list of numbers")
    if len(raw) > _MAX_DIMENSIONS:
        raise MetadataError(f"its {what} has {len(raw)} dimensions; {_MAX_DIMENSIONS} are the limit")
    for length in raw:
        if type(length) is not int or not 0 <= length <= _MAX_NUMBER:
            raise MetadataError(f"its {what} should be whole numbers from 0 to 2**63 - 1")
    return tuple(raw)


def _chunk_shape(raw: object, shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    chunks = _shape(raw, what)
    if len(chunks) != len(shape):
        raise MetadataError(f"its {what} has {len(chunks)} dimensions and its shape {len(shape)}")
    counts = grid(shape, chunks)
    if counts is None or any(not chunk and length for chunk, length in zip(chunks, shape, strict=True)):
        raise MetadataError(f"its {what} has a chunk of length 0")
    if math.prod(counts) > _MAX_NUMBER:
        raise MetadataError("it has more than 2**63 - 1 chunks")
    return chunks


def _separator(raw: object) -> str:
    if raw not in ("/", "."):
        raise MetadataError("the separator of its chunk keys should be / or .")
    return str(raw)
