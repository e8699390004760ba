"""One state of the store, to read: the archive, the changes pending on it, and the catalog of both."""

from __future__ import annotations

import zlib

from stores.base import ObjectReader
from stores.errors import Corrupt, NotFound
from stores.meta import ObjectMeta
from stores.zipped.archive import Archive
from stores.zipped.catalog import Catalog, Changed, Entry, Extent
from stores.zipped.source import FileSource

__all__ = ["Reader", "View"]


class View:
    """What readers use; a merge makes a new one, and those who still read the old one go on.

    Parameters
    ----------
    archive : Archive
    data : FileSource or None
        The bytes of pending objects.
    catalog : Catalog
    tag : str
        Goes into every version.  It is the identity of the archive when it was opened, and stays
        over merges: they change no object, and thus no version.
    """

    def __init__(self, archive: Archive, data: FileSource | None, catalog: Catalog, tag: str) -> None:
        self.archive = archive
        self.data = data
        self.catalog = catalog
        self.tag = tag

    def find(self, key: str) -> Entry:
        """Return the entry of an object.

        Raises
        ------
        NotFound
            If there is none.
        """
        entry = self.catalog.get(key)
        if entry is None:
            raise NotFound("no such key", key=key)
        return entry

    def meta(self, key: str, entry: Entry) -> ObjectMeta:
        """Return the meta of an object."""
        if isinstance(entry, Extent):
            return self._meta(key, entry.size, entry.crc, entry.tick * 100)
        member = self.archive.member(entry.at if isinstance(entry, Changed) else entry)
        mtime_ns = member.mtime_ns
        if isinstance(entry, Changed) and entry.tick is not None:
            mtime_ns = entry.tick * 100
        return self._meta(key, member.size, member.crc, mtime_ns)

    def _meta(self, key: str, size: int, crc: int, mtime_ns: int | None) -> ObjectMeta:
        version = f"{self.tag}-{(mtime_ns or 0) // 100:x}-{crc:08x}-{size:x}"
        return ObjectMeta(key, size, mtime_ns, version)

    async def read(self, key: str, entry: Entry, start: int, stop: int) -> bytes:
        """Return the bytes ``[start, stop)`` of an object, fewer only at its end."""
        if not isinstance(entry, Extent):
            at = entry.at if isinstance(entry, Changed) else entry
            return await self.archive.read(at, key, start, stop)
        stop = min(stop, entry.size)
        if start >= stop or self.data is None:
            return b""
        data = await self.data.read(entry.offset + start, stop - start)
        if len(data) == entry.size and zlib.crc32(data) != entry.crc:
            raise Corrupt("is damaged: its CRC is another", key=key)
        return data


class Reader(ObjectReader):
    """Reads an object of one view."""

    def __init__(self, view: View, key: str, entry: Entry) -> None:
        self._view = view
        self._entry = entry
        self.meta = view.meta(key, entry)

    async def read(self, start: int, size: int) -> bytes:
        """Read at any offset."""
        return await self._view.read(self.meta.key, self._entry, start, start + size)
