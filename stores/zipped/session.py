"""An archive in a file, from opening to closing: what is on the disk, and in which order it changes.

At every moment the archive at its path is whole, and is either the one before a merge or the one
after it.  The order of a merge is: write and sync the new archive; note its identity in the journal;
rename it over the old one; begin a new journal.  Whoever opens the archive compares its identity
with the two that the journal knows, and so tells changes that are pending from those that are merged.

Everything here blocks, and runs in worker threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from stores.errors import (
    AlreadyExists,
    Corrupt,
    NotFound,
    Precondition,
    ReadOnly,
    StoreError,
    Unavailable,
)
from stores.files import FileHandle, sync_directory
from stores.journal import WriterLock
from stores.zipped.archive import Archive
from stores.zipped.catalog import Catalog
from stores.zipped.merge import Tell, all_dead_bytes, dead_bytes, empty_archive, write_archive
from stores.zipped.pending import Change, Pending, pending_directory
from stores.zipped.source import FileSource, from_os_error
from stores.zipped.view import View

__all__ = ["Session", "open_view"]

_log = logging.getLogger(__name__)

MERGE_BYTES = 64 << 20
"""Pending bytes from which on they are merged, unless the archive is larger than that."""
COMPACT_BYTES = 1 << 20
COMPACT_SHARE = 0.2
"""Dead bytes, and their share of the archive, from which on a merge leaves them behind."""

_ATTEMPTS = 100


@contextlib.contextmanager
def _told(path: Path, key: str | None = None, *, is_open: bool = False) -> Iterator[None]:
    """Let only the store's errors out, about `key` or else the archive `path`."""
    try:
        yield
    except OSError as error:
        told = from_os_error(error, "the archive cannot be used", key or str(path))
        if is_open and isinstance(told, NotFound):
            # what is missing is a file of ours, and not the key that was asked for
            told = Unavailable(told.message, key=told.key, os_errno=told.os_errno)
        raise told from error
    except StoreError as error:
        error.key = error.key or key or str(path)
        raise


def open_view(path: Path) -> View:
    """Open an archive to read, with the changes that are pending on it.

    A writer may merge at any time: the journal that was read belongs to the archive that was read
    if that is still the archive after both were.
    """
    with _told(path):
        for _ in range(_ATTEMPTS):
            archive = Archive.open_file(FileSource(FileHandle.open(path, os.O_RDONLY)))
            try:
                pending = Pending.load(pending_directory(path), writable=False)
                if _is_named(path, archive):
                    return _make_view(path, archive, pending)
            except FileNotFoundError:
                continue
        raise Unavailable("the archive changes too often to be opened")


def _is_named(path: Path, archive: Archive) -> bool:
    source = archive.source
    return isinstance(source, FileSource) and os.path.samestat(path.stat(), os.fstat(source.handle.fd))


def _make_view(path: Path, archive: Archive, pending: Pending | None) -> View:
    entries = archive.entries()
    if pending is not None and pending.base != archive.identity:
        if pending.merged != archive.identity:
            raise Corrupt(
                "the archive was changed by another program while changes to it were pending: "
                f"to go on without these, remove '{pending_directory(path)}'"
            )
        pending = None
    if pending is not None:
        for key, entry in pending.changes:
            if entry is None:
                entries.pop(key, None)
            else:
                entries[key] = entry
    data = None if pending is None else pending.data
    return View(archive, data, Catalog(entries), archive.identity)


