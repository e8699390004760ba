"""One walk through a directory, with cookies that stay true while it changes.

The entries come from one listing of the store, page by page, joined with what
lives here only.  Every entry that was given out keeps its position, so that
``telldir``/``seekdir`` and a ``readdir`` that is taken up again later find the
same place; what is created or removed meanwhile may or may not be seen, as
POSIX says, but nothing is seen twice and nothing that stays is missed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import trio

from stores.base import Store
from stores.keys import join
from stores.meta import ListPage, PrefixMeta
from zarrmount.errors import patiently
from zarrmount.inodes import Inode
from zarrmount.namespace import LARGEST_LISTING, Found, Namespace
from zarrmount.settings import TreeSettings

__all__ = ["DirStream", "Entry"]

Entry = tuple[str, Found | None]
"""A name and what the store said of it; None for what lives here only."""


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
        self._entries: list[Entry] = []
        self._positions: dict[str, int] = {}
        self._pages: AsyncGenerator[ListPage, None] | None = None
        self._collected: dict[str, Found] | None = None if store.listings_are_hints else {}
        self._complete = False
        self._changes = namespace.change_count(directory)
        self._started = trio.current_time()
        self._prefix = directory.key

    @property
    def expires(self) -> float:
        """Until when the attributes that came with the entries may be told."""
        if self._store.listings_are_hints:
            return self._started  # the names only: sizes must be asked for
        return self._started + self._settings.metadata_ttl

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
        while position >= len(self._entries) and not self._complete:
            await self._next_page()
        return self._entries[position] if position < len(self._entries) else None

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
                self._started = kept.expires - self._settings.metadata_ttl
                self._add(kept.entries)
                self._collected = None
                self._finish()
                return
        page = await patiently(self._settings.read_timeout, self._prefix, self._ask)
        if page is None:
            self._finish()
            return
        entries = self._namespace.usable(page, self._prefix)
        self._add(entries)
        if self._collected is not None:
            for name, found in entries.items():
                if isinstance(found, PrefixMeta) or not isinstance(self._collected.get(name), PrefixMeta):
                    self._collected[name] = found
            if len(self._collected) > LARGEST_LISTING:
                self._collected = None

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

    def _add(self, entries: dict[str, Found]) -> None:
        """Take in what one page says: names that are new, and directories in place of files."""
        for name, found in entries.items():
            if name not in self._positions:
                self._positions[name] = len(self._entries)
                self._entries.append((name, found))
                continue
            position = self._positions[name]
            _, known = self._entries[position]
            if isinstance(found, PrefixMeta) != isinstance(known, PrefixMeta):
                self._namespace.report_both(join(self._prefix, name))
                if isinstance(found, PrefixMeta):
                    self._entries[position] = (name, found)

    def _finish(self) -> None:
        """Add what lives here only, and leave the listing for lookups to use."""
        for name, child in self._directory.children.items():
            if name not in self._positions and child.lives_here:
                self._entries.append((name, None))
        self._complete = True
        if self._collected is not None:
            self._namespace.keep_listing(self._directory, self._collected, self.expires, self._changes)
