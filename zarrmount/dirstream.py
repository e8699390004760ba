"""One walk through a directory, with cookies that stay true while it changes.

The entries come from one listing of the store, page by page, joined with what
lives here only.  Every entry that was given out keeps its position, so that
``telldir``/``seekdir`` and a ``readdir`` that is taken up again later find the
same place; what is created or removed meanwhile may or may not be seen, as
POSIX says, but nothing is seen twice and nothing that stays is missed.

What the store said of an entry is kept while its page is walked; of earlier pages
only the names are kept, as text, and whoever goes back to one asks for it again.
The names of a grid are not even kept, but computed.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import trio

from stores.base import Store
from stores.errors import NotFound
from stores.keys import join
from stores.meta import ListPage, PrefixMeta
from zarrmount.errors import patiently
from zarrmount.inodes import Inode
from zarrmount.listings import LARGEST_LISTING, Found
from zarrmount.namespace import Namespace
from zarrmount.pages import NotFlatError, Pages
from zarrmount.settings import TreeSettings
from zarrmount.shown import merge

__all__ = ["DirStream", "Entry"]

_PAGES_KEPT = 2
_ENTRIES_KEPT = 4096


class Entry(NamedTuple):
    """One name of a directory.

    Attributes
    ----------
    name : str
        The name.
    found : ObjectMeta, PrefixMeta or None
        What the store said of it; None for what lives here only, or is gone.
    expires : float
        Until when that may be told.
    """

    name: str
    found: Found | None
    expires: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Page:
    start: int
    entries: list[Entry]

    def entry(self, position: int) -> Entry | None:
        index = position - self.start
        return self.entries[index] if 0 <= index < len(self.entries) else None


class _Names:
    """The names that were given out, by position."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pages: list[str | Callable[[int], str]] = []
        self._last: tuple[int, list[str]] = (-1, [])
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        for page in self._pages:
            if isinstance(page, str):
                yield from page.split("/")

    def __getitem__(self, position: int) -> str:
        index = bisect_right(self._starts, position) - 1
        start, page = self._starts[index], self._pages[index]
        if not isinstance(page, str):
            return page(position - start)
        if self._last[0] != index:
            self._last = index, page.split("/")
        return self._last[1][position - start]

    def add(self, names: list[str]) -> None:
        """Add the names of one page."""
        self._starts.append(self._count)
        self._pages.append("/".join(names))
        self._count += len(names)

    def add_computed(self, count: int, name_at: Callable[[int], str], *, first: bool) -> None:
        """Add names that `name_at` tells, by their place among all of this kind."""
        if first:
            self._starts.append(self._count)
            self._pages.append(name_at)
        self._count += count


