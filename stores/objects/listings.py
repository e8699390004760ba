"""Listing objects: in pages, by level or all below, and what stands in a listing and is no object.

obstore gives the listing of one level only as a whole, when all of its pages have come, but a listing
of all that is below page by page.  So where keys are listed in their order, one level is told from the
latter as long as nothing lies deeper.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from itertools import pairwise
from posixpath import commonpath
from typing import Any

import obstore

from stores.base import Store
from stores.errors import NotFound
from stores.meta import ListPage, ObjectMeta, PrefixMeta
from stores.objects import web
from stores.objects.errors import UnlistableKey
from stores.objects.gets import Gets
from stores.objects.remote import Remote
from stores.objects.spare import spare_lister

__all__ = ["PAGE", "Listings"]

PAGE = 1000

_MOST_DEEP = 1000


class Listings:
    """Every way to list one store.

    Parameters
    ----------
    remote : Remote
        What is listed; it is open, but for `level` and `ask_first`.
    gets : Gets
        Tells objects from the markers of directories.
    """

    def __init__(self, remote: Remote, gets: Gets) -> None:
        self._remote = remote
        self._gets = gets
        self._spare: Store | None = None
        self._deep: dict[str, None] = {}  # prefixes with much below, not directly

    async def aclose(self) -> None:
        """Close what lists what obstore cannot."""
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.aclose()

    async def ask_first(self) -> None:
        """Ask for the first of the keys, whatever it is."""
        await self._remote.call(lambda: next(self._stream(""), None), None)

    async def holds_anything(self, prefix: str) -> bool:
        """Whether there is a key below `prefix`, or a marker that makes it an empty directory."""
        remote = self._remote
        if remote.kind == "webdav":
            listed = await self.level(prefix)
            if listed["objects"] or listed["common_prefixes"]:
                return True
            found = await remote.ask_web(partial(web.find_collection, remote.store, remote.path(prefix)))
            return found is web.Found.COLLECTION
        try:
            return await self._next_page(self._stream(prefix), prefix) is not None
        except UnlistableKey:
            return True

    # -- one level -----------------------------------------------------------------------------

    async def list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        """List what is directly below `prefix`."""
        given = ""
        if self._remote.capabilities.ordered and prefix not in self._deep:
            async with aclosing(self._flat_pages(prefix)) as flat:
                async for page in flat:
                    if page is None:
                        break
                    given = max([given, *(meta.key for meta in page.objects)])
                    yield page
                else:
                    return
        async with aclosing(self._level_pages(prefix, given)) as pages:
            async for page in pages:
                yield page

    async def _level_pages(self, prefix: str, after: str) -> AsyncGenerator[ListPage, None]:
        """List what is directly below `prefix`, with the objects that come after `after`."""
        try:
            listed = await self.level(prefix)
        except UnlistableKey as error:
            async with aclosing(self._spare_lister(error).list_dir(prefix)) as pages:
                async for page in pages:
                    yield page
            return
        keys = map(self._remote.key, listed["common_prefixes"])
        below = [PrefixMeta(key) for key in keys if key != prefix]
        for start in range(0, len(below), PAGE):
            yield ListPage(prefixes=tuple(below[start : start + PAGE]))
        objects = listed["objects"]
        for start in range(0, len(objects), PAGE):
            metas = self._metas(objects[start : start + PAGE], prefix)
            yield ListPage(objects=tuple(meta for meta in metas if meta.key > after))

    async def _flat_pages(self, prefix: str) -> AsyncGenerator[ListPage | None, None]:
        """List what is directly below `prefix` by listing all that is; None if that is too much.

        Of what holds less than a page, or objects only, it takes as many requests as a listing by
        level does.
        """
        start, last = len(prefix) + 1 if prefix else 0, ""
        stream = self._stream(prefix)
        try:
            listed = await self._next_page(stream, prefix)
            while listed is not None:
                told = self._metas(listed, prefix)
                following = await self._next_page(stream, prefix) if len(listed) < PAGE else listed
                whole = not last and following is None
                nested = [meta.key for meta in told if "/" in meta.key[start:]]
                if not _is_plain(told, last) or (nested and not whole):
                    if len(nested) == len(listed):
                        self._note_depth(nested[0], nested[-1])
                    yield None
                    return
                objects = tuple(meta for meta in told if "/" not in meta.key[start:])
                below = dict.fromkeys(key[: key.index("/", start)] for key in nested)
                yield ListPage(objects, tuple(map(PrefixMeta, below)), asked_alone=True)
                last = told[-1].key if told else last
                listed = following if len(listed) < PAGE else await self._next_page(stream, prefix)
        except UnlistableKey:
            yield None

    def _note_depth(self, first: str, last: str) -> None:
        """Take note of the prefixes below which a whole page lies, but not directly."""
        prefix = commonpath(["/".join(key.split("/")[:-2]) for key in (first, last)])
        self._deep[""] = None
        while prefix:
            self._deep[prefix] = None
            prefix = prefix.rpartition("/")[0]
        while len(self._deep) > _MOST_DEEP:
            del self._deep[next(iter(self._deep))]

    # -- all below -----------------------------------------------------------------------------

    async def list_after(self, prefix: str, after: str) -> AsyncGenerator[ListPage, None]:
        """List what is below `prefix` from a key on, in order."""
        stream = self._stream(prefix, after)
        while (listed := await self._next_page(stream, prefix)) is not None:
            yield ListPage(tuple(self._metas(listed, prefix)), asked_alone=True)

    async def list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        """List every object below `prefix`."""
        pages = self._levels_below(prefix) if self._remote.kind == "webdav" else self._all_below(prefix)
        async with aclosing(pages):
            async for page in pages:
                yield page

    async def _levels_below(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        """List level by level: most web servers refuse to list a whole tree ("Depth: infinity")."""
        pending = [prefix]
        while pending:
            async with aclosing(self.list_dir(pending.pop())) as pages:
                async for page in pages:
                    pending.extend(below.prefix for below in page.prefixes)
                    if page.objects:
                        yield ListPage(objects=page.objects)

    async def _all_below(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        stream = self._stream(prefix)
        try:
            while (listed := await self._next_page(stream, prefix)) is not None:
                told = self._metas(listed, prefix)
                yield ListPage(objects=tuple([meta for meta in told if await self._is_object(meta)]))
        except UnlistableKey as error:
            async with aclosing(self._spare_lister(error).list_all(prefix)) as pages:
                async for page in pages:
                    yield page

    async def _is_object(self, meta: ObjectMeta) -> bool:
        """Whether a listed key is more than the marker of a directory (see `_metas`)."""
        if meta.size or self._remote.kind in {"local", "memory"}:
            return True
        try:
            await self._gets.head(meta.key)
        except NotFound:
            return False
        return True

    # -- what obstore tells --------------------------------------------------------------------

    async def level(self, prefix: str) -> Any:
        """Return obstore's listing of one level."""
        remote = self._remote
        path = remote.path(prefix) or None
        try:
            return await remote.call(lambda: obstore.list_with_delimiter(remote.store, path), prefix)
        except NotFound:
            if prefix and remote.kind in {"local", "webdav"}:  # what is below a file
                return {"objects": [], "common_prefixes": []}
            raise

    def _stream(self, prefix: str, after: str = "") -> Iterator[Sequence[Any]]:
        remote = self._remote
        offset = remote.path(after) if after else None
        return iter(obstore.list(remote.store, remote.path(prefix) or None, offset=offset, chunk_size=PAGE))

    async def _next_page(self, stream: Iterator[Sequence[Any]], prefix: str) -> Sequence[Any] | None:
        try:
            return await self._remote.call(lambda: next(stream, None), prefix)
        except NotFound:
            if prefix and self._remote.kind == "local":  # what is below a file
                return None
            raise

    def _metas(self, listed: Sequence[Any], prefix: str) -> list[ObjectMeta]:
        """Return the metas of a page, without the marker of the directory `prefix` itself.

        A key that ends with a slash marks a directory; obstore tells it without the slash.
        """
        remote = self._remote
        metas = (remote.meta(raw, remote.key(raw["path"])) for raw in listed)
        return [meta for meta in metas if meta.key != prefix]

    def _spare_lister(self, error: UnlistableKey) -> Store:
        """Return the store that lists what obstore cannot (see `spare_lister`)."""
        if self._spare is None:
            remote = self._remote
            self._spare = spare_lister(remote.store, remote.kind, remote.prefix, error)
        return self._spare


def _is_plain(told: Sequence[ObjectMeta], last: str) -> bool:
    """Whether a page is in order, from `last` on, and all objects: an empty one may mark a directory."""
    in_order = all(one.key < other.key for one, other in pairwise([ObjectMeta(last, 0), *told]))
    return in_order and all(meta.size for meta in told)
