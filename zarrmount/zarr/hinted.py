"""Listings for stores that cannot list: what Zarr's own metadata says could be there.

A plain HTTP server tells what a key holds and never which keys there are.  But
the metadata of a Zarr hierarchy does: consolidated metadata names the nodes,
shape and chunk grid name the chunks.  So:

1. A path is a directory if a node, a prefix of a node's path, or a prefix of
   an array's chunk keys has it.  Nodes come from consolidated metadata and,
   below groups that have none, from asking for ``zarr.json``, ``.zarray`` and
   ``.zgroup`` when a name is looked up.
2. A listing is a *hint*: the chunks that the grid allows, whether they were
   written or not.  It has no sizes; whoever needs one asks for the key.
3. The names of a grid are generated as they are read, so that an array of a
   hundred million chunks costs no memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import AsyncGenerator, Iterator

from stores.base import ObjectReader, Store
from stores.errors import NotFound, Unsupported
from stores.keys import join
from stores.meta import AttributeChange, Body, ListPage, Lookup, ObjectMeta, PrefixMeta, Usage
from zarrmount.zarr.errors import MetadataError
from zarrmount.zarr.hierarchy import read_node
from zarrmount.zarr.model import ArrayMeta, GroupMeta, Node

__all__ = ["HintedStore"]

_PAGE = 1000
_MOST_NODES = 100_000
_DOCUMENTS = {3: ("zarr.json",), 2: (".zarray", ".zgroup", ".zattrs", ".zmetadata")}


class HintedStore(Store):
    """A store that cannot list, with listings made of what its Zarr metadata says.

    Parameters
    ----------
    inner : Store
        A store without ``Capabilities.listable``.
    """

    listings_are_hints = True

    def __init__(self, inner: Store) -> None:
        super().__init__(read_only=inner.read_only)
        self._inner = inner
        self.max_connections = inner.max_connections
        self._nodes: dict[str, Node] = {}
        self._complete = False

    @property
    def location(self) -> str:
        """Where the inner store is."""
        return self._inner.location

    async def open(self) -> None:
        """Open the inner store and read what its root says."""
        await self._inner.open()
        self.capabilities = dataclasses.replace(self._inner.capabilities, listable=True)
        root = await self._node("")
        if isinstance(root, GroupMeta) and root.consolidated is not None:
            self._complete = True

    async def aclose(self) -> None:
        """Close the inner store."""
        await self._inner.aclose()

    async def usage(self) -> Usage | None:
        """Return what the inner store says."""
        return await self._inner.usage()

    # -- what is there -------------------------------------------------------------------------

    async def _node(self, path: str) -> Node | None:
        """Return the node at a path, asking the store unless it is known."""
        known = self._nodes.get(path)
        if known is not None or (self._complete and path):
            return known
        try:
            node = await read_node(self._inner, path)
        except MetadataError:
            return None  # shown as the plain keys that they are; `zarrmount info` says what is wrong
        if node is not None and len(self._nodes) < _MOST_NODES:
            self._nodes[path] = node
            if isinstance(node, GroupMeta) and node.consolidated is not None:
                self._nodes.update({join(path, below): found for below, found in node.consolidated.items()})
        return node

    def _array_above(self, path: str) -> tuple[str, ArrayMeta] | None:
        """Return the known array that a path is in, if any, with the array's path."""
        while path:
            path = path.rpartition("/")[0]
            node = self._nodes.get(path)
            if isinstance(node, ArrayMeta):
                return path, node
            if node is not None:
                return None
        return None

    async def _lookup(self, path: str) -> Lookup:
        above = self._array_above(path)
        if above is not None:
            array_path, array = above
            if _is_chunk_prefix(array, path[len(array_path) + 1 if array_path else 0 :]):
                return Lookup(prefix=PrefixMeta(path))
        elif await self._is_node_or_above_one(path):
            return Lookup(prefix=PrefixMeta(path))
        return Lookup(object=await self._inner.head(path))

    async def _is_node_or_above_one(self, path: str) -> bool:
        if path in self._nodes or any(known.startswith(path + "/") for known in self._nodes):
            return True
        name = path.rpartition("/")[2]
        if any(name in names for names in _DOCUMENTS.values()):
            return False
        return await self._node(path) is not None

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        node = await self._node(prefix) if self._array_above(prefix) is None else None
        if node is not None:
            yield await self._node_page(prefix, node)
        if isinstance(node, ArrayMeta):
            entries = _chunk_level(node, "")
        else:
            above = self._array_above(prefix)
            if above is None:
                return
            array_path, array = above
            entries = _chunk_level(array, prefix[len(array_path) + 1 if array_path else 0 :])
        first = 0
        while page := list(itertools.islice(entries, _PAGE)):
            yield ListPage(
                tuple(ObjectMeta(join(prefix, name), 0) for name, is_prefix in page if not is_prefix),
                tuple(PrefixMeta(join(prefix, name)) for name, is_prefix in page if is_prefix),
                first_index=first,
            )
            first += len(page)

    def name_at(self, prefix: str, index: int) -> str:
        """Return the name of a chunk, or of a directory of chunks, by its place in the grid."""
        node = self._nodes.get(prefix)
        path, array = (
            (prefix, node) if isinstance(node, ArrayMeta) else self._array_above(prefix) or ("", None)
        )
        assert isinstance(array, ArrayMeta)  # else the listing had no such pages
        keys, inside = array.chunk_keys, prefix[len(path) + 1 if path else 0 :]
        if keys.separator != "/":
            return keys.encode(_coordinates(index, array.grid_shape or ()))
        return "c" if keys.name == "default" and not inside else str(index)

    async def _node_page(self, path: str, node: Node) -> ListPage:
        """Return the metadata documents of a node that are there, and the nodes known below it."""
        documents = []
        for name in _DOCUMENTS[node.zarr_format]:
            try:
                documents.append(await self._inner.head(join(path, name)))
            except NotFound:
                continue
        start = len(path) + 1 if path else 0
        inside = path + "/" if path else ""
        below = {
            known[start:].partition("/")[0] for known in self._nodes if known and known.startswith(inside)
        }
        return ListPage(tuple(documents), tuple(PrefixMeta(join(path, name)) for name in sorted(below)))

    async def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        raise Unsupported("this server cannot list its keys", key=prefix)
        yield  # the signature of a generator

    # -- what the inner store does ---------------------------------------------------------------

    async def _head(self, key: str) -> ObjectMeta:
        return await self._inner.head(key)

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        return await self._inner.get(key, if_version=if_version)

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        return await self._inner.get_range(key, start, stop, if_version=if_version)

    async def _open_reader(self, key: str, if_version: str | None) -> ObjectReader:
        return await self._inner.open_reader(key, if_version=if_version)

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,
        attributes: AttributeChange | None,
    ) -> ObjectMeta:
        return await self._inner.put(
            key, body, if_absent=if_absent, if_version=if_version, attributes=attributes
        )

    async def _delete(self, key: str) -> None:
        await self._inner.delete(key)

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        return await self._inner.copy(source, target, if_absent=if_absent)