class DirStream:
    """The entries of one directory, as of now.

    Parameters
    ----------
    directory : Inode
        What to list.
    """

    def __init__(self, store: Store, namespace: Namespace, settings: TreeSettings, directory: Inode) -> None:
        self._store = store
        self._namespace = namespace
        self._settings = settings
        self._directory = directory
        self._names = _Names()
        self._seen: set[str] | None = None
        self._greatest = ""
        self._recent: deque[_Page] = deque()
        self._pages: Pages | None = None
        self._may_be_cut = True
        self._collected: dict[str, Found] | None = None if store.listings_are_hints else {}
        self._complete = False
        self._begun = namespace.listings.begin(directory.number)
        self._started = trio.current_time()
        self._prefix = directory.key
        self._lived_here = self._living_here()

    def is_current(self, name: str) -> bool:
        """Whether a name is as it was when the listing began, as far as is known here."""
        return self._begun.is_current(name)

    async def entry(self, position: int) -> Entry | None:
        """Return the entry at a position, None past the last one.

        Raises
        ------
        StoreError
            If the store could not be listed.
        """
        while position >= len(self._names) and not self._complete:
            await self._next_page()
        if position >= len(self._names):
            return None
        return self.listed(position) or await self._look_again(self._names[position])

    def listed(self, position: int) -> Entry | None:
        """Return the entry at a position if what the store said of it is at hand."""
        for page in reversed(self._recent):
            if position >= page.start:
                entry = page.entry(position)
                if entry is not None and entry.found is None and entry.name not in self._directory.children:
                    return None  # it lived here only, and was stored since, or removed
                return entry
        return None

    async def _look_again(self, name: str) -> Entry:
        try:
            inode = await self._namespace.child(self._directory, name)
        except NotFound:
            return Entry(name, None, 0.0)
        return Entry(name, inode.prefix or inode.meta, inode.expires)

    async def aclose(self) -> None:
        """Stop listing."""
        self._namespace.listings.end(self._begun)
        await self._close_pages()

    async def _close_pages(self) -> None:
        if self._pages is not None:
            await self._pages.aclose()
            self._pages = None

    async def _next_page(self) -> None:
        if self._directory.unlinked:
            self._complete = True
            return
        if self._pages is None:
            kept = self._namespace.fresh_listing(self._directory)
            if kept is not None and not kept.unsure:
                self._add(kept.entries, kept.expires)
                self._collected = None
                await self._finish()
                return
            if not self._names and await self._take_part():
                return
        found = await patiently(self._settings.read_timeout, self._prefix, self._ask)
        if found is None:
            await self._finish()
            return
        asked, page = found
        entries = self._namespace.shown.usable(page, self._prefix)
        expires = self._expiry(asked, page)
        if page.first_index is not None and len(entries) == len(page.objects) + len(page.prefixes):
            new = [Entry(name, found, expires) for name, found in entries.items()]
            self._recent.append(_Page(len(self._names), new))
            name_at = partial(self._store.name_at, self._prefix)
            self._names.add_computed(len(new), name_at, first=page.first_index == 0)
            self._drop_pages()
            return
        self._add(entries, expires)
        if self._collected is not None:
            merge(self._collected, entries)
            if len(self._collected) > LARGEST_LISTING:
                self._collected = None

    async def _take_part(self) -> bool:
        """Take all entries from a flat listing that runs ahead of us, if there is one."""
        part = await self._namespace.sweeps.part(self._prefix)
        if part is None:
            return False
        entries = self._namespace.shown.usable(ListPage(tuple(part.objects)), self._prefix)
        self._started = part.asked
        self._add(entries, part.asked + self._settings.metadata_ttl)
        if self._collected is not None:
            self._collected = entries
        await self._finish()
        return True

    def _expiry(self, asked: float, page: ListPage | None = None) -> float:
        """Return until when that may be told which came with a page that was asked for at some time."""
        if self._store.listings_are_hints:
            return self._started  # the names only: sizes must be asked for
        if not (self._store.near or (page is not None and page.asked_alone)):
            asked = self._started  # the store may have listed all of it then
        return asked + self._settings.metadata_ttl

    async def _ask(self) -> tuple[float, ListPage] | None:
        """Return the next page and when it was asked for; begin anew if the store fails."""
        if self._pages is None:
            self._pages = self._namespace.pages(self._prefix, may_be_cut=self._may_be_cut)
        try:
            return await self._pages.next()
        except NotFlatError:
            self._may_be_cut = False
            await self._start_over()
            return await self._ask()
        except BaseException:
            await self._start_over()
            raise

    async def _start_over(self) -> None:
        """List again with the next call: what a listing that failed has told is not all there is."""
        with trio.CancelScope(shield=True):
            await self._close_pages()
        self._collected = None if self._store.listings_are_hints else {}
        self._begun.start_over()
        self._started = trio.current_time()
        self._lived_here |= self._living_here()

    def _living_here(self) -> set[str]:
        return {name for name, child in self._directory.children.items() if child.lives_here}

    def _add(self, entries: dict[str, Found], expires: float) -> None:
        """Take in what one page says: names that are new, and directories in place of files."""
        if not self._comes_after(entries):
            seen = self._all_seen()
            self._merge({name: found for name, found in entries.items() if name in seen})
            entries = {name: found for name, found in entries.items() if name not in seen}
        self._append([Entry(name, found, expires) for name, found in entries.items()])

    def _comes_after(self, entries: dict[str, Found]) -> bool:
        """Whether all of these names come after all that were given out: so none was among those."""
        if self._seen is not None or not entries:
            return not entries
        least, greatest = min(entries), max(entries)
        if least <= self._greatest:
            return False
        self._greatest = greatest
        return True

    def _all_seen(self) -> set[str]:
        """Return the names that were given out; from now on they are remembered."""
        if self._seen is None:
            self._seen = set(self._names)
        return self._seen

    def _append(self, entries: list[Entry]) -> None:
        if not entries:
            return
        names = [entry.name for entry in entries]
        self._recent.append(_Page(len(self._names), entries))
        self._names.add(names)
        if self._seen is not None:
            self._seen.update(names)
        self._drop_pages()

    def _drop_pages(self) -> None:
        kept = sum(len(page.entries) for page in self._recent)
        while len(self._recent) > _PAGES_KEPT and kept > _ENTRIES_KEPT:
            kept -= len(self._recent.popleft().entries)

    def _merge(self, again: dict[str, Found]) -> None:
        """Let a name that comes again be a directory, if either says so."""
        for page in self._recent if again else ():
            for index, known in enumerate(page.entries):
                found = again.get(known.name, known.found)
                if isinstance(found, PrefixMeta) != isinstance(known.found, PrefixMeta):
                    self._namespace.shown.report_both(join(self._prefix, known.name))
                    if isinstance(found, PrefixMeta):
                        page.entries[index] = known._replace(found=found)

    async def _finish(self) -> None:
        """Add what lives here only, and leave the listing for lookups to use."""
        here, lived_here = self._living_here(), self._lived_here
        if here or lived_here:
            seen = self._all_seen()
            here -= seen
            lived_here = lived_here - seen - here
        self._append([Entry(name, None, 0.0) for name in here])
        # What was stored meanwhile may be in no page: its name had been passed by then.
        for name in lived_here:
            entry = await self._look_again(name)
            if entry.found is not None:
                self._append([entry])
        self._complete = True
        if self._collected is not None:
            expires = self._expiry(self._started)
            self._namespace.keep_listing(self._directory, self._begun, self._collected, expires)