class Session:
    """The one writer of an archive.

    Parameters
    ----------
    path : Path
        Of the archive, with symbolic links resolved.
    mode : {"a", "w", "x"}
    create : bool
        Make an archive that is missing, in mode "a".
    compression : int
        Of new members.

    Attributes
    ----------
    view : View
        The present state.
    """

    def __init__(self, path: Path, mode: str, *, create: bool, compression: int) -> None:
        self._path = path
        self._directory = pending_directory(path)
        self._compression = compression
        self._mutex = threading.RLock()
        self._lock = WriterLock(self._directory, "is being written by another process")
        self._broken = False
        self._retry_size = 0
        with _told(path):
            self._check_place(mode, create=create)
            try:
                self._lock.acquire()
            except OSError as error:
                raise from_os_error(error, "no pending changes can be kept beside the archive") from error
            try:
                self._open(mode)
            except BaseException:
                self._lock.release()
                raise

    # -- opening -------------------------------------------------------------------------------

    def _check_place(self, mode: str, *, create: bool) -> None:
        exists = self._path.exists()
        if exists and mode == "x":
            raise AlreadyExists("there is such an archive already")
        if not exists and mode == "a" and not create:
            raise NotFound("there is no such archive")
        parent = self._path.parent
        if not parent.is_dir():
            raise NotFound(f"there is no directory '{parent}'")
        for place, name in ((self._path, "archive"), (parent, "directory of the archive")):
            if place.exists() and not os.access(place, os.W_OK):
                raise ReadOnly(f"the {name} cannot be written: open it to read only")

    def _open(self, mode: str) -> None:
        self._new_path.unlink(missing_ok=True)  # of a merge that did not come to its end
        pending = Pending.load(self._directory, writable=True)
        if mode != "a" or not self._path.exists():
            if mode == "x" and self._path.exists():
                raise AlreadyExists("there is such an archive already")
            if mode != "w" and pending is not None:
                raise Corrupt(
                    "the archive is gone, but there are pending changes to it: "
                    f"to begin anew without these, remove '{self._directory}'"
                )
            self._write_empty(pending)
        archive = Archive.open_file(FileSource(FileHandle.open(self._path, os.O_RDONLY)))
        self.view = _make_view(self._path, archive, pending)
        if pending is None or pending.base != archive.identity:
            pending = Pending.prepare(self._directory, archive.identity)
            pending.activate()
            self.view.data = pending.data
        sync_directory(self._path.parent)
        self._pending = pending
        self._broken = False
        self._stamp = self._stat()
        self._last_tick = pending.last_tick

    def _write_empty(self, pending: Pending | None) -> None:
        handle = FileHandle.open(self._new_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        handle.write(0, empty_archive())
        os.fsync(handle.fd)
        identity = Archive.open_file(FileSource(handle)).identity
        self._install(identity, pending)

    @property
    def _new_path(self) -> Path:
        return self._directory / "new.zip"

    def _install(self, identity: str, pending: Pending | None) -> None:
        """Let the new archive take the place of the old one; `pending` is what is merged in it."""
        with contextlib.suppress(FileNotFoundError):
            old = self._path.stat()
            if os.geteuid() == 0:
                os.chown(self._new_path, old.st_uid, old.st_gid)
            self._new_path.chmod(old.st_mode & 0o7777)
        if pending is not None:
            pending.announce_merge(identity)
        self._broken = True  # until the journal is the one that belongs to the new archive
        self._new_path.replace(self._path)
        sync_directory(self._path.parent)

    def _stat(self) -> tuple[int, int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    # -- changing ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changing(self, key: str | None = None) -> Iterator[Pending]:
        """Hold all others off, and tell errors as those of `key`; use `commit` inside."""
        with self._mutex, _told(self._path, key, is_open=True):
            if self._broken:
                raise Unavailable("the archive was left half way through a merge: close it and open it again")
            yield self._pending

    def tick(self) -> int:
        """Return the time, in units of 100 ns, later than ever before."""
        self._last_tick = max(time.time_ns() // 100, self._last_tick + 1)
        return self._last_tick

    def commit(self, changes: list[Change]) -> None:
        """Make changes, in one step, and merge if there are many bytes pending by now."""
        self._pending.commit(changes)
        self.view.catalog.apply(changes)
        limit = max(MERGE_BYTES, self.view.archive.source.size, self._retry_size)
        if self._pending.size <= limit:
            return
        try:
            self.merge()
        except StoreError as error:
            # the change itself is safe in the journal: only its way into the archive is not open
            self._retry_size = 2 * self._pending.size
            _log.warning("changes stay pending, because merging them failed: %s", error)

    def sync(self) -> None:
        """Make all changes so far survive a power loss."""
        with self.changing() as pending:
            pending.sync()

    # -- merging -------------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Bytes of the changes that wait to be merged."""
        with self.changing() as pending:
            return pending.size

    def is_compact(self) -> bool:
        """Whether no change is pending, and no bytes worth mentioning are dead."""
        with self.changing() as pending:
            return pending.empty and not all_dead_bytes(self.view)

    def merge(self, *, compact: bool | None = None, tell: Tell | None = None) -> None:
        """Bring the pending changes into the archive.

        Parameters
        ----------
        compact : bool, optional
            Leave dead bytes behind; by default only if they are many.
        tell : callable, optional
            Told how far it is.
        """
        with self.changing() as pending:
            if pending.empty and not compact:
                return
            if self._stat() != self._stamp:
                raise Precondition(
                    f"the archive was changed by another program; the changes stay in '{self._directory}'"
                )
            if compact is None:
                dead = dead_bytes(self.view)
                compact = dead >= max(COMPACT_BYTES, COMPACT_SHARE * self.view.archive.source.size)
            try:
                archive = write_archive(
                    self.view, self._new_path, compact=compact, compression=self._compression, tell=tell
                )
                following = Pending.prepare(self._directory, archive.identity)
                entries = archive.entries()
                self._install(archive.identity, pending)
            except BaseException:
                self._new_path.unlink(missing_ok=True)
                raise
            following.activate()
            self._pending = following
            self._stamp = self._stat()
            self.view = View(archive, following.data, Catalog(entries), self.view.tag)
            self._retry_size = 0
            self._broken = False

    def close(self, *, merge: bool = True) -> None:
        """Merge, and leave nothing but the archive; if that fails, the changes stay pending.

        Parameters
        ----------
        merge : bool
            False leaves pending what is.
        """
        with self._mutex:
            try:
                if not self._broken and (merge or self._pending.empty):
                    self._merge_at_last()
                    with _told(self._path, is_open=True):
                        self._pending.remove()
            finally:
                with _told(self._path, is_open=True):
                    self._lock.release()

    def _merge_at_last(self) -> None:
        try:
            self.merge()
        except StoreError as error:
            if str(self._directory) in error.message:
                raise
            waiting = f"the changes wait in '{self._directory}' until it is opened again"
            kind = type(error)
            raise kind(f"{error.message}; {waiting}", key=error.key, os_errno=error.os_errno) from error
