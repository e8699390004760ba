"""The journal of closed files that the store does not have yet, on the local disk.

It is a directory::

    lock        held (flock) by the mount that uses it; holds the number of its process
    log         a line for each change: which file waits, which one no longer does, with a checksum
    data-ID     the bytes of one file

1. What was recorded counts once its line is on the disk, and its line is written once its data
   file is.  So a crash leaves all that was acknowledged, and perhaps what was about to be.
2. A line may change several keys, which is how a rename is one step.  A last line that a crash
   cut short has never been.
3. Threads that record at the same time share one write to the disk.
4. A file whose data file is missing or too short is *damaged*: it is named, does not count as
   waiting, and stays in the journal until it is dropped or recorded anew.
5. Data files that no line names were about to be recorded when a crash came, and are removed; but
   if a line other than the last is not what was written they may be what it named, and are set
   aside as ``lost-ID``.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stores.errors import Corrupt
from stores.files import FileHandle, make_directory, sync_directory
from stores.journal import WriterLock, encode_line
from stores.urls import redact
from zarrmount.objects.journal_log import DATA, LOST, Change, Contents, Entry, Log, header_line

__all__ = ["Contents", "Entry", "Journal", "journal_directory", "journals"]

log = logging.getLogger(__name__)

_SPARE_LINES = 1000
"""Lines that the log may have beyond what is worth writing it anew for."""


class Journal:
    """The journal of one store, for the one mount that has it.

    Attributes
    ----------
    directory : Path
        Where it is.
    entries : dict
        The files that wait, by key, in the order of their closing.  Other threads change it.
    damaged : dict
        Those whose data file is missing or too short.
    """

    def __init__(self, directory: Path, location: str, lock: WriterLock) -> None:
        self.directory = directory
        self._location = location
        self._lock = lock
        self.entries: dict[str, Entry] = {}
        self.damaged: dict[str, Entry] = {}
        self._references: Counter[str] = Counter()
        self._log: FileHandle | None = None
        self._sound = False  # whether all lines of the log are lines that were acknowledged
        self._end = self._lines = 0
        self._spare_lines = _SPARE_LINES
        self._turn = threading.Condition()
        self._queue: list[Change] = []
        self._committing = False
        self._closed = False

    # -- life ----------------------------------------------------------------------------------

    @classmethod
    def open(cls, directory: Path, location: str) -> Journal:
        """Open the journal in a directory, and make it if there is none.

        Raises
        ------
        Denied
            If another process has it.
        Corrupt
            If it cannot be understood.
        OSError
            As the disk says.
        """
        location = redact(location)
        make_directory(directory.parent)
        lock = WriterLock(directory, f"the write-back journal of {location} is used by another mount")
        lock.acquire()
        journal = cls(directory, location, lock)
        try:
            sync_directory(directory.parent)
            journal._load()
        except BaseException:
            lock.release()
            raise
        return journal

    @classmethod
    def peek(cls, directory: Path) -> list[Entry]:
        """Return the files that wait in a journal, which a mount may be using."""
        contents = Contents.of(directory)
        return list(contents.entries.values()) if contents is not None else []

    def close(self) -> None:
        """Give the journal back, and remove it if nothing is in it."""
        with self._turn:
            if self._closed:
                return
            self._turn.wait_for(lambda: not self._committing and not self._queue)
            self._closed = True
        self._log = None
        if not (self.entries or self.damaged or self._files(LOST)):
            for path in (*self._files(DATA), self.directory / "log.new", self.directory / "log"):
                path.unlink(missing_ok=True)
        self._lock.release()

    def _load(self) -> None:
        found = Log.read(self.directory, os.O_RDWR)
        if found is None:
            self._rewrite()
        else:
            self._log, self._end, self._lines = found.handle, found.end, found.lines
            os.ftruncate(self._log.fd, self._end)
            self._sound = True
            contents = found.contents()
            self.entries, self.damaged = contents.entries, contents.damaged
            self._references.update(entry.data for entry in found.entries.values())
        for entry in self.damaged.values():
            log.error("%r waits to be stored, but %r is missing or too short", entry.key, entry.data)
        self._tidy(found is not None and found.unreadable > 0)

    def _tidy(self, unreadable: bool) -> None:
        """Remove, or set aside, the data files that no line names."""
        strays = [path for path in self._files(DATA) if path.name not in self._references]
        for path in strays:
            if unreadable:
                path.rename(self.directory / path.name.replace(DATA, LOST, 1))
            else:
                path.unlink()
        if unreadable:
            sync_directory(self.directory)
            log.error("the journal %s is damaged; %d data files set aside in it", self.directory, len(strays))
            self._shorten()

    def _files(self, prefix: str) -> list[Path]:
        return list(self.directory.glob(f"{prefix}*"))

    # -- changes -------------------------------------------------------------------------------

    def new_data(self) -> Path:
        """Return the path of a data file to be, which the caller writes and syncs."""
        return self.directory / f"{DATA}{secrets.token_hex(8)}"

    def record(self, entry: Entry, *, instead_of: str | None = None) -> None:
        """Let a file wait, in place of what waits under its key; when it returns, lastingly.

        Parameters
        ----------
        entry : Entry
            The file.  Its data file is written and synced.
        instead_of : str, optional
            Another key that goes in the same step.

        Raises
        ------
        OSError
            If it could not be recorded: all is as it was, and the data file is the caller's.
        """
        if (self.directory / entry.data).stat().st_size < entry.size:
            raise ValueError(f"the data file of {entry.key!r} is shorter than the file")
        self._commit(Change(entry=entry, gone=None if instead_of == entry.key else instead_of))

    def drop(self, key: str) -> None:
        """Let a file no longer wait: the store has it, or it was deleted; when it returns, lastingly.

        Raises
        ------
        OSError
            If that could not be recorded: the file still waits.
        """
        self._commit(Change(gone=key))

    def _commit(self, change: Change) -> None:
        """Make a change, with all those that other threads have brought meanwhile."""
        with self._turn:
            if self._closed:
                raise RuntimeError("the journal is closed")
            self._queue.append(change)
            self._turn.wait_for(lambda: change.done or not self._committing)
            batch: list[Change] = []
            if not change.done:
                self._committing = True
                batch, self._queue = self._queue, batch
        if batch:
            try:
                self._commit_batch(batch)
            except OSError as error:
                _fail(batch, error)
            finally:
                with self._turn:
                    for each in batch:
                        each.done = True
                    self._committing = False
                    self._turn.notify_all()
        if change.error is not None:
            raise OSError(change.error.errno, change.error.strerror) from change.error
        if not change.durable:  # an error that is no OSError has ended another thread's write
            raise OSError(errno.EIO, "the journal was not written")

    def _commit_batch(self, batch: list[Change]) -> None:
        if not self._sound:
            self._rewrite()
        if any(change.entry is not None and change.entry.data not in self._references for change in batch):
            sync_directory(self.directory)
        for change in batch:
            change.durable = not self._has_effect(change, batch)
        written = self._append([change for change in batch if not change.durable])
        if written:
            assert self._log is not None
            try:
                os.fdatasync(self._log.fd)
            except OSError as error:
                self._sound = False  # nobody knows what of these lines is on the disk
                _fail(written, error)
                return
            for name in self._apply(written):
                self._remove_data(name)
        if self._lines > 2 * (len(self.entries) + len(self.damaged)) + self._spare_lines:
            self._shorten()

    def _has_effect(self, change: Change, batch: list[Change]) -> bool:
        """Whether there is anything to change: a file may be dropped that does not wait."""
        key = change.gone
        return (
            change.entry is not None
            or key in self.entries
            or key in self.damaged
            or any(other.entry is not None and other.entry.key == key for other in batch)
        )

    def _append(self, batch: list[Change]) -> list[Change]:
        """Write the lines of changes; return those whose line is whole."""
        assert self._log is not None
        written = []
        for number, change in enumerate(batch):
            try:
                self._end = self._log.write(self._end, encode_line(change.line()))
            except OSError as error:
                change.error = error
                try:
                    os.ftruncate(self._log.fd, self._end)
                except OSError as worse:
                    self._sound = False
                    _fail(batch[number:], worse)
                    break
            else:
                self._lines += 1
                written.append(change)
        return written

    def _apply(self, changes: list[Change]) -> set[str]:
        """Take note of changes that are on the disk; return the data files no longer needed."""
        before: set[str] = set()
        with self._turn:
            for change in changes:
                change.durable = True
                entry = change.entry
                if entry is not None:
                    self._references[entry.data] += 1
                for key in change.keys:
                    old = self.entries.pop(key, None) or self.damaged.pop(key, None)
                    if old is not None:
                        self._references[old.data] -= 1
                        before.add(old.data)
                if entry is not None:
                    self.entries[entry.key] = entry
        unused = {name for name in before if not self._references[name]}
        for name in unused:
            del self._references[name]
        return unused

    def _remove_data(self, name: str) -> None:
        try:
            (self.directory / name).unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s is no longer needed, but cannot be removed: %s", self.directory / name, error)

    # -- the log -------------------------------------------------------------------------------

    def _shorten(self) -> None:
        """Write the log anew, without what is history; it must not fail what is acknowledged."""
        try:
            self._rewrite()
        except OSError as error:
            self._spare_lines *= 2
            log.warning("the log in %s cannot be shortened: %s", self.directory, error)

    def _rewrite(self) -> None:
        """Put a log that says what waits now in the place of the present one."""
        path = self.directory / "log.new"
        handle = FileHandle.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        waiting = [*self.damaged.values(), *self.entries.values()]
        lines = [header_line(self._location), *(Change(entry=entry).line() for entry in waiting)]
        try:
            end = handle.write(0, b"".join(encode_line(line) for line in lines))
            os.fsync(handle.fd)
            path.replace(self.directory / "log")
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._log, self._end, self._lines = handle, end, len(lines)
        self._spare_lines = _SPARE_LINES
        self._sound = False
        sync_directory(self.directory)
        self._sound = True


def _fail(changes: Iterable[Change], error: OSError) -> None:
    for change in changes:
        change.error = error


# -- places ----------------------------------------------------------------------------------------


def journal_directory(staging_dir: Path, identity: str) -> Path:
    """Return where the journal of a store is kept (see `zarrmount.identity`)."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", identity.partition("\n")[0])[-48:].strip("-.")
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:16]
    return staging_dir / "writeback" / f"{name}-{digest}"


def journals(staging_dir: Path) -> list[tuple[Path, str]]:
    """Return all journals, with the location of the store that each is of."""
    found = []
    for path in sorted((staging_dir / "writeback").glob("*")):
        try:
            read = Log.read(path)
        except Corrupt as error:
            found.append((path, f"? ({error.message})"))
        else:
            found += [] if read is None else [(path, read.location)]
    return found
