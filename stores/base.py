"""The store protocol: keys and bytes, asynchronously, with versions and sizes.

1. A *store* maps keys (:mod:`stores.keys`) to immutable byte strings.  A put
   is atomic: a reader finds the old bytes or the new ones, never a mixture,
   and a listing that begins after a put has returned shows it.
2. Everything that tells of an object tells all of it: key, size, time and
   version come from ``head``, ``get``, ``put`` and from listings alike, so
   that ``ls -l`` costs the listing and no more.
3. A *version* is an opaque string that changes whenever the bytes do.  Reads
   and puts can be made conditional on it.
4. What a store cannot do it says in :class:`~stores.meta.Capabilities`, and the method then
   raises :class:`~stores.errors.Unsupported`.  :mod:`stores.testing` asserts
   that what is declared is exactly what works.
5. All methods run under trio and under asyncio (through anyio).  None blocks
   the event loop; work that blocks goes to worker threads.
6. What a store can tell without waiting it may tell without ``await``, too:
   the methods whose names end in ``_now`` return None where it cannot, and then
   the method of the same name has to be asked.

A backend subclasses :class:`Store` and fills in the hooks whose names begin
with an underscore.  The public methods check keys and read-only once, here, so
that no backend and no wrapper can forget to.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Self

import anyio

from stores.errors import NotFound, Precondition, ReadOnly, StoreError, Unsupported
from stores.keys import check_key, check_prefix
from stores.meta import (
    AttributeChange,
    Body,
    Capabilities,
    ListPage,
    Lookup,
    ObjectMeta,
    PrefixMeta,
    Usage,
)

__all__ = ["ObjectReader", "Store"]


class ObjectReader(ABC):
    """One version of one object, open for reading at any offset, by many tasks at once.

    Attributes
    ----------
    meta : ObjectMeta
        Of the version that it reads.
    """

    meta: ObjectMeta

    @abstractmethod
    async def read(self, start: int, size: int) -> bytes:
        """Return the bytes ``[start, start + size)``, fewer only at the end of the object.

        Raises
        ------
        Precondition
            If the object is no longer of the version that was opened.
        NotFound
            If it was deleted (unless ``Capabilities.snapshot_reads``).
        """

    def read_now(self, start: int, size: int) -> bytes | None:  # noqa: ARG002 - for those that can
        """Return what `read` would if that needs no waiting, else None; it raises what `read` would."""
        return None

    async def aclose(self) -> None:
        """Let go of what it holds.  Never raises for an object that is gone."""


class _RangeReader(ObjectReader):
    """The reader of a store that has nothing better than conditional range gets."""

    def __init__(self, store: Store, meta: ObjectMeta) -> None:
        self._store = store
        self.meta = meta

    async def read(self, start: int, size: int) -> bytes:
        stop = min(start + size, self.meta.size)
        if start >= stop:
            return b""
        return await self._store.get_range(self.meta.key, start, stop, if_version=self.meta.version)


class Store(ABC):
    """A map from keys to bytes; see the head of the module for the contract.

    Parameters
    ----------
    read_only : bool
        Refuse every change with :class:`~stores.errors.ReadOnly`.

    Notes
    -----
    ``async with store:`` opens and closes it.  A store is opened by its first use otherwise.
    """

    capabilities: Capabilities

    near: bool = False
    """Whether reads cost no network, so that caching them again in memory gains nothing."""

    max_connections: int | None = None
    """How many requests may be under way at once; None where nothing bounds them."""

    listings_are_hints: bool = False
    """Whether a listing tells what could be there, without sizes, rather than what is there."""

    def __init__(self, *, read_only: bool = False) -> None:
        self._read_only = read_only

    # -- what it is ----------------------------------------------------------------------------

    @property
    def read_only(self) -> bool:
        """Whether changes are refused."""
        return self._read_only

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the store is, as a person would type it, without any secret."""

    def with_read_only(self, read_only: bool = True) -> Self:
        """Return the same store (sharing its connections) with another `read_only`."""
        clone = copy.copy(self)
        clone._read_only = read_only
        return clone

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.location}{' read-only' if self.read_only else ''}>"

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make sure that the store is there and answers.  Calling it again does nothing more.

        Raises
        ------
        NotFound
            If the directory, archive or bucket does not exist.
        Denied, Unavailable, Corrupt, BadLocation
            As they say.
        """

    async def aclose(self) -> None:
        """Finish what is pending and let go of connections and files.  Idempotent."""

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()  # connections may be open already, and nobody else will
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- reading -------------------------------------------------------------------------------

    async def head(self, key: str) -> ObjectMeta:
        """Return the meta of the object `key`.

        Raises
        ------
        NotFound
            If there is no such object (a prefix of that name is none).
        """
        return await self._head(check_key(key))

    async def lookup(self, path: str) -> Lookup:
        """Return the object and the prefix called `path`, whichever are there.

        Raises
        ------
        NotFound
            If there is neither.
        """
        return await self._lookup(check_key(path))

    async def get(self, key: str, *, if_version: str | None = None) -> tuple[bytes, ObjectMeta]:
        """Return a whole object and its meta, in one request.

        Raises
        ------
        NotFound
            If there is no such object.
        Precondition
            If `if_version` is given and is not its version.
        """
        return await self._get(check_key(key), if_version)

    async def get_range(self, key: str, start: int, stop: int, *, if_version: str | None = None) -> bytes:
        """Return the bytes ``[start, stop)`` of an object, fewer only where it ends before `stop`.

        Raises
        ------
        NotFound
            If there is no such object.
        Precondition
            If `if_version` is given and is not its version.
        ValueError
            If not ``0 <= start <= stop``.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"not a range: [{start}, {stop})")
        check_key(key)
        if start == stop:
            return b""
        return await self._get_range(key, start, stop, if_version)

    async def open_reader(self, key: str, *, if_version: str | None = None) -> ObjectReader:
        """Open one version of an object for many reads.

        Raises
        ------
        NotFound, Precondition
            As for `get`.
        """
        return await self._open_reader(check_key(key), if_version)

    def lookup_now(self, path: str) -> Lookup | None:
        """Return what `lookup` would if that needs no waiting, else None; it raises what `lookup` would."""
        return self._lookup_now(check_key(path))

    def open_reader_now(self, key: str, *, if_version: str | None = None) -> ObjectReader | None:
        """Return what `open_reader` would if that needs no waiting, else None; it raises what that would."""
        return self._open_reader_now(check_key(key), if_version)

    def list_dir(self, prefix: str = "") -> AsyncGenerator[ListPage, None]:
        """List the objects and prefixes directly below `prefix`, page by page.

        A prefix that holds nothing gives no entries; it is no error.  Close the generator
        (``contextlib.aclosing``) if it is not read to its end.
        """
        return self._list_dir(check_prefix(prefix))

    def list_all(self, prefix: str = "") -> AsyncGenerator[ListPage, None]:
        """List every object below `prefix`, at any depth, page by page; pages have no prefixes."""
        return self._list_all(check_prefix(prefix))

    def list_after(self, prefix: str, after: str) -> AsyncGenerator[ListPage, None]:
        """List the objects below `prefix` whose keys come after `after`, in the order of their keys.

        Each page is asked for when it is wanted.  The marker of a directory may stand for an empty
        object.  Needs ``Capabilities.ordered``.
        """
        self._need("ordered", prefix)
        return self._list_after(check_prefix(prefix), check_prefix(after))

    def name_at(self, prefix: str, index: int) -> str:
        """Return the name at a place in a listing whose pages have a ``first_index``."""
        raise NotImplementedError(f"the names below {prefix!r} are not computed ({index})")

    async def usage(self) -> Usage | None:
        """Return the room in the store, or None where it has no such limit."""
        return None

    # -- writing -------------------------------------------------------------------------------

    def check_new_key(self, key: str) -> None:
        """Raise InvalidKey for a key that the store can never have, as far as it knows without asking."""
        check_key(key)

    async def put(
        self,
        key: str,
        body: Body,
        *,
        if_absent: bool = False,
        if_version: str | None = None,
        attributes: AttributeChange | None = None,
    ) -> ObjectMeta:
        """Store an object, whole and atomically, and return what is now there.

        Parameters
        ----------
        key : str
            The key; prefixes above it come to be by themselves.
        body : bytes-like or binary file
            What to store; a file is taken from its start to its end.
        if_absent : bool
            Only create; needs ``Capabilities.create_if_absent``.
        if_version : str, optional
            Only replace this version; needs ``Capabilities.replace_if_version``.
        attributes : AttributeChange, optional
            Given to the object in the same step where the store has ``Capabilities.posix``; other
            stores ignore it.

        Raises
        ------
        AlreadyExists
            With `if_absent`, if the key is taken.
        Precondition
            With `if_version`, if the object is of another version, or gone.
        ReadOnly, Denied, NoSpace, Unavailable, Unsupported
            As they say; the old object is then still there.
        """
        if if_absent and if_version is not None:
            raise ValueError("if_absent and if_version exclude one another")
        self._check_writable(check_key(key))
        if if_absent and not self.capabilities.create_if_absent:
            raise Unsupported("this store cannot create only if absent", key=key)
        if if_version is not None and not self.capabilities.replace_if_version:
            raise Unsupported("this store cannot replace one version only", key=key)
        return await self._put(key, body, if_absent, if_version, attributes)

    async def delete(self, key: str) -> None:
        """Delete an object.

        Raises
        ------
        NotFound
            If there is none, where the store tells (object stores do not).
        """
        self._check_writable(check_key(key))
        await self._delete(key)

    async def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectMeta:
        """Copy an object to another key, replacing what is there unless `if_absent`."""
        check_key(source)
        self._check_writable(check_key(target))
        return await self._copy(source, target, if_absent)

    async def rename(
        self, source: str, target: str, *, if_absent: bool = False, exchange: bool = False
    ) -> None:
        """Rename an object in one atomic step, replacing an object `target`.

        Parameters
        ----------
        source, target : str
            Keys of objects (of any kind of file with ``Capabilities.posix``).
        if_absent : bool
            Refuse to replace.
        exchange : bool
            Let the two change places.

        Raises
        ------
        Unsupported
            Without ``Capabilities.rename``, or for what of it the store lacks.
        AlreadyExists
            With `if_absent`, if `target` is taken.
        """
        check_key(source)
        self._check_writable(check_key(target))
        if not self.capabilities.rename:
            raise Unsupported("this store cannot rename", key=source)
        await self._rename(source, target, if_absent, exchange)

    # -- directories and POSIX -----------------------------------------------------------------

    async def make_dir(self, path: str, mode: int = 0o777) -> PrefixMeta:
        """Make an empty directory; AlreadyExists if anything has the name."""
        self._check_writable(check_key(path))
        self._need("directories", path)
        return await self._make_dir(path, mode)

    async def remove_dir(self, path: str) -> None:
        """Remove an empty directory; ``os_errno`` is ENOTEMPTY if it holds anything."""
        self._check_writable(check_key(path))
        self._need("directories", path)
        await self._remove_dir(path)

    async def rename_dir(
        self, source: str, target: str, *, if_absent: bool = False, exchange: bool = False
    ) -> None:
        """Rename a directory in one atomic step, replacing an empty directory `target`."""
        check_key(source)
        self._check_writable(check_key(target))
        self._need("directories", source)
        await self._rename_dir(source, target, if_absent, exchange)

    async def set_attributes(self, path: str, change: AttributeChange) -> None:
        """Change mode, owner or times of a file or directory; the root is the path ``""``."""
        self._check_writable(check_prefix(path))
        self._need("posix", path)
        await self._set_attributes(path, change)

    async def root(self) -> PrefixMeta:
        """Return the meta of the root itself."""
        return PrefixMeta("")

    async def symlink(self, target: str, key: str) -> ObjectMeta:
        """Make a symbolic link `key` that holds the text `target`."""
        self._check_writable(check_key(key))
        self._need("posix", key)
        return await self._symlink(target, key)

    async def read_link(self, key: str) -> str:
        """Return the text that a symbolic link holds."""
        check_key(key)
        self._need("posix", key)
        return await self._read_link(key)

    async def link(self, source: str, target: str) -> ObjectMeta:
        """Make a hard link; AlreadyExists if `target` is taken."""
        check_key(source)
        self._check_writable(check_key(target))
        self._need("posix", source)
        return await self._link(source, target)

    async def make_node(self, key: str, mode: int, rdev: int = 0) -> ObjectMeta:
        """Make a FIFO, a socket or a device node, as ``mknod(2)``."""
        self._check_writable(check_key(key))
        self._need("posix", key)
        return await self._make_node(key, mode, rdev)

    async def sync(self, path: str) -> None:
        """Return when what was put under `path` (a key, or a prefix) would survive a power loss."""
        check_prefix(path)

    # -- hooks ---------------------------------------------------------------------------------

    @abstractmethod
    async def _head(self, key: str) -> ObjectMeta: ...

    @abstractmethod
    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]: ...

    @abstractmethod
    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes: ...

    @abstractmethod
    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,
        attributes: AttributeChange | None,
    ) -> ObjectMeta: ...

    @abstractmethod
    async def _delete(self, key: str) -> None: ...

    @abstractmethod
    def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]: ...

    @abstractmethod
    def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]: ...

    def _list_after(self, prefix: str, after: str) -> AsyncGenerator[ListPage, None]:
        raise NotImplementedError  # a store that declares `ordered` has it

    async def _lookup(self, path: str) -> Lookup:
        """Ask for the object and for anything below it, at once."""
        found: list[ObjectMeta] = []
        below: list[PrefixMeta] = []

        async def ask_object() -> None:
            with suppress(NotFound):
                found.append(await self._head(path))

        async def ask_prefix() -> None:
            if self.capabilities.listable and await self._holds_anything(path):
                below.append(PrefixMeta(path))

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(ask_object)
                group.start_soon(ask_prefix)
        except* StoreError as errors:
            raise _first(errors) from None
        if not found and not below:
            raise NotFound("no such key", key=path)
        return Lookup(found[0] if found else None, below[0] if below else None)

    async def _holds_anything(self, prefix: str) -> bool:
        """Whether there is anything below `prefix`, or it is an empty directory; for `_lookup`."""
        async with aclosing(self._list_dir(prefix)) as pages:
            async for page in pages:
                if page.objects or page.prefixes:
                    return True
        return False

    def _lookup_now(self, path: str) -> Lookup | None:  # noqa: ARG002 - for stores that can
        return None

    def _open_reader_now(self, key: str, if_version: str | None) -> ObjectReader | None:  # noqa: ARG002
        return None

    async def _open_reader(self, key: str, if_version: str | None) -> ObjectReader:
        meta = await self._head(key)
        if if_version is not None and meta.version != if_version:
            raise Precondition("it has changed since it was looked up", key=key)
        return _RangeReader(self, meta)

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        data, _ = await self._get(source, None)
        return await self.put(target, data, if_absent=if_absent)

    async def _rename(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        raise NotImplementedError  # a store that declares `rename` has it

    async def _make_dir(self, path: str, mode: int) -> PrefixMeta:
        raise NotImplementedError

    async def _remove_dir(self, path: str) -> None:
        raise NotImplementedError

    async def _rename_dir(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        raise NotImplementedError

    async def _set_attributes(self, path: str, change: AttributeChange) -> None:
        raise NotImplementedError

    async def _symlink(self, target: str, key: str) -> ObjectMeta:
        raise NotImplementedError

    async def _read_link(self, key: str) -> str:
        raise NotImplementedError

    async def _link(self, source: str, target: str) -> ObjectMeta:
        raise NotImplementedError

    async def _make_node(self, key: str, mode: int, rdev: int) -> ObjectMeta:
        raise NotImplementedError

    # -- checks --------------------------------------------------------------------------------

    def _check_writable(self, key: str) -> None:
        if self.read_only:
            raise ReadOnly("the store is read-only", key=key)

    def _need(self, capability: str, path: str) -> None:
        if not getattr(self.capabilities, capability):
            raise Unsupported(f"this kind of store has no {capability}", key=path)


def _first(errors: BaseExceptionGroup[StoreError]) -> StoreError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
