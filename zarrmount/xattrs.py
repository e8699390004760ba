"""Extended attributes: what the store and Zarr know of a file, for ``getfattr`` to show."""

from __future__ import annotations

import errno
import json

from stores.base import Store
from zarrmount.errors import deadline, os_error
from zarrmount.inodes import Inode
from zarrmount.settings import TreeSettings
from zarrmount.zarr.errors import MetadataError
from zarrmount.zarr.hierarchy import read_node
from zarrmount.zarr.model import ArrayMeta, Node

__all__ = ["XAttrs"]

_OUR_NAMES = ("user.zarrmount.", "user.zarr.")


class XAttrs:
    """The extended attributes of one mounted tree.

    ``user.zarrmount.key``, ``.store`` and ``.etag`` tell where a file is kept; the directory of a
    Zarr array or group has ``user.zarr.node_type``, ``.zarr_format`` and, for an array,
    ``.shape``, ``.chunks``, ``.shards``, ``.dtype``, ``.fill_value``, ``.order``, ``.codecs`` and
    ``.dimension_names``.  Lists are JSON.
    """

    def __init__(self, store: Store, settings: TreeSettings) -> None:
        self._store = store
        self._settings = settings

    async def all(self, inode: Inode) -> dict[str, str]:
        """Return the attributes of an inode by name."""
        found = {"user.zarrmount.key": inode.key, "user.zarrmount.store": self._store.location}
        if inode.meta is not None and inode.meta.version is not None:
            found["user.zarrmount.etag"] = inode.meta.version
        if inode.is_dir and not inode.unlinked:
            found |= await self._of_node(inode.key)
        return found

    async def get(self, inode: Inode, name: str) -> str:
        """Return one attribute.

        Raises
        ------
        OSError
            ENODATA if there is none of that name.
        """
        if name.startswith(_OUR_NAMES):  # the kernel asks for its own names with every write
            found = await self.all(inode)
            if name in found:
                return found[name]
        raise os_error(errno.ENODATA)

    async def _of_node(self, path: str) -> dict[str, str]:
        with deadline(self._settings.read_timeout, path):
            try:
                node = await read_node(self._store, path, consolidated=False)
            except MetadataError as error:
                return {"user.zarr.error": str(error)}
        return {f"user.zarr.{name}": text for name, text in _fields(node).items()} if node else {}


def _fields(node: Node) -> dict[str, str]:
    fields = {"node_type": "group", "zarr_format": str(node.zarr_format)}
    if not isinstance(node, ArrayMeta):
        return fields
    codecs = [*node.filters, *([node.serializer] if node.serializer else []), *node.compressors]
    fields |= {
        "node_type": "array",
        "shape": json.dumps(node.shape),
        "dtype": node.data_type,
        "fill_value": node.fill_text,
        "order": node.order,
        "codecs": json.dumps([str(codec) for codec in codecs]),
    }
    if node.chunk_shape is not None:
        fields["chunks"] = json.dumps(node.chunk_shape)
    if node.shard_shape is not None:
        fields["shards"] = json.dumps(node.shard_shape)
    if node.dimension_names is not None:
        fields["dimension_names"] = json.dumps(node.dimension_names)
    return fields
