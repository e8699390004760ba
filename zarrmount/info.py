"""What ``zarrmount info`` tells: the fields of zarr-python's own ``.info``, and what a mount cannot show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stores.base import Store
from stores.keys import check_prefix
from zarrmount.zarr.hierarchy import HiddenKey, Hierarchy, level, read_node, stored, walk
from zarrmount.zarr.model import ArrayMeta, GroupMeta, Node

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["collect", "render", "show"]

_MAX_FLOAT_BITS = 1000
_CANNOT_LIST = "this store cannot list its keys: what is not in its metadata cannot be told"


async def collect(store: Store, path: str = "", *, max_nodes: int = 100_000) -> dict[str, Any]:
    """Gather what there is to tell of `path` in an open store.

    Parameters
    ----------
    store : Store
        The store.
    path : str
        Of a group or array in it; ``""`` is the root.
    max_nodes : int
        Stop the walk over a hierarchy after about so many.

    Returns
    -------
    dict
        For ``json.dumps`` and for `render`.  ``type`` is ``"Group"``, ``"Array"``, or None where
        there is no Zarr; the key ``tree`` has the nodes below, `path` itself first.

    Raises
    ------
    NotFound
        If there is nothing at all at `path`.
    MetadataError
        If the metadata at `path` cannot be used.
    StoreError
        As the store says.
    """
    path = check_prefix(path.strip("/"))
    node = await read_node(store, path)
    info: dict[str, Any] = {
        "store": store.location,
        "path": path,
        "name": f"/{path}",
        "type": None,
        "zarr_format": None,
        "read_only": store.read_only,
        "store_type": type(store).__name__,
        "notes": [],
        "hidden_keys": [],
        "tree": [],
    }
    if isinstance(node, ArrayMeta):
        await _tell_array(info, store, path, node)
    elif isinstance(node, GroupMeta):
        await _tell_group(info, store, path, node, max_nodes)
    else:
        await _tell_no_zarr(info, store, path)
    return info


async def _tell_array(info: dict[str, Any], store: Store, path: str, meta: ArrayMeta) -> None:
    found = await stored(store, path, meta) if store.capabilities.listable else None
    info |= {
        "type": "Array",
        "zarr_format": meta.zarr_format,
        "data_type": meta.data_type,
        "fill_value": meta.fill_text,
        "shape": list(meta.shape),
        "shard_shape": _listed(meta.shard_shape),
        "chunk_shape": _listed(meta.chunk_shape),
        "order": meta.order,
        "dimension_names": _listed(meta.dimension_names),
        "filters": [str(codec) for codec in meta.filters],
        "serializer": None if meta.serializer is None else str(meta.serializer),
        "compressors": [str(codec) for codec in meta.compressors],
        "chunks": meta.number_of_chunks,
        "objects": meta.number_of_objects,
        "bytes": meta.decoded_bytes,
        "bytes_stored": None if found is None else found.size,
        "objects_initialized": None if found is None else found.chunks,
        "attributes": _jsonable(meta.attributes),
        "tree": _tree({"": meta}),
    }
    if found is None:
        info["notes"].append(_CANNOT_LIST)
    else:
        info["hidden_keys"] = _hidden(found.hidden)


async def _tell_group(info: dict[str, Any], store: Store, path: str, meta: GroupMeta, max_nodes: int) -> None:
    tree = await walk(store, path, meta, max_nodes=max_nodes)
    arrays = sum(isinstance(node, ArrayMeta) for node in tree.nodes.values())
    members = len(tree.nodes) - 1
    known = tree.source != "the node alone"
    info |= {
        "type": "Group",
        "zarr_format": meta.zarr_format,
        "members": members if known else None,
        "arrays": arrays if known else None,
        "groups": members - arrays if known else None,
        "consolidated_metadata": tree.source == "consolidated metadata",
        "attributes": _jsonable(meta.attributes),
        "hidden_keys": _hidden(tree.hidden),
        "tree": _tree(tree.nodes),
    }
    info["notes"].extend(_notes(store, meta, tree, max_nodes))


def _notes(store: Store, meta: GroupMeta, tree: Hierarchy, max_nodes: int) -> Iterator[str]:
    if meta.consolidated_error is not None:
        yield f"the consolidated metadata cannot be used: {meta.consolidated_error}"
    if tree.source != "consolidated metadata" and not store.capabilities.listable:
        yield f"{_CANNOT_LIST}, and there is no consolidated metadata"
    if tree.truncated:
        yield f"there are more than the {max_nodes} nodes that were looked at"
    for path, reason in tree.errors.items():
        yield f"{path}: cannot be read: {reason}"


async def _tell_no_zarr(info: dict[str, Any], store: Store, path: str) -> None:
    if not store.capabilities.listable:
        info["notes"].append(f"no Zarr group or array here; {_CANNOT_LIST}")
        return
    found = await level(store, path)
    if path and not found.objects and not found.prefixes and not found.hidden:
        await store.head(path)  # NotFound, unless it is an object
        info["notes"].append("this is a single key, no Zarr group or array")
        return
    info["keys"] = found.objects
    info["prefixes"] = len(found.prefixes)
    info["hidden_keys"] = _hidden(found.hidden)


def _tree(nodes: Mapping[str, Node]) -> list[dict[str, Any]]:
    return [
        {"path": path, "type": "Array", "shape": list(node.shape), "data_type": node.data_type}
        if isinstance(node, ArrayMeta)
        else {"path": path, "type": "Group"}
        for path, node in nodes.items()
    ]


def _hidden(keys: Iterable[HiddenKey]) -> list[dict[str, str]]:
    return [{"key": found.key, "reason": found.reason} for found in keys]


def _listed(values: tuple[Any, ...] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _jsonable(value: object) -> object:
    """Replace the numbers that JSON does not have; metadata is nested 128 levels deep at most."""
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


# -- text ------------------------------------------------------------------------------------------


def render(info: Mapping[str, Any], *, tree: bool = False) -> str:
    """Write what `collect` gathered as zarr-python writes its ``.info`` (and its ``.tree()``).

    Names come from anywhere: what could move a terminal's cursor is escaped.
    """
    return "\n".join(_plain(line) for line in _lines(info, tree=tree)) + "\n"


def show(info: Mapping[str, Any], console: Console, *, tree: bool = False) -> None:
    """Print `render` with labels and names set off, where `console` is a terminal."""
    from rich.text import Text

    for line in render(info, tree=tree).splitlines():
        text = Text(line)
        text.highlight_regex(r"^[A-Z][\w. -]+ : ", "bold")
        text.highlight_regex(r"(?<=── )[^ ]+", "bold")
        console.print(text, soft_wrap=True)


def _lines(info: Mapping[str, Any], *, tree: bool) -> Iterator[str]:
    if tree and info["tree"]:
        yield from _tree_lines(info["name"], info["tree"])
    elif info["type"] is None:
        yield from _no_zarr_lines(info)
    else:
        fields = list(_array_fields(info) if info["type"] == "Array" else _group_fields(info))
        width = max(len(label) for label, _ in fields)
        for label, value in fields:
            yield f"{label:<{width}} : {value}".rstrip()
    for note in info["notes"]:
        yield f"Note: {note}"
    if info["hidden_keys"]:
        yield "Keys that cannot be shown:"
        for hidden in info["hidden_keys"]:
            yield f"  {hidden['key']!r}: {hidden['reason']}"


def _no_zarr_lines(info: Mapping[str, Any]) -> Iterator[str]:
    where = f"'{info['path']}' in {info['store']}" if info["path"] else info["store"]
    if "keys" in info:
        yield (
            f"There is no Zarr group or array at {where}: {_count(info['keys'], 'key')} and "
            f"{_count(info['prefixes'], 'directory', 'directories')} on its first level, mounted as they are"
        )
    else:
        yield f"There is no Zarr group or array at {where}"


def _group_fields(info: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "Name", info["name"]
    yield "Type", info["type"]
    yield "Zarr format", info["zarr_format"]
    yield "Read-only", info["read_only"]
    yield "Store type", info["store_type"]
    if info["members"] is not None:
        yield "No. members", info["members"]
        yield "No. arrays", info["arrays"]
        yield "No. groups", info["groups"]
    yield "Consolidated metadata", info["consolidated_metadata"]


def _array_fields(info: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "Name", info["name"]
    yield "Type", info["type"]
    yield "Zarr format", info["zarr_format"]
    yield "Data type", info["data_type"]
    yield "Fill value", info["fill_value"]
    yield "Shape", tuple(info["shape"])
    if info["shard_shape"] is not None:
        yield "Shard shape", tuple(info["shard_shape"])
    yield "Chunk shape", "<variable>" if info["chunk_shape"] is None else tuple(info["chunk_shape"])
    if info["dimension_names"] is not None:
        yield "Dimension names", tuple(info["dimension_names"])
    yield "Order", info["order"]
    yield "Read-only", info["read_only"]
    yield "Store type", info["store_type"]
    yield "Filters", _codecs(info["filters"])
    if info["serializer"] is not None:
        yield "Serializer", info["serializer"]
    yield "Compressors", _codecs(info["compressors"])
    if info["bytes"] is not None:
        yield "No. bytes", _bytes(info["bytes"])
    if info["bytes_stored"] is not None:
        yield "No. bytes stored", _bytes(info["bytes_stored"])
        if info["bytes"] is not None and info["bytes_stored"] > 0:
            yield "Storage ratio", _ratio(info["bytes"], info["bytes_stored"])
    if info["shard_shape"] is not None:
        yield "No. chunks", info["chunks"]
    if info["objects_initialized"] is not None:
        what = "Chunks" if info["shard_shape"] is None else "Shards"
        yield f"{what} Initialized", f"{info['objects_initialized']} of {info['objects']}"


def _tree_lines(name: str, nodes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Draw the nodes, given in the order of a tree; one whose parent is missing hangs on the next above."""
    above: list[str] = []  # the paths of the nodes that lead to the one before
    placed: list[tuple[int, str]] = []  # depth and label of each
    for node in nodes:
        path = node["path"]
        while above and not (above[-1] == "" or path.startswith(f"{above[-1]}/")):
            above.pop()
        label = path[len(above[-1]) :].lstrip("/") if above else name
        if node["type"] == "Array":
            label += f" {tuple(node['shape'])} {node['data_type']}"
        placed.append((len(above), label))
        above.append(path)
    yield from _branches(placed)


def _branches(placed: list[tuple[int, str]]) -> Iterator[str]:
    """Draw from the last line up: a branch goes on where a later line is of its depth."""
    open_depths: set[int] = set()
    lines = []
    for depth, label in reversed(placed):
        open_depths = {other for other in open_depths if other <= depth}
        stems = "".join("│   " if other in open_depths else "    " for other in range(1, depth))
        fork = ("├── " if depth in open_depths else "└── ") if depth else ""
        lines.append(f"{stems}{fork}{label}")
        open_depths.add(depth)
    return reversed(lines)


def _codecs(texts: list[str]) -> str:
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def _bytes(size: int) -> str:
    """Write a size as zarr-python does: ``2048 (2.0K)``."""
    if size < 2**10:
        return str(size)
    if size.bit_length() > _MAX_FLOAT_BITS:
        return str(size)
    power = min((size.bit_length() - 1) // 10, 5)
    return f"{size} ({size / 2 ** (10 * power):.1f}{'KMGTP'[power - 1]})"


def _ratio(size: int, on_disk: int) -> str:
    return f"{size / on_disk:.1f}" if size.bit_length() <= _MAX_FLOAT_BITS else str(size // on_disk)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _plain(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
