"""A store on a directory of the local disk: files as objects, with all that POSIX has."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

import anyio.lowlevel
import anyio.to_thread

from stores.base import ObjectReader, Store
from stores.errors import BadLocation, Denied, InvalidKey, NotFound, Precondition, Unavailable
from stores.keys import check_prefix
from stores.local import files
from stores.local.beneath import (
    MOST_AT_ONCE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    CachedRoot,
    Root,
    encode,
    is_on_this_machine,
    read_exactly,
    read_from_memory,
    rename_at,
    sync_file_system,
)
from stores.meta import AttributeChange, Body, Capabilities, ListPage, Lookup, ObjectMeta, PrefixMeta, Usage

__all__ = ["LocalStore"]

P = ParamSpec("P")
T = TypeVar("T")

_PAGE = 1000
_LONGEST_SPIN = 200e-6
"""Seconds to look again whether the disk has answered: what it takes to wake a thread and be woken."""
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # never waits for the writer of a FIFO
_SCAN = os.O_RDONLY | os.O_DIRECTORY


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
            with _translated(key):
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
        found = (await self._ask(_lookup, key)).object
        if found is None:
            raise NotFound("it is a directory", key=key, os_errno=errno.EISDIR)
        return found

    async def _lookup(self, path: str) -> Lookup:
        return await self._ask(_lookup, path)

    async def _get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        return await self._ask(_get, key, if_version)

    async def _get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        return await self._ask(_get_range, key, start, stop, if_version)

    async def _open_reader(self, key: str, if_version: str | None) -> ObjectReader:
        return await self._ask(_open_reader, key, if_version)

    def _lookup_now(self, path: str) -> Lookup | None:
        return self._answer_now(_lookup, path)

    def _open_reader_now(self, key: str, if_version: str | None) -> ObjectReader | None:
        return self._answer_now(_open_reader, key, if_version)

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
        return await self._run(_usage, "")

    async def root(self) -> PrefixMeta:
        """Return the meta of the directory itself."""
        return await self._ask(_root, "")

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
            files.put_file, key, write, if_absent=if_absent, if_version=if_version, attributes=attributes
        )

    async def _delete(self, key: str) -> None:
        await self._run(_delete, key)

    async def _copy(self, source: str, target: str, if_absent: bool) -> ObjectMeta:
        _check_names(target)
        return await self._run(_copy, source, target, if_absent)

    async def _rename(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        _check_names(target)
        await self._run(_rename, source, target, _flags(if_absent, exchange), directory=False)

    async def sync(self, path: str) -> None:
        """Return when what was put under `path` would survive a power loss.

        A file is written out together with the directories above it; for a directory, so is the
        whole file system that it lies on.
        """
        await self._run(_sync, check_prefix(path))

    # -- directories and POSIX -----------------------------------------------------------------

    async def _make_dir(self, path: str, mode: int) -> PrefixMeta:
        return await self._run(_make_dir, path, mode)

    async def _remove_dir(self, path: str) -> None:
        await self._run(_remove_dir, path)

    async def _rename_dir(self, source: str, target: str, if_absent: bool, exchange: bool) -> None:
        _check_names(target)
        await self._run(_rename, source, target, _flags(if_absent, exchange), directory=True)

    async def _set_attributes(self, path: str, change: AttributeChange) -> None:
        await self._run(_set_attributes, path, change)

    async def _symlink(self, target: str, key: str) -> ObjectMeta:
        return await self._run(_symlink, key, target)

    async def _read_link(self, key: str) -> str:
        return await self._run(_read_link, key)

    async def _link(self, source: str, target: str) -> ObjectMeta:
        _check_names(target)
        return await self._run(_link, source, target)

    async def _make_node(self, key: str, mode: int, rdev: int) -> ObjectMeta:
        return await self._run(_make_node, key, mode, rdev)


class _FileReader(ObjectReader):
    """Reads one open file, which a put or a delete of its key does not touch."""

    def __init__(
        self, fd: int, found: files.File, key: str, *, on_this_machine: bool, always_in_memory: bool
    ) -> None:
        self.meta = files.object_meta(key, found)
        self._fd = fd
        self._may_be_in_memory = on_this_machine
        self._always_in_memory = always_in_memory
        self._opened = found.stat
        self._reading = 0
        self._closed = False

    async def read(self, start: int, size: int) -> bytes:
        if self._closed:
            raise ValueError("the reader is closed")
        self._reading += 1
        try:
            data = await self._read_soon(start, size) if self._may_be_in_memory else None
            return data if data is not None else await anyio.to_thread.run_sync(self._read, start, size)
        finally:
            self._reading -= 1
            self._close_if_idle()

    def read_now(self, start: int, size: int) -> bytes | None:
        if self._closed:
            raise ValueError("the reader is closed")
        if not self._may_be_in_memory or size > MOST_AT_ONCE:
            return None
        return self._read_from_memory(start, size)

    async def _read_soon(self, start: int, size: int) -> bytes | None:
        """Return the bytes if the kernel has them, or gets them from the disk in no time, else None."""
        if size > MOST_AT_ONCE:
            return None
        given_up = time.perf_counter() + _LONGEST_SPIN
        while (data := self._read_from_memory(start, size)) is None:
            if time.perf_counter() > given_up or not self._may_be_in_memory:
                return None
            await anyio.lowlevel.checkpoint()  # having looked for them, the kernel has asked the disk
        return data

    def _read(self, start: int, size: int) -> bytes:
        with _translated(self.meta.key):
            data = read_exactly(self._fd, start, size)
            self._check_unchanged()
            return data

    def _read_from_memory(self, start: int, size: int) -> bytes | None:
        try:
            data = read_from_memory(self._fd, start, size, always_there=self._always_in_memory)
            if data is not None:
                self._check_unchanged()
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise files.store_error(error, self.meta.key) from error
            self._may_be_in_memory = False  # the file system cannot tell: do not ask again
            return None
        return data

    def _check_unchanged(self) -> None:
        if files.changed(self._opened, os.fstat(self._fd)):
            raise Precondition("it was written to since it was opened", key=self.meta.key)

    async def aclose(self) -> None:
        self._closed = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closed and not self._reading and self._fd >= 0:  # else the last read closes it
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


# -- what runs in threads --------------------------------------------------------------------------


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise files.store_error(error, key) from error


def _check_names(key: str) -> None:
    if files.TEMPORARY_END in key and any(map(files.is_temporary, key.split("/"))):
        raise InvalidKey("names of this form are kept for unfinished files", key=key)


def _flags(if_absent: bool, exchange: bool) -> int:
    return RENAME_NOREPLACE * if_absent | RENAME_EXCHANGE * exchange


def _next_page(found: Iterator[ObjectMeta | PrefixMeta], prefix: str) -> list[ObjectMeta | PrefixMeta]:
    with _translated(prefix):
        return list(islice(found, _PAGE))


def _lookup(root: Root | CachedRoot, path: str) -> Lookup:
    fd = root.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        found = files.look_into(fd)
    finally:
        os.close(fd)
    if found.is_directory:
        return Lookup(prefix=files.prefix_meta(path, found.stat))
    return Lookup(object=files.object_meta(path, found))


def _root(root: Root | CachedRoot, path: str) -> PrefixMeta:
    return files.prefix_meta(path, os.fstat(root.fd))


def _usage(root: Root, path: str) -> Usage:  # noqa: ARG001 - called as the others
    room = os.fstatvfs(root.fd)
    return Usage(
        total_bytes=room.f_blocks * room.f_frsize,
        free_bytes=room.f_bfree * room.f_frsize,
        available_bytes=room.f_bavail * room.f_frsize,
        total_files=room.f_files,
        free_files=room.f_ffree,
    )


def _open_file(root: Root | CachedRoot, key: str, if_version: str | None) -> tuple[int, files.File]:
    fd = root.open(key, _READ)
    try:
        return fd, _check_file(key, files.look_into(fd), if_version)
    except BaseException:
        os.close(fd)
        raise


def _check_file(key: str, found: files.File, if_version: str | None) -> files.File:
    if found.is_directory:
        raise NotFound("it is a directory", key=key, os_errno=errno.EISDIR)
    if not stat.S_ISREG(found.stat.st_mode):
        raise Denied("a FIFO, socket or device is not read", key=key, os_errno=errno.ENXIO)
    files.check_version(key, found, if_version)
    return found


@contextmanager
def _file(root: Root | CachedRoot, key: str, if_version: str | None) -> Iterator[tuple[int, files.File]]:
    fd, found = _open_file(root, key, if_version)
    try:
        yield fd, found
    finally:
        os.close(fd)


def _open_reader(root: Root | CachedRoot, key: str, if_version: str | None) -> ObjectReader:
    fd, found = _open_file(root, key, if_version)
    if isinstance(root, CachedRoot):
        return _FileReader(fd, found, key, on_this_machine=True, always_in_memory=root.is_memory)
    return _FileReader(fd, found, key, on_this_machine=is_on_this_machine(fd), always_in_memory=False)


def _get(root: Root | CachedRoot, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
    for _ in range(10):
        with _file(root, key, if_version) as (fd, found):
            data = root.read(fd, 0, found.stat.st_size)
            if len(data) == found.stat.st_size and not files.changed(found.stat, os.fstat(fd)):
                return data, files.object_meta(key, found)
    raise Unavailable("another program is writing to it", key=key)


def _get_range(root: Root | CachedRoot, key: str, start: int, stop: int, if_version: str | None) -> bytes:
    with _file(root, key, if_version) as (fd, _):
        data = root.read(fd, start, stop - start)
        files.check_version(key, files.look_into(fd), if_version)
        return data


def _delete(root: Root, key: str) -> None:
    with root.parent(key) as (directory, name), files.locked((directory, name)):
        if files.look_at(directory, name).is_directory:
            raise NotFound("it is a directory", key=key, os_errno=errno.EISDIR)
        os.unlink(name, dir_fd=directory)


def _copy(root: Root, source: str, target: str, if_absent: bool) -> ObjectMeta:
    with _file(root, source, None) as (opened, found):

        def write(fd: int) -> None:
            files.copy_bytes(opened, fd)
            if files.changed(found.stat, os.fstat(opened)):
                raise Unavailable("another program wrote to it while it was copied", key=source)

        with _translated(target):
            return files.put_file(root, target, write, if_absent=if_absent)


def _rename(root: Root, source: str, target: str, flags: int, *, directory: bool) -> None:
    if f"{target}/".startswith(f"{source}/") and source != target:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # before anything is made for the target
    with root.parent(source) as old, root.parent(target, create=not flags & RENAME_EXCHANGE) as new:
        is_directory = files.look_at(*old).is_directory
        if is_directory != directory:
            wrong = errno.EISDIR if is_directory else errno.ENOTDIR
            raise NotFound(
                "no such directory" if directory else "it is a directory", key=source, os_errno=wrong
            )
        with _translated(target), files.locked(old, new):
            rename_at(*old, *new, flags)


def _sync(root: Root, path: str) -> None:
    with root.parent(path) as (directory, name):
        found = files.look_at(directory, name)
    if found.is_directory:
        with root.opened(path, _SCAN) as fd:
            sync_file_system(fd)
        return
    if stat.S_ISREG(found.stat.st_mode):
        with root.opened(path, _READ | os.O_NOFOLLOW) as fd:
            os.fsync(fd)
    above = path
    while above:
        above = above.rpartition("/")[0]
        with root.opened(above, _SCAN) as fd:
            os.fsync(fd)


def _make_dir(root: Root, path: str, mode: int) -> PrefixMeta:
    with root.parent(path, create=True) as (directory, name):
        os.mkdir(name, stat.S_IMODE(mode), dir_fd=directory)
        return files.prefix_meta(path, files.look_at(directory, name).stat)


def _remove_dir(root: Root, path: str) -> None:
    with root.parent(path) as (directory, name):
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            with root.opened(path, _SCAN | os.O_NOFOLLOW) as fd:
                swept = files.sweep(fd)
            if not swept:
                raise
            os.rmdir(name, dir_fd=directory)


def _set_attributes(root: Root, path: str, change: AttributeChange) -> None:
    with root.parent(path) as (directory, name):
        files.look_at(directory, name)  # a change of nothing also says NotFound
        files.set_attributes_at(directory, name, change)


def _symlink(root: Root, key: str, target: str) -> ObjectMeta:
    with root.parent(key, create=True) as (directory, name):
        os.symlink(encode(target), name, dir_fd=directory)
        return files.object_meta(key, files.look_at(directory, name))


def _read_link(root: Root, key: str) -> str:
    with root.parent(key) as (directory, name):
        return os.readlink(name, dir_fd=directory).decode("utf-8", "surrogateescape")


def _link(root: Root, source: str, target: str) -> ObjectMeta:
    with root.parent(source) as old, root.parent(target, create=True) as new:
        files.look_at(*old)
        with _translated(target), files.locked(new):
            os.link(old[1], new[1], src_dir_fd=old[0], dst_dir_fd=new[0], follow_symlinks=False)
        return files.object_meta(target, files.look_at(*new))


def _make_node(root: Root, key: str, mode: int, rdev: int) -> ObjectMeta:
    with root.parent(key, create=True) as (directory, name):
        os.mknod(name, mode, rdev, dir_fd=directory)
        return files.object_meta(key, files.look_at(directory, name))
