"""One walk through a directory, with cookies that stay true while it changes.

The entries come from one listing of the store, page by page, joined with what
lives here only.  Every entry that was given out keeps its position, so that
``telldir``/``seekdir`` and a ``readdir`` that is taken up again later find the
same place; what is created or removed meanwhile may or may not be seen, as
POSIX says, but nothing is seen twice and nothing that stays is missed.

What the store said of an entry is kept while its page is walked; of earlier pages
only the names are kept, and whoever goes back to one asks for it again.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import AsyncGenerator
from typing import NamedTuple

import trio

from stores.base import Store
from stores.errors import NotFound
from stores.keys import join
from stores.meta import ListPage, PrefixMeta
from zarrmount.errors import patiently
from zarrmount.inodes import Inode
from zarrmount.namespace import LARGEST_LISTING, Found, Namespace
from zarrmount.settings import TreeSettings

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
        self._names: list[str] = []
        self._seen: set[str] = set()
        self._recent: deque[_Page] = deque()
        self._pages: AsyncGenerator[ListPage, None] | None = None
        self._collected: dict[str, Found] | None = None if store.listings_are_hints else {}
        self._complete = False
        self._changes = namespace.change_count(directory)
        self._started = trio.current_time()
        self._prefix = directory.key
        self._lived_here = self._living_here()

    @property
    def is_current(self) -> bool:
        """Whether the directory is as it was when the listing began, as far as is known here."""
        return self._changes == self._namespace.change_count(self._directory)

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
        if self._pages is not None:
            await self._pages.aclose()
            self._pages = None

    async def _next_page(self) -> None:
        if self._directory.unlinked:
            self._complete = True
            return
        if self._pages is None:
            kept = self._namespace.fresh_listing(self._directory)
            if kept is not None:
                self._add(kept.entries, kept.expires)
                self._collected = None
                await self._finish()
                return
        asked = trio.current_time()
        page = await patiently(self._settings.read_timeout, self._prefix, self._ask)
        if page is None:
            await self._finish()
            return
        entries = self._namespace.usable(page, self._prefix)
        self._add(entries, self._expiry(asked))
        if self._collected is not None:
            for name, found in entries.items():
                if isinstance(found, PrefixMeta) or not isinstance(self._collected.get(name), PrefixMeta):
                    self._collected[name] = found
            if len(self._collected) > LARGEST_LISTING:
                self._collected = None

    def _expiry(self, asked: float) -> float:
        """Return until when that may be told which came with a page that was asked for at some time."""
        if self._store.listings_are_hints:
            return self._started  # the names only: sizes must be asked for
        if not self._store.near:
            asked = self._started  # the store may have listed all of it then
        return asked + self._settings.metadata_ttl

    async def _ask(self) -> ListPage | None:
        """Return the next page, None after the last one; begin anew if the store fails."""
        if self._pages is None:
            self._pages = self._store.list_dir(self._prefix)
        try:
            return await anext(self._pages, None)
        except BaseException:
            await self._start_over()
            raise

    async def _start_over(self) -> None:
        """List again with the next call: what a listing that failed has told is not all there is."""
        with trio.CancelScope(shield=True):
            await self.aclose()
        self._collected = None if self._store.listings_are_hints else {}
        self._changes = self._namespace.change_count(self._directory)
        self._started = trio.current_time()
        self._lived_here |= self._living_here()

    def _living_here(self) -> set[str]:
        return {name for name, child in self._directory.children.items() if child.lives_here}

    def _add(self, entries: dict[str, Found], expires: float) -> None:
        """Take in what one page says: names that are new, and directories in place of files."""
        self._merge({name: found for name, found in entries.items() if name in self._seen})
        self._append(
            [Entry(name, found, expires) for name, found in entries.items() if name not in self._seen]
        )

    def _append(self, entries: list[Entry]) -> None:
        if not entries:
            return
        names = [entry.name for entry in entries]
        self._recent.append(_Page(len(self._names), entries))
        self._names += names
        self._seen.update(names)
        kept = sum(len(page.entries) for page in self._recent)
        while len(self._recent) > _PAGES_KEPT and kept > _ENTRIES_KEPT:
            kept -= len(self._recent.popleft().entries)

    def _merge(self, again: dict[str, Found]) -> None:
        """Let a name that comes again be a directory, if either says so."""
        for page in self._recent if again else ():
            for index, known in enumerate(page.entries):
                found = again.get(known.name, known.found)
                if isinstance(found, PrefixMeta) != isinstance(known.found, PrefixMeta):
                    self._namespace.report_both(join(self._prefix, known.name))
                    if isinstance(found, PrefixMeta):
                        page.entries[index] = known._replace(found=found)

    async def _finish(self) -> None:
        """Add what lives here only, and leave the listing for lookups to use."""
        self._append([Entry(name, None, 0.0) for name in self._living_here() - self._seen])
        # What was stored meanwhile may be in no page: its name had been passed by then.
        for name in self._lived_here - self._seen:
            entry = await self._look_again(name)
            if entry.found is not None:
                self._append([entry])
        self._complete = True
        if self._collected is not None:
            expires = self._expiry(self._started)
            self._namespace.keep_listing(self._directory, self._collected, expires, self._changes)
