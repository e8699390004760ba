"""The pages of one directory, of which several are asked for at once where it is a large one of chunks.

A directory is listed page by page.  When some pages have come that hold the chunks of a known array and
nothing that lies deeper, and its grid says that many more are to come, the rest is listed by ranges
(`zarrmount.ranges`).  That is a flat listing: where it meets what lies deeper, or what may be the marker
of a directory, it cannot go on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from itertools import pairwise

import trio

from stores.base import Store
from stores.errors import StoreError, Unavailable
from stores.meta import ListPage
from zarrmount.errors import deadline
from zarrmount.lookups import Lookups
from zarrmount.ranges import Ranges
from zarrmount.settings import TreeSettings
from zarrmount.zarr.order import KeyOrder

__all__ = ["NotFlatError", "Pages"]

_PAGES_BEFORE = 2
"""Pages of a directory that come one after the other before it is worth knowing of which array they are."""
_PAGES_MORE = 2
"""Pages that the grid must have room for beyond those."""


class NotFlatError(Exception):
    """A directory that was listed flat holds more than objects, or cannot be listed so."""


class Pages:
    """One listing of a directory.

    Parameters
    ----------
    store : Store
        What is listed.
    settings : TreeSettings
        For how long answers hold, and how long they may take.
    lookups : Lookups
        What knows the arrays.
    prefix : str
        The directory.
    may_be_cut : bool
        Whether it may be listed by ranges.
    """

    def __init__(
        self, store: Store, settings: TreeSettings, lookups: Lookups, prefix: str, *, may_be_cut: bool
    ) -> None:
        self._store = store
        self._settings = settings
        self._lookups = lookups
        self._prefix = prefix
        self._pages: AsyncGenerator[ListPage, None] | None = None
        self._ranges: Ranges | None = None
        self._able = may_be_cut and store.capabilities.ordered and settings.metadata_ttl > 0
        self._count = 0
        self._position = ""

    async def next(self) -> tuple[float, ListPage] | None:
        """Return the next page and when it was asked for; None after the last one.

        Raises
        ------
        NotFlatError
            If it must be listed anew, without ranges.
        StoreError
            If the store did not answer.
        """
        if self._able and self._ranges is None and self._count >= _PAGES_BEFORE:
            self._ranges = await self._by_ranges()
        if self._ranges is not None:
            return await self._next_of_ranges(self._ranges)
        asked = trio.current_time()
        if self._pages is None:
            self._pages = self._store.list_dir(self._prefix)
        page = await anext(self._pages, None)
        if page is None:
            return None
        self._count += 1
        self._able = self._able and page.asked_alone and self._goes_on(page)
        return asked, page

    async def aclose(self) -> None:
        """Stop listing."""
        if self._ranges is not None:
            self._ranges.close()
        if self._pages is not None:
            await self._pages.aclose()

    def _goes_on(self, page: ListPage) -> bool:
        """Take note of where a page ends; return False if it is not what a flat listing would give."""
        start = len(self._prefix) + 1 if self._prefix else 0
        keys = [self._position, *(meta.key for meta in page.objects)]
        self._position = keys[-1]
        in_order = all(one < other for one, other in pairwise(keys))
        plain = all(meta.size and "/" not in meta.key[start:] for meta in page.objects)
        return in_order and plain and not page.prefixes

    async def _by_ranges(self) -> Ranges | None:
        """Begin to list by ranges, from here on; None if there is no reason to."""
        background = self._lookups.background
        if not background.running:
            return None
        try:
            with deadline(self._settings.read_timeout, self._prefix):
                chunks = await self._lookups.chunks_with(self._position)
        except StoreError:  # whoever wants the array is told
            self._able = False
            return None
        if chunks is None:
            return None
        order = KeyOrder(chunks)
        last = order.place_after(f"{self._prefix}0" if self._prefix else "\U0010ffff")  # "0" follows "/"
        here = order.place_after(self._position)
        first = order.place_after(f"{self._prefix}/" if self._prefix else "")
        if (last - here) * self._count < _PAGES_MORE * (here - first):
            return None
        if self._pages is not None:
            await self._pages.aclose()
            self._pages = None
        at_once = _PAGES_BEFORE
        return Ranges(
            self._store, self._settings, background, self._prefix, self._position, order, window=at_once
        )

    async def _next_of_ranges(self, ranges: Ranges) -> tuple[float, ListPage] | None:
        ranges.widen()
        try:
            found = await ranges.next()
        except Unavailable:
            raise
        except StoreError as error:
            raise NotFlatError from error
        if found is not None and not self._goes_on(found[1]):
            raise NotFlatError
        return found
