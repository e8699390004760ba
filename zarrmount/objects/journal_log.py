"""The log of a journal: its lines, and what waits according to them."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from stores.errors import Corrupt
from stores.files import FileHandle
from stores.journal import decode_lines
from stores.meta import AttributeChange, ObjectMeta

__all__ = ["DATA", "LOST", "Change", "Contents", "Entry", "Log", "header_line"]

DATA, LOST = "data-", "lost-"
"""What the names of data files begin with, and of those that were set aside."""

_FORMAT = "zarrmount-writeback-1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A closed file that the store does not have yet.

    Attributes
    ----------
    key : str
        Where it belongs.
    size : int
        Bytes.
    data : str
        Name of its data file in the journal's directory.
    base : ObjectMeta or None
        The version that it replaces (without its ``posix``); None: it is a new file.
    anyway : bool
        Replaces whatever is there.
    attributes : AttributeChange
        What the file is to be given with its bytes.
    sent : tuple of str
        Digests (hex) of other contents that were sent under the key and not acknowledged.
    closed_ns : int
        When it was closed, nanoseconds since 1970.
    """

    key: str
    size: int
    data: str
    base: ObjectMeta | None
    anyway: bool = False
    attributes: AttributeChange = dataclasses.field(default_factory=AttributeChange)
    sent: tuple[str, ...] = ()
    closed_ns: int


@dataclasses.dataclass(slots=True, eq=False)
class Change:
    """What one line changes.

    Attributes
    ----------
    entry : Entry or None
        What waits from now on, in place of what waited under its key.
    gone : str or None
        A key under which nothing waits any more.
    done : bool
        Whether it has been dealt with, well or not.
    durable : bool
        Whether it is on the disk.
    error : OSError or None
        Why it is not.
    """

    entry: Entry | None = None
    gone: str | None = None
    done: bool = False
    durable: bool = False
    error: OSError | None = None

    @property
    def keys(self) -> list[str]:
        """The keys whose entries are replaced or go."""
        keys = [self.entry.key] if self.entry is not None else []
        return keys if self.gone is None else [*keys, self.gone]

    def line(self) -> dict[str, Any]:
        """Return the record that its line holds."""
        line: dict[str, Any] = {} if self.gone is None else {"gone": self.gone}
        if self.entry is not None:
            line["entry"] = dataclasses.asdict(self.entry)
            if self.entry.base is not None:
                line["entry"]["base"].pop("posix")
        return line

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> Change:
        """Return the change that the record of a line tells of."""
        given = line.get("entry")
        entry = None
        if given is not None:
            base = given["base"] and ObjectMeta(**given["base"])
            attributes = AttributeChange(**given["attributes"])
            entry = Entry(**given | {"base": base, "attributes": attributes, "sent": tuple(given["sent"])})
            if not re.fullmatch(rf"{DATA}\w+", entry.data):
                raise ValueError("that is no name of a data file")
        return cls(entry, line.get("gone"))


def header_line(location: str) -> dict[str, Any]:
    """Return the first line of a log."""
    return {"format": _FORMAT, "location": location}


class Log:
    """A log as it was read.

    Attributes
    ----------
    entries : dict
        By key, what waits according to it.
    end, lines : int
        Where its last whole line ends; how many there are.
    unreadable : int
        Lines that are not what was written.
    """

    def __init__(self, directory: Path, handle: FileHandle) -> None:
        self._directory = directory
        self.handle = handle
        self.entries: dict[str, Entry] = {}
        self.end = self.lines = self.unreadable = 0
        text = handle.read(0, handle.size)
        self._size = len(text)
        records = decode_lines(text)
        _, self.end, header = next(records, (0, 0, None))
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise Corrupt(f"the journal '{directory}' cannot be understood; move it away to begin a new one")
        self.location = str(header["location"])
        for _, self.end, record in records:
            self._replay(record)
        self.lines += 1

    @classmethod
    def read(cls, directory: Path, mode: int = os.O_RDONLY) -> Log | None:
        """Read the log in a directory; None if there is none."""
        try:
            handle = FileHandle.open(directory / "log", mode)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return cls(directory, handle)

    def _replay(self, record: Any) -> None:
        self.lines += 1
        if record is None:
            self.unreadable += 1
            return
        try:
            change = Change.from_line(record)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the journal '{self._directory}' holds a line that is not understood") from error
        for key in change.keys:
            self.entries.pop(key, None)
        if change.entry is not None:
            self.entries[change.entry.key] = change.entry

    def contents(self) -> Contents:
        """Return what the journal holds, as far as the data files are there."""
        damaged = {key: entry for key, entry in self.entries.items() if not self._has_data(entry)}
        entries = {key: entry for key, entry in self.entries.items() if key not in damaged}
        return Contents(self.location, entries, damaged, sorted(self._directory.glob(f"{LOST}*")))

    def _has_data(self, entry: Entry) -> bool:
        try:
            return (self._directory / entry.data).stat().st_size >= entry.size
        except FileNotFoundError:
            return False

    def is_current(self) -> bool:
        """Whether nothing was written to the log since it was read."""
        try:
            named = (self._directory / "log").stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self.handle.fd)) and named.st_size == self._size


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What a journal holds.

    Attributes
    ----------
    location : str
        Of the store, for people.
    entries : dict
        The files that wait, by key, in the order of their closing.
    damaged : dict
        Those whose data file is missing or too short.
    lost : list of Path
        Data files set aside: their lines cannot be read.
    """

    location: str
    entries: dict[str, Entry]
    damaged: dict[str, Entry]
    lost: list[Path]

    @classmethod
    def of(cls, directory: Path) -> Contents | None:
        """Read the journal in a directory, which a mount may be using; None if there is none.

        Raises
        ------
        Corrupt
            If it cannot be understood.
        """
        while True:
            found = Log.read(directory)
            if found is None:
                return None
            contents = found.contents()
            if not contents.damaged or found.is_current():
                return contents  # else the data files were removed after their lines were read
