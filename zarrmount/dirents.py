"""Entries of a listing that tell the kernel a name, and do not make it remember an inode.

The kernel asks for entries with attributes (READDIRPLUS) and then holds an inode of each, as we
must.  An entry whose node number is 0 is only a name to it ("the server did not want to return
attributes").  What a listing gives away that only says what *could* be there must be of that kind:
there may be a hundred million.  The library has one field for the node number and for the number
that programs see, which must not be 0; so the former is set where it lies, if it is where it should be.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["EntryLike", "NameEntries"]

UNKNOWN_INODE = 0xFFFFFFFF
"""What libfuse gives as the number of a file that nobody has looked up."""
_MARK = 0x5A61_7272_6D6F_756E


class EntryLike(Protocol):
    """The attributes of an entry, as far as a name needs them."""

    st_ino: int
    st_mode: int


Entry = TypeVar("Entry", bound=EntryLike)


class NameEntries(Generic[Entry]):
    """Makes entries that are only names.

    Parameters
    ----------
    make : callable
        Returns an ``EntryAttributes`` of the FUSE library.
    """

    def __init__(self, make: Callable[[], Entry]) -> None:
        self._make = make
        self._offset = _offset_of_node_number(make())
        self._made: dict[int, Entry] = {}

    def entry(self, mode: int) -> Entry | None:
        """Return the entry of a file of this kind; None if this library's entries are made differently."""
        if self._offset is None:
            return None
        entry = self._made.get(mode)
        if entry is None:
            entry = self._made[mode] = self._make()
            entry.st_ino, entry.st_mode = UNKNOWN_INODE, mode
            _node_number(entry, self._offset).value = 0
        return entry


def _node_number(entry: EntryLike, offset: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(id(entry) + offset)


def _offset_of_node_number(entry: EntryLike) -> int | None:
    """Return where an entry holds the node number: it stands before the other one of the same value."""
    entry.st_ino = _MARK
    raw = ctypes.string_at(id(entry), type(entry).__basicsize__)
    mark = _MARK.to_bytes(8, "little")
    places = [at for at in range(0, len(raw) - 7, 8) if raw[at : at + 8] == mark]
    if len(places) != 2:
        return None
    _node_number(entry, places[0]).value = 1
    return places[0] if entry.st_ino == 1 else None
