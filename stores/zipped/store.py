"""The zip store: the store protocol over a view of an archive."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Literal, Self, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from stores.base import ObjectReader, Store
from stores.errors import BadLocation, NotFound, Precondition, ReadOnly, StoreError, Unavailable
from stores.meta import AttributeChange, Body, Capabilities, ListPage, Lookup, ObjectMeta, PrefixMeta, Usage
from stores.zipped import changes
from stores.zipped.archive import Archive
from stores.zipped.catalog import Catalog, Entry
from stores.zipped.inflate import DEFLATED, STORED
from stores.zipped.session import Session, open_view
from stores.zipped.source import ObjectSource, from_os_error
from stores.zipped.view import Reader, View

__all__ = ["ZipStore"]

_T = TypeVar("_T")
_PAGE = 1000

_READING = Capabilities(listable=True, ranges=True, versions=True, snapshot_reads=True)
_WRITING = Capabilities(
    listable=True,
    ranges=True,
    versions=True,
    create_if_absent=True,
    replace_if_version=True,
    rename=True,
    server_copy=True,
    directories=True,
    snapshot_reads=True,
)


class _LocalPlace:
    """An archive in a file; opens it to read or to write, and again after it was closed."""

    def __init__(self, path: Path, mode: str, *, create: bool, compression: int) -> None:
        self.path = path
        self.mode = mode
        self.create = create
        self.compression = compression
        self.session: Session | None = None
        self._view: View | None = None

    @property
    def location(self) -> str:
        return str(self.path)

    @property
    def view(self) -> View | None:
        return self._view if self.session is None else self.session.view

    async def open(self) -> None:
        await anyio.to_thread.run_sync(self._open)

    def _open(self) -> None:
        path = Path(os.path.realpath(self.path))
        if self.mode == "r":
            self._view = open_view(path)
        else:
            self.session = Session(path, self.mode, create=self.create, compression=self.compression)
            self.mode = "a"  # opened again, it must not be emptied again

    async def close(self) -> None:
        session, self.session, self._view = self.session, None, None
        if session is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(session.close)


class _RemotePlace:
    """An archive that is an object of another store."""

    session: None = None

    def __init__(self, store: Store, key: str) -> None:
        self.store = store
        self.key = key
        self._view: View | None = None
        self._source: ObjectSource | None = None

    @property
    def location(self) -> str:
        return f"{self.store.location.rstrip('/')}/{self.key}"

    @property
    def view(self) -> View | None:
        if self._source is not None and self._source.stale:
            return None
        return self._view

    async def open(self) -> None:
        again = self._view is not None
        await self._let_go()
        try:
            source = ObjectSource(await self.store.open_reader(self.key))
        except NotFound as error:
            if again:
                raise Unavailable("the archive was deleted", key=self.location) from error
            raise
        try:
            archive = await Archive.open(source)
            catalog = Catalog(await anyio.to_thread.run_sync(archive.entries))
        except BaseException as error:
            if isinstance(error, StoreError):
                error.key = error.key or self.location
            with anyio.CancelScope(shield=True):
                await source.aclose()
            raise
        self._source = source
        self._view = View(archive, None, catalog, archive.identity)

    async def close(self) -> None:
        await self._let_go()
        self._view = None
        await self.store.aclose()

    async def _let_go(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            await source.aclose()


class _Shared:
    """What all `with_read_only` views of one store have in common."""

    def __init__(self, place: _LocalPlace | _RemotePlace) -> None:
        self.place = place
        self.lock = anyio.Lock()

    async def view(self) -> View:
        """Return the present view; open the archive if it is not open."""
        if (view := self.place.view) is not None:
            return view
        async with self.lock:
            return await self.view_locked()

    async def view_locked(self) -> View:
        """Do the same while holding the lock."""
        if self.place.view is None:
            await self.place.open()
        view = self.place.view
        if view is None:
            raise Precondition("the archive changed while it was opened", key=self.place.location)
        return view


class ZipStore(Store):
    """The members of a zip archive as objects.

    Parameters
    ----------
    path : str or path
        The archive, a file of this machine.
    mode : {"r", "a", "w", "x"}
        To read; to change; to begin with an empty archive in place of any other; to begin with an
        empty archive where none may be.
    create : bool
        In mode "a", make an archive that is missing.
    read_only : bool, optional
        Whether changes are refused; by default in mode "r" only.  True turns mode "a" into "r".
    compression : int
        ``zipfile.ZIP_STORED`` or ``zipfile.ZIP_DEFLATED``, for new members.  What Zarr stores is
        compressed already.

    Raises
    ------
    BadLocation
        If these contradict one another.

    See Also
    --------
    ZipStore.over : Read an archive that is an object of another store.

    Notes
    -----
    Changes do not touch the archive: they are kept beside it, in a directory ``NAME.pending``, and
    are brought into a new archive that takes the place of the old one when the store is closed, when
    `merge` is called, or when they outgrow the archive.  After a crash they are still there, and
    count, for whoever opens the archive through this class.  At any time the archive itself is
    whole, with the old content or the new.

    A store opened to read shows the archive, and what was pending, as of its opening.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: Literal["r", "a", "w", "x"] = "r",
        *,
        create: bool = False,
        read_only: bool | None = None,
        compression: int = STORED,
    ) -> None:
        if mode not in ("r", "a", "w", "x"):
            raise BadLocation(f"a zip archive is opened in mode r, a, w or x, not {mode!r}")
        if read_only is None:
            read_only = mode == "r"
        if (read_only and mode in ("w", "x")) or (not read_only and mode == "r"):
            raise BadLocation(f"mode {mode!r} and read_only={read_only} contradict one another")
        if compression not in (STORED, DEFLATED):
            raise BadLocation("compression is zipfile.ZIP_STORED or zipfile.ZIP_DEFLATED")
        super().__init__(read_only=read_only)
        self.capabilities = _READING if read_only else _WRITING
        place = _LocalPlace(Path(path), "r" if read_only else mode, create=create, compression=compression)
        self._shared = _Shared(place)

    @classmethod
    def over(cls, store: Store, key: str) -> Self:
        """Read the archive that is the object `key` of `store`, by ranges and never as a whole.

        The other store is closed with this one.
        """
        new = cls(key)
        new._shared = _Shared(_RemotePlace(store, key))
        new.max_connections = store.max_connections
        new.capabilities = Capabilities(
            listable=True,
            ranges=store.capabilities.ranges,
            versions=True,
            snapshot_reads=store.capabilities.snapshot_reads,
        )
        return new

    @property
    def location(self) -> str:
        """The path, or the location of the other store and the key."""
        return self._shared.place.location

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the archive; see `Store.open`."""
        await self._shared.view()

    async def aclose(self) -> None:
        """Merge pending changes and let go of the archive.

        Raises
        ------
        StoreError
            If the changes could not be merged: they stay pending and count when it is opened again.
        """
        async with self._shared.lock:
            await self._shared.place.close()

    async def merge(self) -> None:
        """Bring pending changes into the archive now."""
        await self._change("", lambda session: session.merge())

    async def compact(self) -> None:
        """Bring pending changes into the archive now, and leave out what was deleted or replaced."""
        await self._change("", lambda session: session.merge(compact=True))

    # -- reading -------------------------------------------------------------------------------

    async def _find(self, key: str, if_version: str | None) -> tuple[View, Entry, ObjectMeta]:
        view = await self._shared.view()
        entry = view.find(key)
        meta = view.meta(key, entry)
        if if_version is not None and meta.version != if_version:
            raise Precondition("it has changed since it was looked up", key=key)
        return view, entry, meta

    async def _head(self, key: str) -> ObjectMeta:
        _, _, meta = await self._find(key, None)
        return meta

    async def _lookup(self, path: str) -> Lookup:
        view = await self._shared.view()
        entry = view.catalog.get(path)
        below = PrefixMeta(path) if view.catalog.has_below(path) else None
        if entry is None and below is None:
            raise NotFound("no such key", key=path)
        return Lookup(None if entry is None else view.meta(path, entry), below)

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        view, entry, meta = await self._find(key, if_version)
        return await view.read(key, entry, 0, meta.size), meta

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        view, entry, _ = await self._find(key, if_version)
        return await view.read(key, entry, start, stop)

    async def _open_reader(self, key: str, if_version: str | None) -> ObjectReader:
        view, entry, _ = await self._find(key, if_version)
        return Reader(view, key, entry)

    async def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        view = await self._shared.view()
        for objects, prefixes in view.catalog.children(prefix, _PAGE):
            metas = tuple(view.meta(key, entry) for key, entry in objects)
            yield ListPage(metas, tuple(PrefixMeta(below) for below in prefixes))
            await anyio.lowlevel.checkpoint()

    async def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        view = await self._shared.view()
        for objects in view.catalog.below(prefix, _PAGE):
            yield ListPage(tuple(view.meta(key, entry) for key, entry in objects))
            await anyio.lowlevel.checkpoint()

    async def usage(self) -> Usage | None:
        """Return the room on the file system of the archive; None for an archive elsewhere."""
        place = self._shared.place
        if isinstance(place, _RemotePlace):
            return None
        try:
            found = await anyio.to_thread.run_sync(os.statvfs, place.path.parent, abandon_on_cancel=True)
        except OSError as error:
            raise from_os_error(error, "the file system does not answer", place.location) from error
        unit = found.f_frsize
        return Usage(
            found.f_blocks * unit, found.f_bfree * unit, found.f_bavail * unit, found.f_files, found.f_ffree
        )

    # -- writing -------------------------------------------------------------------------------

    async def _change(self, key: str, work: Callable[[Session], _T]) -> _T:
        """Run `work` in a thread; one at a time, so that waiting takes up no threads."""
        self._check_writable(key)
        async with self._shared.lock:
            await self._shared.view_locked()
            session = self._shared.place.session
            if session is None:
                raise ReadOnly("the archive was opened to read only", key=key)
            return await anyio.to_thread.run_sync(work, session)

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,
        attributes: AttributeChange | None,  # noqa: ARG002 - members have no attributes of their own
    ) -> ObjectMeta:
        return await self._change(
            key,
            partial(changes.put, key=key, body=body, if_absent=if_absent, if_version=if_version),
        )

    async def _delete(self, key: str) -> None:
        await self._change(key, partial(changes.delete, key=key))

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        return await self._change(
            target, partial(changes.copy, source=source, target=target, if_absent=if_absent)
        )

    async def _rename(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        rename = partial(changes.rename, source=source, target=target)
        await self._change(source, partial(rename, if_absent=if_absent, exchange=exchange))

    async def _make_dir(self, path: str, mode: int) -> PrefixMeta:  # noqa: ARG002 - see `_put`
        return await self._change(path, partial(changes.make_dir, path=path))

    async def _remove_dir(self, path: str) -> None:
        await self._change(path, partial(changes.remove_dir, path=path))

    async def _rename_dir(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        rename = partial(changes.rename_dir, source=source, target=target)
        await self._change(source, partial(rename, if_absent=if_absent, exchange=exchange))

    async def sync(self, path: str) -> None:
        """Return when all that was put would survive a power loss."""
        await super().sync(path)
        session = self._shared.place.session
        if session is not None:
            await anyio.to_thread.run_sync(session.sync)
