"""A store on a directory of the local disk: files as objects, with all that POSIX has."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

import anyio.to_thread

from stores.base import ObjectReader, Store
from stores.errors import BadLocation, InvalidKey, NotFound
from stores.keys import check_prefix
from stores.local import changing, files, reading
from stores.local.beneath import RENAME_EXCHANGE, RENAME_NOREPLACE, CachedRoot, Root
from stores.local.replacing import put_file
from stores.meta import AttributeChange, Body, Capabilities, ListPage, Lookup, ObjectMeta, PrefixMeta, Usage

__all__ = ["LocalStore"]

P = ParamSpec("P")
T = TypeVar("T")

_PAGE = 1000


class LocalStore(Store):
    """The files beneath one directory.

    Parameters
    ----------
    root : str or path
        The directory.
    create : bool
        Make it, and what is missing above it, when the store is opened.
    read_only : bool
        Refuse every change.

    Notes
    -----
    No key leads out of the root: symbolic links are followed where they stay beneath it, and are
    Denied where they do not (or are absolute).  ``head``, lookups and listings show a link as
    itself; reads give what it points to; a put replaces it.

    A put writes a temporary file beside its target and renames it.  Conditions on a version are
    checked just before that, under a lock that all stores of this process share.  *Other* processes
    are not shut out: what they do before the check is seen, what they do between the check and the
    rename (microseconds) is replaced.  ``if_absent`` excludes them too.

    A version tells a file's handle (or inode), size and time of modification, and so changes with
    every replacement and every write in place, but not with modes, owners, names or links.  Who
    writes in place, keeps the size and then sets back the time goes unseen, as with ``rsync``.

    What the kernel has in memory is looked up, opened and read on the thread that asks (see
    :mod:`stores.local.beneath`), all else in worker threads: on a network file system, everything.

    ``make_dir`` and ``make_node`` apply the umask of the process, as ``mkdir(2)`` does; so do puts
    that create, unless they are given a mode.
    """

    capabilities = Capabilities(
        listable=True,
        ranges=True,
        versions=True,
        create_if_absent=True,
        replace_if_version=True,
        rename=True,
        server_copy=True,
        directories=True,
        posix=True,
        snapshot_reads=True,
    )

    near = True

    def __init__(
        self, root: str | os.PathLike[str], *, create: bool = False, read_only: bool = False
    ) -> None:
        super().__init__(read_only=read_only)
        self._path = Path(os.path.abspath(root))  # noqa: PTH100 - Path.absolute() keeps ".."
        self._create = create
        self._root: Root | None = None

    @property
    def path(self) -> Path:
        """The directory."""
        return self._path

    @property
    def location(self) -> str:
        """The absolute path of the directory."""
        return str(self._path)

    # -- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the directory, or make it.

        Raises
        ------
        NotFound, BadLocation, Denied
            If it is missing, is no directory, or may not be opened.
        """
        await self._opened()

    async def aclose(self) -> None:
        """Close the directory, as soon as no call in flight uses it."""
        root, self._root = self._root, None
        if root is not None:
            root.close()

    def with_read_only(self, read_only: bool = True) -> Self:
        """Return the same store with another `read_only`, to be closed by itself."""
        clone = super().with_read_only(read_only)
        if self._root is not None:
            clone._root = self._root.duplicate()
        return clone

    async def _opened(self) -> Root:
        if self._root is not None:
            return self._root
        root = await anyio.to_thread.run_sync(self._open_root)
        if self._root is not None:  # another task was faster
            root.close()
            return self._root
        self._root = root
        return root

    def _open_root(self) -> Root:
        try:
            if self._create:
                self._path.mkdir(parents=True, exist_ok=True)
            return Root.at(self._path)
        except FileNotFoundError as error:
            hint = "no such directory (use --create, or create=True, to make it)"
            raise NotFound(hint, key=self.location, os_errno=error.errno) from error
        except (NotADirectoryError, FileExistsError) as error:
            raise BadLocation("not a directory", key=self.location, os_errno=errno.ENOTDIR) from error
        except OSError as error:
            raise files.store_error(error, self.location) from error

    async def _run(
        self, work: Callable[Concatenate[Root, str, P], T], key: str, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Do ``work(root, key, ...)`` in a thread; its OSErrors become StoreErrors."""
        _check_names(key)

        def translated(root: Root) -> T:
            with files.translated(key):
                return work(root, key, *args, **kwargs)

        with self._root or await self._opened() as root:
            return await anyio.to_thread.run_sync(translated, root)

    async def _ask(
        self,
        work: Callable[Concatenate[Root | CachedRoot, str, P], T],
        key: str,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Do ``work(root, key, ...)`` here if it needs no waiting, else in a thread as `_run` does."""
        await self._opened()
        answer = self._answer_now(work, key, *args, **kwargs)
        return answer if answer is not None else await self._run(work, key, *args, **kwargs)

    def _answer_now(
        self,
        work: Callable[Concatenate[CachedRoot, str, P], T],
        key: str,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Do ``work(root, key, ...)`` here if it needs no waiting, else return None."""
        _check_names(key)
        if self._root is None or self._root.cached is None:
            return None
        with self._root as root:
            assert root.cached is not None
            try:
                return work(root.cached, key, *args, **kwargs)
            except BlockingIOError:  # a disk has to be waited for
                return None
            except OSError as error:
                raise files.store_error(error, key) from error

    # -- reading -------------------------------------------------------------------------------

    async def _head(self, key: str) -> ObjectMeta:
        found = (await self._ask(reading.lookup, key)).object
        if found is None:
            raise NotFound("it is a directory", key=key, os_errno=errno.EISDIR)
        return found

    async def _lookup(self, path: str) -> Lookup:
        return await self._ask(reading.lookup, path)

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        return await self._ask(reading.get, key, if_version)

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        return await self._ask(reading.get_range, key, start, stop, if_version)

    async def _open_reader(self, key: str, if_version: str | None) -> ObjectReader:
        return await self._ask(reading.open_reader, key, if_version)

    def _lookup_now(self, path: str) -> Lookup | None:
        return self._answer_now(reading.lookup, path)

    def _open_reader_now(self, key: str, if_version: str | None) -> ObjectReader | None:
        return self._answer_now(reading.open_reader, key, if_version)

    def _list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        return self._list(files.scan, prefix)

    def _list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        return self._list(files.walk, prefix)

    async def _list(
        self, read: Callable[[Root, str], Generator[ObjectMeta | PrefixMeta, None, None]], prefix: str
    ) -> AsyncGenerator[ListPage, None]:
        _check_names(prefix)
        with await self._opened() as root, closing(read(root, prefix)) as found:
            while page := await anyio.to_thread.run_sync(_next_page, found, prefix):
                yield ListPage(
                    tuple(meta for meta in page if isinstance(meta, ObjectMeta)),
                    tuple(meta for meta in page if isinstance(meta, PrefixMeta)),
                )
                if len(page) < _PAGE:  # the end: no need of a thread to hear so
                    return

    async def usage(self) -> Usage | None:
        """Return what ``statvfs(3)`` tells of the file system that the root lies on."""
        return await self._run(reading.usage, "")

    async def root(self) -> PrefixMeta:
        """Return the meta of the directory itself."""
        return await self._ask(reading.root_meta, "")

    # -- writing -------------------------------------------------------------------------------

    async def _put(
        self,
        key: str,
        body: Body,
        if_absent: bool,
        if_version: str | None,
        attributes: AttributeChange | None,
    ) -> ObjectMeta:
        def write(fd: int) -> None:
            files.write_body(fd, body)

        return await self._run(
            put_file, key, write, if_absent=if_absent, if_version=if_version, attributes=attributes
        )

    async def _delete(self, key: str) -> None:
        await self._run(changing.delete, key)

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        _check_names(target)
        return await self._run(changing.copy, source, target, if_absent)

    async def _rename(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        _check_names(target)
        await self._run(changing.rename, source, target, _flags(if_absent, exchange), directory=False)

    async def sync(self, path: str) -> None:
        """Return when what was put under `path` would survive a power loss.

        A file is written out together with the directories above it; for a directory, so is the
        whole file system that it lies on.
        """
        await self._run(changing.sync, check_prefix(path))

    # -- directories and POSIX -----------------------------------------------------------------

    async def _make_dir(self, path: str, mode: int) -> PrefixMeta:
        return await self._run(changing.make_dir, path, mode)

    async def _remove_dir(self, path: str) -> None:
        await self._run(changing.remove_dir, path)

    async def _rename_dir(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        _check_names(target)
        await self._run(changing.rename, source, target, _flags(if_absent, exchange), directory=True)

    async def _set_attributes(self, path: str, change: AttributeChange) -> None:
        await self._run(changing.set_attributes, path, change)

    async def _symlink(self, target: str, key: str) -> ObjectMeta:
        return await self._run(changing.symlink, key, target)

    async def _read_link(self, key: str) -> str:
        return await self._run(reading.read_link, key)

    async def _link(self, source: str, target: str) -> ObjectMeta:
        _check_names(target)
        return await self._run(changing.link, source, target)

    async def _make_node(self, key: str, mode: int, rdev: int) -> ObjectMeta:
        return await self._run(changing.make_node, key, mode, rdev)


def _check_names(key: str) -> None:
    if files.TEMPORARY_END in key and any(map(files.is_temporary, key.split("/"))):
        raise InvalidKey("names of this form are kept for unfinished files", key=key)


def _flags(if_absent: bool, exchange: bool) -> int:
    return RENAME_NOREPLACE * if_absent | RENAME_EXCHANGE * exchange


def _next_page(found: Iterator[ObjectMeta | PrefixMeta], prefix: str) -> list[ObjectMeta | PrefixMeta]:
    with files.translated(prefix):
        return list(islice(found, _PAGE))