def _is_chunk_prefix(array: ArrayMeta, path: str) -> bool:
    """Tell whether a path inside an array is a proper prefix of the keys of its chunks."""
    counts, keys = array.grid_shape, array.chunk_keys
    if counts is None or not keys.known or keys.separator != "/":
        return False
    parts = path.split("/")
    if keys.name == "default" and parts.pop(0) != "c":
        return False
    if len(parts) >= len(counts):
        return False
    return all(
        part.isdecimal() and str(int(part)) == part and int(part) < count
        for part, count in zip(parts, counts, strict=False)
    )


def _chunk_level(array: ArrayMeta, path: str) -> Iterator[tuple[str, bool]]:
    """Yield the names directly below a path inside an array, each with whether it is a prefix."""
    counts, keys = array.grid_shape, array.chunk_keys
    if counts is None or not keys.known:
        return
    if keys.separator != "/":
        if not path:
            for index in range(math.prod(counts)):
                yield keys.encode(_coordinates(index, counts)), False
        return
    if keys.name == "default" and not path:
        yield "c", bool(counts)
        return
    if path and not _is_chunk_prefix(array, path):
        return
    depth = len([part for part in path.split("/") if part]) - (keys.name == "default")
    if not counts:
        yield "0", False
        return
    for index in range(counts[depth]):
        yield str(index), depth + 1 < len(counts)


def _coordinates(index: int, counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return the coordinates of the chunk that comes at `index` in C order."""
    backwards = []
    for count in reversed(counts):
        index, coordinate = divmod(index, count)
        backwards.append(coordinate)
    return tuple(reversed(backwards))
