"""Read nodes from a store, walk the tree below one, and add up what an array has stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import islice
from typing import Literal

import anyio

from stores.base import Store
from stores.errors import Corrupt, Denied, InvalidKey, NotFound, StoreError
from stores.keys import check_key, join, split, unusable_name
from zarrmount.zarr.errors import MetadataError
from zarrmount.zarr.metadata import (
    MAX_METADATA_BYTES,
    parse_v2_array,
    parse_v2_consolidated,
    parse_v2_group,
    parse_v3,
)
from zarrmount.zarr.model import ArrayMeta, GroupMeta, Node

__all__ = ["HiddenKey", "Hierarchy", "Level", "Stored", "level", "read_node", "stored", "walk"]

_FIRST_READ = 2**20
_MAX_HIDDEN = 1000
_MAX_TRACKED = 500_000
_SHADOWED = "is also a directory: the directory is shown, the object is hidden"


@dataclasses.dataclass(frozen=True, slots=True)
class HiddenKey:
    """A key that a mount cannot show, and why."""

    key: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Hierarchy:
    """The tree of nodes below one node.

    Attributes
    ----------
    nodes : mapping
        Paths relative to the node that was asked for (itself: ``""``), in the order of a tree.
    source : {"consolidated metadata", "listing", "the node alone"}
        Where they were found.
    errors : mapping
        Paths of nodes that are there and cannot be read, and why.
    hidden : tuple of HiddenKey
        Found on the way, some thousand at most.
    truncated : bool
        Whether there are more nodes than were asked for.
    """

    nodes: Mapping[str, Node]
    source: Literal["consolidated metadata", "listing", "the node alone"]
    errors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hidden: tuple[HiddenKey, ...] = ()
    truncated: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """What is directly below one prefix."""

    objects: int
    prefixes: tuple[str, ...]
    hidden: tuple[HiddenKey, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """What an array takes in its store.

    Attributes
    ----------
    size : int
        Bytes of all objects below it, metadata among them.
    objects : int
        Their number.
    chunks : int or None
        How many of them are chunks or shards; None where that cannot be told from their keys.
    hidden : tuple of HiddenKey
        Found on the way, some thousand at most.
    """

    size: int
    objects: int
    chunks: int | None
    hidden: tuple[HiddenKey, ...]


# -- one node --------------------------------------------------------------------------------------


async def read_node(
    store: Store, path: str = "", *, zarr_format: int | None = None, consolidated: bool = True
) -> Node | None:
    """Read the group or array at `path`.

    Parameters
    ----------
    store : Store
        Where.
    path : str
        Prefix of the node; ``""`` is the root.
    zarr_format : int, optional
        Ask for this one only: what is below a node is of its format.
    consolidated : bool
        Read the ``.zmetadata`` of a v2 group as well.

    Returns
    -------
    ArrayMeta, GroupMeta or None
        None where there is no node.  Version 3 wins over version 2, as in zarr-python.

    Raises
    ------
    MetadataError
        If there is a node and its metadata cannot be used.
    StoreError
        If the store cannot tell.
    """
    names = {2: (), 3: ("zarr.json",)}.get(zarr_format or 0, ("zarr.json",))
    if zarr_format != 3:
        names += (".zarray", ".zgroup", ".zattrs", *((".zmetadata",) if consolidated else ()))
    documents = await _read_documents(store, [join(path, name) for name in names])
    found = {name: documents[join(path, name)] for name in names if join(path, name) in documents}
    for name in ("zarr.json", ".zarray", ".zgroup"):
        if name in found:
            try:
                return _parse(name, found)
            except MetadataError as error:
                raise MetadataError(f"{join(path, name)!r}: {error}") from error
    return None


def _parse(name: str, found: Mapping[str, bytes]) -> Node:
    if name == "zarr.json":
        return parse_v3(found[name])
    if name == ".zarray":
        return parse_v2_array(found[name], found.get(".zattrs"))
    group = parse_v2_group(found[name], found.get(".zattrs"))
    if ".zmetadata" not in found:
        return group
    try:
        nodes = parse_v2_consolidated(found[".zmetadata"])
    except MetadataError as error:
        return dataclasses.replace(group, consolidated_error=f".zmetadata: {error}")
    nodes.pop("", None)
    return dataclasses.replace(group, consolidated=nodes)


async def _read_documents(store: Store, keys: Sequence[str]) -> dict[str, bytes]:
    """Read those of `keys` that are there, at once."""
    documents: dict[str, bytes] = {}

    async def read(key: str) -> None:
        with suppress(NotFound):
            documents[key] = await _read_document(store, key)

    try:
        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(read, key)
    except* (StoreError, MetadataError) as errors:
        raise _first(errors) from None
    return documents


async def _read_document(store: Store, key: str) -> bytes:
    """Read a metadata document, in one request where it is of a usual size, never one that is too large."""
    data = await store.get_range(key, 0, _FIRST_READ)
    if len(data) < _FIRST_READ:
        return data
    reader = await store.open_reader(key)
    try:
        if reader.meta.size > MAX_METADATA_BYTES:
            raise MetadataError(f"{key!r}: larger than {MAX_METADATA_BYTES // 2**20} MiB")
        return await reader.read(0, reader.meta.size)
    finally:
        await reader.aclose()


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error out of a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# -- the tree --------------------------------------------------------------------------------------


async def walk(
    store: Store,
    path: str = "",
    root: Node | None = None,
    *,
    max_nodes: int = 100_000,
    concurrency: int = 16,
) -> Hierarchy:
    """Find every node below `path`: from consolidated metadata where it is there, else by listing.

    Arrays are never listed inside.

    Parameters
    ----------
    store : Store
        Where.
    path : str
        Of the node to begin with.
    root : ArrayMeta or GroupMeta, optional
        What `read_node` gave for it.
    max_nodes : int
        Stop after about so many.
    concurrency : int
        How many directories are asked for at the same time.

    Raises
    ------
    NotFound
        If there is no node at `path`.
    MetadataError, StoreError
        As `read_node`; below `path`, what is damaged or refused goes to ``errors`` instead.
    """
    node = await read_node(store, path) if root is None else root
    if node is None:
        raise NotFound("there is no Zarr group or array", key=path)
    if isinstance(node, ArrayMeta):
        return Hierarchy({"": node}, "the node alone")
    below = node.consolidated
    if below is None and not store.capabilities.listable:
        below = await _consolidated_above(store, path)
    if below is not None:
        return _from_consolidated(node, below, max_nodes)
    if not store.capabilities.listable:
        return Hierarchy({"": node}, "the node alone")
    return await _Walk(store, path, node, max_nodes).run(concurrency)


async def _consolidated_above(store: Store, path: str) -> Mapping[str, Node] | None:
    """Take what the consolidated metadata of the whole store tells of `path`."""
    top = await read_node(store) if path else None
    if not isinstance(top, GroupMeta) or top.consolidated is None:
        return None
    start = f"{path}/"
    return {key.removeprefix(start): node for key, node in top.consolidated.items() if key.startswith(start)}


def _from_consolidated(root: Node, below: Mapping[str, Node], max_nodes: int) -> Hierarchy:
    nodes: dict[str, Node] = {"": root}
    hidden = []
    for path, node in below.items():
        try:
            nodes[check_key(path)] = node
        except InvalidKey as error:
            hidden.append(HiddenKey(path, f"in the consolidated metadata: {error.message}"))
    kept = dict(islice(_in_tree_order(nodes), max_nodes))
    truncated = len(nodes) > max_nodes
    return Hierarchy(kept, "consolidated metadata", {}, tuple(hidden[:_MAX_HIDDEN]), truncated)


def _in_tree_order(nodes: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    return iter(sorted(nodes.items(), key=lambda item: item[0].split("/")))


class _Walk:
    """One walk by listing; what its tasks share."""

    def __init__(self, store: Store, path: str, root: Node, max_nodes: int) -> None:
        self._store = store
        self._path = path
        self._max_nodes = max_nodes
        self._nodes: dict[str, Node] = {"": root}
        self._zarr_format = root.zarr_format
        self._errors: dict[str, str] = {}
        self._hidden: list[HiddenKey] = []
        self._visited = 0

    async def run(self, concurrency: int) -> Hierarchy:
        generation = [""]
        while generation and self._visited < self._max_nodes:
            generation = await self._visit_all(generation, concurrency)
        nodes = dict(_in_tree_order(self._nodes))
        return Hierarchy(
            nodes, "listing", self._errors, tuple(self._hidden[:_MAX_HIDDEN]), truncated=bool(generation)
        )

    async def _visit_all(self, paths: list[str], concurrency: int) -> list[str]:
        """Visit all of one depth, and return the paths to visit next (or those that are left)."""
        left = iter(paths)
        found: list[str] = []

        async def work() -> None:
            for path in left:  # shared: each path goes to one worker
                self._visited += 1
                found.extend(await self._visit(path))
                if self._visited >= self._max_nodes:
                    return

        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(concurrency, len(paths))):
                    group.start_soon(work)
        except* (StoreError, MetadataError) as errors:
            raise _first(errors) from None
        found.extend(left)
        return found

    async def _visit(self, path: str) -> list[str]:
        """Read one node, and list it if it is a group."""
        whole = join(self._path, path)
        try:
            if path not in self._nodes:
                node = await read_node(self._store, whole, zarr_format=self._zarr_format, consolidated=False)
                if node is None:
                    return []
                self._nodes[path] = node
            if isinstance(self._nodes[path], ArrayMeta):
                return []
            below = await level(self._store, whole)
        except (MetadataError, Denied, Corrupt) as error:
            if not path:
                raise
            self._errors[path] = str(error)
            return []
        self._hidden.extend(below.hidden)
        return [join(path, name) for name in below.prefixes]


# -- listings --------------------------------------------------------------------------------------


async def level(store: Store, path: str = "") -> Level:
    """List what is directly below `path`: how many objects, the prefixes, what cannot be shown."""
    objects: set[str] = set()
    prefixes: set[str] = set()
    async with aclosing(store.list_dir(path)) as pages:
        async for page in pages:
            objects.update(split(meta.key)[1] for meta in page.objects)
            prefixes.update(split(meta.prefix)[1] for meta in page.prefixes)
    hidden = [
        *_unusable(path, objects),
        *_unusable(path, prefixes, "/"),
        *_shadowed(path, objects & prefixes),
    ]
    usable = tuple(sorted(name for name in prefixes if unusable_name(name) is None))
    return Level(len(objects), usable, tuple(hidden))


async def stored(store: Store, path: str, meta: ArrayMeta) -> Stored:
    """Add up the objects of one array; it takes the listing of all of them."""
    size = objects = chunks = 0
    start = f"{path}/" if path else ""
    keys: set[str] = set()
    above: set[str] = set()
    hidden: list[HiddenKey] = []
    async with aclosing(store.list_all(path)) as pages:
        async for page in pages:
            for found in page.objects:
                key = found.key.removeprefix(start)
                objects += 1
                size += found.size
                chunks += meta.is_chunk(key)
                names = key.split("/")
                if len(hidden) < _MAX_HIDDEN:
                    hidden.extend(
                        HiddenKey(found.key, f"the name {name!r} in it {reason}")
                        for name in names
                        if (reason := unusable_name(name)) is not None
                    )
                if objects <= _MAX_TRACKED:
                    keys.add(key)
                    above.add("/".join(names[:-1]))
    hidden.extend(_shadowed(path, keys & above))
    known = meta.chunk_keys.known and meta.grid_shape is not None
    return Stored(size, objects, chunks if known else None, tuple(hidden[:_MAX_HIDDEN]))


def _unusable(path: str, names: Iterable[str], end: str = "") -> Iterator[HiddenKey]:
    for name in sorted(names):
        reason = unusable_name(name)
        if reason is not None:
            # not `join`, which would drop the slash before an empty name
            yield HiddenKey(
                f"{path}/{name}{end}" if path else f"{name}{end}", f"the name {name!r} in it {reason}"
            )


def _shadowed(path: str, names: Iterable[str]) -> Iterator[HiddenKey]:
    for name in sorted(names):
        if name and not any(unusable_name(part) for part in name.split("/")):
            yield HiddenKey(join(path, name), _SHADOWED)
