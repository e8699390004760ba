"""What is kept of listings, how it stays true while names change here, and when one more pays.

1. A listing holds for the time to live, counted from its first request.  A change that is made
   here goes into it with what the store answered: it is no reason to list again.  Of a name of
   which that is not known a listing says nothing (it is in `Listing.unsure`).
2. The same holds for a listing that is still under way: what changed since it began is noted
   (`Begun`), and comes before whatever its pages say, that may be of before or after.
3. Names are asked for one by one, until that has cost as many requests within one time to live as
   the pages of a listing would; then the directory is listed, and no further than that.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict
from typing import Final, Literal

import trio

from stores.meta import ObjectMeta, PrefixMeta

__all__ = ["LARGEST_LISTING", "UNSURE", "Begun", "Found", "Listing", "Listings", "Unsure"]

Found = ObjectMeta | PrefixMeta


class Unsure(enum.Enum):
    """Says of a name that it changed, and that the store has not told since what it is."""

    UNSURE = enum.auto()


UNSURE: Final = Unsure.UNSURE
Word = Found | None | Literal[Unsure.UNSURE]

LARGEST_LISTING = 20_000
"""Entries of a directory that are kept after it was listed."""
_MOST_KEPT = 100_000
"""Entries that are kept of all directories together."""
_FEW = 4
"""Requests for single names in one directory that are no reason to list it."""


@dataclasses.dataclass(slots=True)
class Listing:
    """All that the store has in a directory.

    Attributes
    ----------
    entries : dict
        By name.
    expires : float
        Until when it may be told.
    unsure : set of str
        Names of which it says nothing.
    used : int
        How many questions it has answered.
    """

    entries: dict[str, Found]
    expires: float
    unsure: set[str] = dataclasses.field(default_factory=set)
    used: int = 0

    def note(self, name: str, word: Word) -> None:
        """Take note of what a name is now."""
        self.unsure.discard(name)
        if isinstance(word, (ObjectMeta, PrefixMeta)):
            self.entries[name] = word
            return
        self.entries.pop(name, None)
        if word is UNSURE:
            self.unsure.add(name)


@dataclasses.dataclass(slots=True, eq=False)
class Begun:
    """A listing that is under way: what changed here since it began.

    Attributes
    ----------
    number : int
        The inode number of the directory.
    since : dict
        What each name is now that changed.
    everything : bool
        Whether all may have changed.
    """

    number: int
    since: dict[str, Word] = dataclasses.field(default_factory=dict)
    everything: bool = False

    def note(self, name: str, word: Word) -> None:
        """Take note of what a name is now."""
        if not self.everything:
            self.since[name] = word
            if len(self.since) > LARGEST_LISTING:
                self.note_everything()

    def note_everything(self) -> None:
        """Take note that all may have changed."""
        self.everything = True
        self.since.clear()

    def start_over(self) -> None:
        """Take note that the pages are asked for anew: they may know better than what was noted."""
        self.since = dict.fromkeys(self.since, UNSURE)

    def is_current(self, name: str) -> bool:
        """Whether a name is as it was when the listing began, as far as is known here."""
        return not self.everything and name not in self.since


@dataclasses.dataclass(slots=True)
class _Costs:
    """What it has cost to ask for the names of a directory one by one, since some time."""

    since: float
    requests: int = 0
    least_pages: int = 0


class Listings:
    """The listings of one mounted tree, by the inode numbers of the directories.

    Parameters
    ----------
    time_to_live : float
        Seconds for which an answer of the store may be told.
    """

    def __init__(self, time_to_live: float) -> None:
        self._time_to_live = time_to_live
        self._kept: OrderedDict[int, Listing] = OrderedDict()
        self._entries = 0
        self._begun: dict[int, list[Begun]] = {}
        self._costs: dict[int, _Costs] = {}

    # -- what is kept --------------------------------------------------------------------------

    def fresh(self, number: int) -> Listing | None:
        """Return the listing of a directory, if one is kept and holds."""
        listing = self._kept.get(number)
        return listing if listing is not None and trio.current_time() < listing.expires else None

    def begin(self, number: int) -> Begun:
        """Take note that a directory is going to be listed; give what is returned to `end`."""
        begun = Begun(number)
        self._begun.setdefault(number, []).append(begun)
        return begun

    def end(self, begun: Begun) -> None:
        """Take note that nobody lists any more, or shows what was listed."""
        others = self._begun.get(begun.number, [])
        if begun in others:
            others.remove(begun)
        if not others:
            self._begun.pop(begun.number, None)

    def keep(self, begun: Begun, entries: dict[str, Found], expires: float) -> None:
        """Keep a complete listing, with what changed since it began."""
        if begun.everything or len(entries) > LARGEST_LISTING or trio.current_time() >= expires:
            return
        listing = Listing(entries, expires)
        for name, word in begun.since.items():
            listing.note(name, word)
        self._drop_kept(begun.number)
        self._kept[begun.number] = listing
        self._entries += len(listing.entries)
        if begun.number in self._costs:
            self._costs[begun.number].requests = 0
        while self._entries > _MOST_KEPT and len(self._kept) > 1:
            self._drop_kept(next(iter(self._kept)))

    def keep_empty(self, number: int, expires: float) -> None:
        """Keep that the store has nothing in a directory."""
        self.keep(Begun(number), {}, expires)

    # -- what changes here ---------------------------------------------------------------------

    def note(self, number: int, name: str, word: Word) -> None:
        """Take note of what the store has under a name now."""
        listing = self._kept.get(number)
        if listing is not None:
            before = len(listing.entries)
            listing.note(name, word)
            self._entries += len(listing.entries) - before
            if len(listing.entries) + len(listing.unsure) > LARGEST_LISTING:
                self._drop_kept(number)
        for begun in self._begun.get(number, ()):
            begun.note(name, word)

    def drop(self, number: int) -> None:
        """Take note that everything in a directory may have changed."""
        self._drop_kept(number)
        for begun in self._begun.get(number, ()):
            begun.note_everything()

    def forget(self, number: int) -> None:
        """Drop what is kept for a directory that has no inode any more."""
        self._drop_kept(number)
        self._costs.pop(number, None)

    def _drop_kept(self, number: int) -> None:
        listing = self._kept.pop(number, None)
        if listing is not None:
            self._entries -= len(listing.entries)

    # -- what it costs -------------------------------------------------------------------------

    def asked(self, number: int, requests: int) -> None:
        """Take note of requests for one name that a listing would have spared."""
        if requests <= 0 or self._time_to_live <= 0:
            return
        now = trio.current_time()
        costs = self._costs.setdefault(number, _Costs(now))
        if now >= costs.since + self._time_to_live:
            costs.since, costs.requests = now, 0
        costs.requests += requests

    def worth(self, number: int) -> int:
        """Return how many pages a listing may have to be cheaper than to ask name by name; 0: none."""
        now = trio.current_time()
        costs, last = self._costs.get(number), self._kept.get(number)
        asked = costs.requests if costs is not None and now < costs.since + self._time_to_live else 0
        spared = last.used if last is not None and now < last.expires + self._time_to_live else 0
        worth = max(asked, spared)
        least = costs.least_pages if costs is not None else 0
        return worth if worth >= max(_FEW, least) and self._time_to_live > 0 else 0

    def too_large(self, number: int, pages: int) -> None:
        """Take note that a directory has more than some pages."""
        costs = self._costs.setdefault(number, _Costs(trio.current_time()))
        costs.least_pages = max(costs.least_pages, 2 * pages)

    def check_invariants(self, numbers: set[int]) -> None:
        """Assert what must hold between any two calls, given the numbers of all inodes (used by tests)."""
        assert set(self._kept) | set(self._costs) <= numbers
        assert self._entries == sum(len(listing.entries) for listing in self._kept.values())
