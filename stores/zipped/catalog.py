"""What is in the store: every key, where its bytes are, and the tree that the keys make."""

from __future__ import annotations

import bisect
import dataclasses
import threading
from collections.abc import Iterator, Sequence

__all__ = ["Catalog", "Changed", "Entry", "Extent"]

_MANY = 1000
"""So many changes at once cost less by sorting all keys anew."""


@dataclasses.dataclass(frozen=True, slots=True)
class Extent:
    """An object among the pending changes: a run of bytes in their data file."""

    offset: int
    size: int
    crc: int
    tick: int


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """A member of the archive under another key: the place of its record, and a new time or None."""

    at: int
    tick: int | None


Entry = int | Extent | Changed
"""Where the bytes of a key are; a number is the place of a record in the archive's directory."""


class Catalog:
    """A map from keys to entries that knows their order, safe for threads.

    A key that ends with a slash is an entry for a directory.  A million keys take a dictionary and
    a sorted list: what is below a prefix is found by bisection, and nothing else is kept for it.
    """

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        self._keys = sorted(entries)
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """Return the entry of `key`."""
        return self._entries.get(key)

    def items(self) -> list[tuple[str, Entry]]:
        """Return all keys and entries as they are now."""
        with self._lock:
            return list(self._entries.items())

    def apply(self, changes: Sequence[tuple[str, Entry | None]]) -> None:
        """Set keys, or remove those whose entry is None, in one step."""
        with self._lock:
            for key, entry in changes:
                if len(changes) < _MANY:
                    self._order(key, entry)
                if entry is None:
                    self._entries.pop(key, None)
                else:
                    self._entries[key] = entry
            if len(changes) >= _MANY:
                self._keys = sorted(self._entries)

    def _order(self, key: str, entry: Entry | None) -> None:
        """Insert or remove a key among the sorted ones, before `_entries` is changed."""
        if entry is None and key in self._entries:
            del self._keys[bisect.bisect_left(self._keys, key)]
        elif entry is not None and key not in self._entries:
            bisect.insort(self._keys, key)

    def has_below(self, prefix: str) -> bool:
        """Whether there is anything below `prefix`, or an entry for it as a directory."""
        return self.count_below(prefix) > 0

    def count_below(self, prefix: str) -> int:
        """Return how many entries are below `prefix`, one for it as a directory among them."""
        with self._lock:
            return len(self._span(prefix))

    def all_below(self, prefix: str) -> list[tuple[str, Entry]]:
        """Return all entries below `prefix`, one for it as a directory among them."""
        with self._lock:
            return [(self._keys[at], self._entries[self._keys[at]]) for at in self._span(prefix)]

    def _span(self, prefix: str) -> range:
        first = bisect.bisect_left(self._keys, prefix + "/")
        return range(first, bisect.bisect_left(self._keys, prefix + "0", first))  # "0" follows "/"

    def children(self, prefix: str, count: int) -> Iterator[tuple[list[tuple[str, Entry]], list[str]]]:
        """Iterate over pages, of about `count` names, of the objects and prefixes directly below `prefix`."""
        base = prefix + "/" if prefix else ""
        position = base
        more = True
        while more:
            objects: list[tuple[str, Entry]] = []
            prefixes: list[str] = []
            with self._lock:
                at = bisect.bisect_left(self._keys, position)
                more = False
                while at < len(self._keys) and self._keys[at].startswith(base):
                    key = self._keys[at]
                    if len(objects) + len(prefixes) == count:
                        position, more = key, True
                        break
                    slash = key.find("/", len(base))
                    if slash >= 0:
                        prefixes.append(key[:slash])
                        at = bisect.bisect_left(self._keys, key[:slash] + "0", at)  # "0" follows "/"
                    else:
                        if not base or key != base:
                            objects.append((key, self._entries[key]))
                        at += 1
            yield objects, prefixes

    def below(self, prefix: str, count: int) -> Iterator[list[tuple[str, Entry]]]:
        """Iterate over pages, of about `count`, of the objects at any depth below `prefix`."""
        base = prefix + "/" if prefix else ""
        position = base
        while True:
            with self._lock:
                at = bisect.bisect_left(self._keys, position)
                keys = self._keys[at : at + count + 1]
                page = [key for key in keys[:count] if key.startswith(base) and not key.endswith("/")]
                found = [(key, self._entries[key]) for key in page]
            yield found
            if len(keys) <= count or not keys[count].startswith(base):
                return
            position = keys[count]
