"""Changes to an archive that are not in it yet: a journal, and a file with the new bytes.

They lie in the directory ``NAME.zip.pending`` beside ``NAME.zip``::

    lock         held (flock) by the process that writes; holds its number
    log          one line for each change: what becomes of which keys, with a checksum
    data.ID      the bytes of new objects, one after another

The first line of the log tells the identity of the archive that the changes are for, and the name
of the data file.  A change counts from the moment when its line is whole: a change that a crash cut
short has never been.  A line may change several keys, which is how a rename is one step.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from stores.errors import Corrupt
from stores.files import FileHandle, sync_directory
from stores.journal import decode_lines, encode_line
from stores.meta import Body
from stores.zipped.catalog import Changed, Extent
from stores.zipped.source import FileSource

__all__ = ["Change", "Pending", "pending_directory"]

Change = tuple[str, Extent | Changed | None]
"""What a key becomes; None if it is deleted."""

_FORMAT = "zip-pending-1"
_STEP = 1 << 20


def pending_directory(archive: Path) -> Path:
    """Return the directory where the changes to `archive` wait."""
    return archive.with_name(archive.name + ".pending")


class Pending:
    """The journal of one state of an archive.

    Attributes
    ----------
    base : str
        The identity of that archive.
    data : FileSource
        The bytes of new objects.
    merged : str or None
        The identity of the archive that the changes have been, or were about to be, merged into.
    """

    def __init__(self, directory: Path, header: dict[str, Any], log: FileHandle, data: FileHandle) -> None:
        self._directory = directory
        self._log = log
        self._data_path = directory / header["data"]
        self._log_size = log.size
        self._data_size = data.size
        self.base: str = header["base"]
        self.data = FileSource(data)
        self.merged: str | None = None
        self.last_tick = 0
        self._changed = False
        self._synced = True
        self.changes: list[Change] = []
        """What was in the journal when it was loaded."""

    # -- life ----------------------------------------------------------------------------------

    @classmethod
    def prepare(cls, directory: Path, base: str) -> Self:
        """Make a new journal that takes the place of the present one when it is activated."""
        header = {"format": _FORMAT, "base": base, "data": f"data.{secrets.token_hex(6)}"}
        data = FileHandle.open(directory / header["data"], os.O_RDWR | os.O_CREAT | os.O_EXCL)
        log = FileHandle.open(directory / "log.new", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        log.write(0, encode_line(header))
        os.fsync(log.fd)
        sync_directory(directory)
        return cls(directory, header, log, data)

    def activate(self) -> None:
        """Be the journal, in one step, and remove what belonged to others."""
        (self._directory / "log.new").replace(self._directory / "log")
        sync_directory(self._directory)
        for stale in self._directory.glob("data.*"):
            if stale != self._data_path:
                stale.unlink()

    @classmethod
    def load(cls, directory: Path, *, writable: bool) -> Self | None:
        """Open the journal that is there; None without one.

        Raises
        ------
        Corrupt
            If there is one that cannot be understood.
        """
        mode = os.O_RDWR if writable else os.O_RDONLY
        try:
            log = FileHandle.open(directory / "log", mode)
        except (FileNotFoundError, NotADirectoryError):
            return None
        lines = decode_lines(log.read(0, log.size))
        _, header_end, header = next(lines, (0, 0, None))
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise Corrupt(f"the journal of pending changes '{directory / 'log'}' cannot be understood")
        data = FileHandle.open(directory / header["data"], mode)
        pending = cls(directory, header, log, data)
        pending._log_size = header_end
        pending._replay(lines)
        if writable:
            os.ftruncate(log.fd, pending._log_size)
        return pending

    def _replay(self, lines: Iterator[tuple[int, int, Any]]) -> None:
        """Collect the changes; stop where, after a power loss, bytes of one have not arrived."""
        unsure: list[tuple[int, list[Change]]] = []
        for start, end, record in lines:
            if record is None:
                break
            if "changes" in record:
                unsure.append((start, [_decode_change(change) for change in record["changes"]]))
            elif "synced" in record:
                self._accept(unsure)
                unsure = []
            else:
                self.merged = record["merging"]
            self._log_size = end
        for number, (start, changes) in enumerate(unsure):
            if not all(self._arrived(entry) for _, entry in changes):
                self._log_size = start
                unsure = unsure[:number]
                break
        self._accept(unsure)
        self._synced = not unsure

    def _accept(self, records: list[tuple[int, list[Change]]]) -> None:
        for _, changes in records:
            self.changes += changes
            self._changed = True
            for _, entry in changes:
                if entry is not None:
                    self.last_tick = max(self.last_tick, entry.tick or 0)

    def _arrived(self, entry: Extent | Changed | None) -> bool:
        if not isinstance(entry, Extent):
            return True
        crc = done = 0
        while done < entry.size:
            data = self.data.handle.read(entry.offset + done, min(_STEP, entry.size - done))
            if not data:
                return False
            crc = zlib.crc32(data, crc)
            done += len(data)
        return crc == entry.crc

    def remove(self) -> None:
        """Remove the files; readers of the data go on reading."""
        for name in ("log", "log.new"):
            (self._directory / name).unlink(missing_ok=True)
        for stale in self._directory.glob("data.*"):
            stale.unlink()

    # -- changes -------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of data, those of objects replaced meanwhile among them."""
        return self._data_size

    @property
    def empty(self) -> bool:
        """Whether there has been no change."""
        return not self._changed

    def store(self, body: Body, tick: int) -> Extent:
        """Write the bytes of an object; nothing refers to them yet."""
        start = end = self._data_size
        crc = 0
        for piece in _pieces(body):
            crc = zlib.crc32(piece, crc)
            end = self.data.handle.write(end, piece)
        self._data_size = end
        return Extent(start, end - start, crc, tick)

    def commit(self, changes: list[Change]) -> None:
        """Make changes, all or none."""
        self._append({"changes": [_encode_change(key, entry) for key, entry in changes]})
        self._changed = True
        self._synced = False

    def announce_merge(self, identity: str) -> None:
        """Note, lastingly, what the archive will be once these changes are in it."""
        self._append({"merging": identity})
        os.fsync(self._log.fd)
        self.merged = identity

    def sync(self) -> None:
        """Make all changes so far survive a power loss."""
        if self._synced:
            return
        os.fsync(self.data.handle.fd)
        self._append({"synced": self._data_size})
        os.fsync(self._log.fd)
        self._synced = True

    def _append(self, record: dict[str, Any]) -> None:
        try:
            self._log_size = self._log.write(self._log_size, encode_line(record))
        except OSError:
            os.ftruncate(self._log.fd, self._log_size)
            raise


def _pieces(body: Body) -> Iterator[bytes | bytearray | memoryview]:
    if isinstance(body, memoryview):
        yield body if body.contiguous else body.tobytes()
    elif isinstance(body, bytes | bytearray):
        yield body
    else:
        yield from _read_pieces(body)


def _read_pieces(body: BinaryIO) -> Iterator[bytes]:
    body.seek(0)
    while piece := body.read(_STEP):
        yield piece


# -- the lines of the log ----------------------------------------------------------------------


def _encode_change(key: str, entry: Extent | Changed | None) -> list[Any]:
    if entry is None:
        return [key]
    if isinstance(entry, Extent):
        return [key, "data", entry.offset, entry.size, entry.crc, entry.tick]
    return [key, "member", entry.at, entry.tick]


def _decode_change(change: list[Any]) -> Change:
    match change:
        case [str(key)]:
            return key, None
        case [str(key), "data", int(offset), int(size), int(crc), int(tick)]:
            return key, Extent(offset, size, crc, tick)
        case [str(key), "member", int(at), tick]:
            return key, Changed(at, tick)
    raise Corrupt("the journal of pending changes holds a line that is not understood")
