"""Keys as a tree: which names a directory has, and for how long that is known.

1. What the store said of a key is told again for `metadata_ttl` seconds, be it
   that the key is there (on its inode), that it is not (the negative cache),
   or all that a directory holds (its listing).  There is no other metadata
   cache, and the kernel is only ever given what remains of that time.
2. What was written here and is not in the store yet comes before what the
   store says, always.
3. Between the question and the answer of a store the tree may have changed:
   an answer about a name that is older than the last change of that name is
   not believed but asked for again.  What a listing says of a name that changed
   since it was begun is replaced by what the store answered to the change
   (see `zarrmount.listings`).
4. A name that is both an object and a prefix is shown as the directory; the
   object stays in the store untouched, is told in the log once, and shows
   again when the directory goes.
5. A name that can be no file name is not shown; it is told in the log once.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import OrderedDict
from contextlib import aclosing
from functools import partial
from typing import NoReturn

import trio

from stores.base import Store
from stores.errors import NotFound, StoreError, Unavailable
from stores.keys import join
from stores.meta import AttributeChange, Lookup, ObjectMeta, PrefixMeta
from zarrmount.errors import deadline, patiently
from zarrmount.inode_table import InodeTable
from zarrmount.inodes import Inode, Kind
from zarrmount.listings import LARGEST_LISTING, UNSURE, Begun, Found, Listing, Listings, Unsure
from zarrmount.lookups import Known, Lookups, Told
from zarrmount.pages import Pages
from zarrmount.settings import TreeSettings
from zarrmount.shown import Shown, merge
from zarrmount.sweeps import Sweeps

__all__ = ["Namespace"]

log = logging.getLogger(__name__)

_MOST_NEGATIVE = 65_536
_MOST_REMEMBERED = 65_536


@dataclasses.dataclass(slots=True, eq=False)
class _Question:
    """One question to the store: whether a name exists.

    Attributes
    ----------
    answered : trio.Event
        Set when it answered, or did not in time.
    void : bool
        Whether the name changed here meanwhile.
    error : StoreError or None
        What it said, if that was no answer.  Whoever waits with us goes on for as long as is left
        of his own time: a store that hangs makes everybody wait once, not one after the other.
    """

    answered: trio.Event = dataclasses.field(default_factory=trio.Event)
    void: bool = False
    error: StoreError | None = None


class Namespace:
    """The names of a mounted store.

    Parameters
    ----------
    store : Store
        Where the keys are.
    table : InodeTable
        The live inodes, which it fills.
    settings : TreeSettings
        For how long answers hold, and how long they may take.
    lookups : Lookups
        What asks the store for names.
    """

    def __init__(self, store: Store, table: InodeTable, settings: TreeSettings, lookups: Lookups) -> None:
        self._store = store
        self._lookups = lookups
        lookups.known = self._known
        self._table = table
        self._settings = settings
        self._negative: OrderedDict[tuple[int, str], float] = OrderedDict()
        self.listings = Listings(settings.metadata_ttl)
        self.sweeps = Sweeps(store, settings, lookups.background, lookups.array_above)
        self.sweeps.seen = self._seen
        self.pages = partial(Pages, store, settings, lookups)
        self._listing: dict[int, _Question] = {}
        self._asking: dict[tuple[int, str], list[_Question]] = {}
        self._remembered: OrderedDict[str, tuple[str | None, AttributeChange]] = OrderedDict()
        self.shown = Shown()
        table.on_drop = self._forgotten

    # -- one name ------------------------------------------------------------------------------

    async def child(self, parent: Inode, name: str, *, only_attributes: bool = False) -> Inode:
        """Return the inode of a name in a directory.

        Parameters
        ----------
        parent : Inode
            The directory.
        name : str
            The name.
        only_attributes : bool
            Whether nobody is going to read it now.

        Raises
        ------
        NotFound
            If the store answered that there is no such name.
        StoreError
            If it did not answer, or refused.
        """
        may_list = True
        until = trio.current_time() + self._settings.read_timeout
        while True:
            known = self.known_child(parent, name)
            if known is not None:
                return known
            asking = self._asking.get((parent.number, name))
            error: StoreError | None = None
            if asking and self._settings.metadata_ttl > 0:
                question = asking[-1]
                await question.answered.wait()
                error = question.error
            elif may_list and self.listings.worth(parent.number) and self._lists_instead(parent):
                may_list = False
                error = await self._list(parent)
            else:
                found = self._ask_now(parent, name)
                if found is None:
                    found = await self._ask(parent, name, until, only_attributes=only_attributes)
                if found is not None:
                    return found
            # Who had begun to ask earlier was out of patience earlier.
            if error is not None and not (isinstance(error, Unavailable) and trio.current_time() < until):
                return self._unsure(parent, name, error)

    def known_child(self, parent: Inode, name: str) -> Inode | None:
        """Return the inode of a name if that is known now; None if the store must be asked.

        Raises
        ------
        NotFound
            If it is known that there is no such name.
        """
        if parent.unlinked:
            self._gone(name)
        now = trio.current_time()
        child = parent.children.get(name)
        if child is not None and (child.dirty or child.kept or now < child.expires):
            return child
        listing = self.listings.fresh(parent.number)
        if listing is not None:
            found = listing.entries.get(name)
            if found is not None:
                listing.used += 1
                return self.absorb(parent, name, found, listing.expires)
            if child is None and name not in listing.unsure:
                listing.used += 1
                raise NotFound("no such key", key=join(parent.key, name))
        if now < self._negative.get((parent.number, name), 0.0):
            raise NotFound("no such key", key=join(parent.key, name))
        return None

    def _ask_now(self, parent: Inode, name: str) -> Inode | None:
        """Return what the store says of a name if it can say so without waiting, else None."""
        key = join(parent.key, name)
        try:
            told = self._lookups.ask_now(key)
        except StoreError as error:
            return self._unsure(parent, name, error)
        return None if told is None else self._believe(parent, name, key, told)

    async def _ask(self, parent: Inode, name: str, until: float, *, only_attributes: bool) -> Inode | None:
        """Ask the store for a name, until some time; None if the name changed meanwhile: look again."""
        question = _Question()
        asking = self._asking.setdefault((parent.number, name), [])
        asking.append(question)
        key = join(parent.key, name)
        child = parent.children.get(name)
        if child is not None and not child.is_dir and child.expires <= 0:
            self._lookups.changed(key)  # there was reason to doubt what was known of it
        known = self._knowledge(child)
        try:
            told = await patiently(
                max(0.0, until - trio.current_time()),
                key,
                lambda: self._lookups.ask(key, known, only_attributes=only_attributes),
            )
        except NotFound:  # part of the path is no directory, or the store is gone
            told = Told(None, trio.current_time())
        except StoreError as error:
            question.error = error
            return self._unsure(parent, name, error)
        finally:
            asking.remove(question)
            if not asking:
                self._asking.pop((parent.number, name), None)
            question.answered.set()
        self.listings.asked(parent.number, told.requests)
        return None if question.void else self._believe(parent, name, key, told)

    def _believe(self, parent: Inode, name: str, key: str, told: Told) -> Inode | None:
        """Take over what the store said of a name; None if there is reason to look again."""
        expires = told.at + self._settings.metadata_ttl
        if told.found is None:
            survivor = self._vanished(parent, name, expires)
            if survivor is None:
                raise NotFound("no such key", key=key)
            return survivor
        if parent.unlinked:
            return None
        self._is_there(parent, expires)
        return self.absorb(parent, name, self._choose(told.found, key), expires)

    def _is_there(self, directory: Inode, expires: float) -> None:
        """Take note that a directory was there when something in it was, and so were those above."""
        if self._store.capabilities.directories:
            return  # it has attributes of its own
        node: Inode | None = directory
        while node is not None and node.parent is not None:
            if node.prefix is not None and node.expires > 0:
                node.expires = max(node.expires, expires)
            node = node.parent

    def _seen(self, prefix: str, at: float) -> None:
        """Take note that a directory was there at some time."""
        directory: Inode | None = self._table.root
        for part in prefix.split("/"):
            directory = directory.children.get(part) if directory is not None else None
        if directory is not None:
            self._is_there(directory, at + self._settings.metadata_ttl)

    def _known(self, key: str) -> Known:
        """Return what is known of a key that somebody may ask for soon."""
        *above, name = key.split("/")
        parent = self._table.root
        for part in above:
            below = parent.children.get(part)
            if below is None:
                return Known()
            parent = below
        absent = trio.current_time() < self._negative.get((parent.number, name), 0.0)
        if absent or (parent.number, name) in self._asking:
            return Known(fresh=True)
        return self._knowledge(parent.children.get(name))

    def _knowledge(self, inode: Inode | None) -> Known:
        if inode is None:
            return Known()
        meta = None if inode.staged is not None else inode.meta
        return Known(
            fresh=inode.dirty or inode.kept or trio.current_time() < inode.expires,
            is_dir=inode.is_dir,
            meta=meta,
            has_pages=meta is not None and meta.version is not None and inode.pages_version == meta.version,
        )

    def _unsure(self, parent: Inode, name: str, error: StoreError) -> Inode:
        """Return the directory below which something waits to be stored, or raise `error`.

        What could not be stored stays readable, also while the store does not answer.
        """
        child = None if parent.unlinked else parent.children.get(name)
        if child is None or not (child.is_dir and child.lives_here):
            raise error
        child.expires = trio.current_time() + self._settings.metadata_ttl
        return child

    async def refresh(self, inode: Inode) -> None:
        """Make sure that what is known of an inode is not older than the time to live.

        Raises
        ------
        NotFound
            If it is no longer in the store (nor open, nor dirty, nor kept here).
        """
        if inode.parent is None:
            if not inode.unlinked:
                await self._refresh_root(inode)
            return
        if inode.dirty or trio.current_time() < inode.expires:
            return
        if inode.kept and not self._store.capabilities.directories:
            return
        try:
            now_there = await self.child(inode.parent, inode.name, only_attributes=True)
        except NotFound:
            if inode.handles:
                return
            raise
        if now_there is not inode:
            self._table.collect(now_there)
            if not inode.handles:
                raise NotFound("another file has the name now", key=now_there.key)

    async def _refresh_root(self, root: Inode) -> None:
        if trio.current_time() < root.expires:
            return
        with deadline(self._settings.read_timeout, ""):
            root.prefix = await self._store.root()
        root.expires = trio.current_time() + self._settings.metadata_ttl

    # -- what the store says -------------------------------------------------------------------

    def absorb(self, parent: Inode, name: str, found: Found, expires: float) -> Inode:
        """Take over what the store said of a name, and return its inode."""
        kind = _kind_of(found)
        inode = parent.children.get(name)
        if inode is not None and (
            inode.dirty or (inode.kind is not kind and (inode.lives_here or inode.is_busy))
        ):
            return inode
        if inode is not None and _is_replaced_under_a_reader(inode, found):
            # Whoever reads it goes on with what it was, its size included; the name is another file now.
            inode.replaced = True
            inode = None
        if inode is None or inode.kind is not kind:
            inode = self._table.add(parent, name, kind)
        if isinstance(found, PrefixMeta):
            inode.prefix = found
        else:
            self.absorb_object(inode, found)
        inode.expires = max(inode.expires, expires) if inode.kept else expires
        self._negative.pop((parent.number, name), None)
        return inode

    def absorb_object(self, inode: Inode, meta: ObjectMeta) -> None:
        """Take over what the store said of a file."""
        known = inode.meta
        if known is None or known.version != meta.version:
            inode.forget_local_attributes()
            inode.ctime_ns = None
            version, change = self._remembered.get(meta.key, (None, None))
            if change is not None and version == meta.version:
                inode.mode, inode.uid, inode.gid = change.mode, change.uid, change.gid
                inode.atime_ns, inode.mtime_ns = change.atime_ns, change.mtime_ns
        inode.meta = meta
        if self._table.is_large and not inode.handles:
            inode.pack()

    def remember_attributes(self, inode: Inode) -> None:
        """Remember what was set of a stored file that the store itself cannot hold."""
        if inode.meta is None or self._store.capabilities.posix:
            return
        change = AttributeChange(inode.mode, inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns)
        self._remembered[inode.meta.key] = (inode.meta.version, change)
        self._remembered.move_to_end(inode.meta.key)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    def _choose(self, found: Lookup, key: str) -> Found:
        if found.prefix is not None:
            if found.object is not None:
                self.shown.report_both(key)
            return found.prefix
        assert found.object is not None
        return found.object

    def _vanished(self, parent: Inode, name: str, expires: float) -> Inode | None:
        """Take note that a name is not in the store; return what has it here all the same."""
        if parent.unlinked:
            return None
        child = parent.children.get(name)
        if child is not None and child.lives_here:
            child.kept = child.is_dir  # what is below it is to come
            return child
        if child is not None and child.is_busy:
            if child.is_dir:
                return child
        elif child is not None and child.staged is None:  # else its writer must learn of it at close
            self._table.detach(child)
        self._is_absent(parent, name, expires)
        return None

    def _is_absent(self, parent: Inode, name: str, expires: float) -> None:
        self._negative[parent.number, name] = expires
        if len(self._negative) > _MOST_NEGATIVE:
            self._negative.popitem(last=False)

    def absent_for(self, parent: Inode, name: str) -> float:
        """Return for how many seconds it may be told that a name is not there."""
        listing = self.fresh_listing(parent)
        known = listing is not None and name not in listing.entries and name not in listing.unsure
        expires = listing.expires if listing is not None and known else 0.0
        expires = max(expires, self._negative.get((parent.number, name), 0.0))
        return max(0.0, expires - trio.current_time())

    def _gone(self, key: str) -> NoReturn:
        raise NotFound("its directory was removed", key=key)

    # -- what changes here ---------------------------------------------------------------------

    def changed(self, parent: Inode, name: str) -> None:
        """Take note that a name came to be, or went, in a directory, and that more is not known."""
        self._changed(parent, name, UNSURE)

    def stored(self, parent: Inode, name: str, found: Found) -> None:
        """Take note that the store has answered that it has something under a name now."""
        self._changed(parent, name, found)
        self._is_there(parent, trio.current_time() + self._settings.metadata_ttl)

    def removed(self, parent: Inode, name: str, expires: float) -> None:
        """Take note that the store has no object of a name any more.

        Parameters
        ----------
        expires : float
            Until when it may be told that there is no prefix of the name either.
        """
        self._changed(parent, name, None)
        if trio.current_time() < expires and not self._store.capabilities.posix:
            self._is_absent(parent, name, expires)

    def came_here(self, parent: Inode, name: str) -> None:
        """Take note that a name came to be, or went, of which the store knows nothing (yet)."""
        self._void(parent, name)
        self._touch(parent)

    def made_here(self, parent: Inode, directory: Inode) -> None:
        """Take note of a new directory of which the store knows nothing (yet)."""
        expires = trio.current_time() + self.absent_for(parent, directory.name)
        self.listings.keep_empty(directory.number, expires)
        self.came_here(parent, directory.name)

    def directory_stored(self, directory: Inode) -> None:
        """Take note that the store has something in a directory, which lived only here until now."""
        directory.kept = False
        directory.expires = trio.current_time() + self._settings.metadata_ttl
        directory.prefix = directory.prefix or PrefixMeta(directory.key)
        if directory.parent is not None:
            self._changed(directory.parent, directory.name, directory.prefix, touch=False)

    def _changed(self, parent: Inode, name: str, word: Found | Unsure | None, *, touch: bool = True) -> None:
        if self._store.capabilities.posix:
            self.listings.drop(parent.number)  # times and counts of links changed, too
        else:
            self.listings.note(parent.number, name, word)
        self._negative.pop((parent.number, name), None)
        self._void(parent, name)
        key = join(parent.key, name)
        self._lookups.changed(key)
        self.sweeps.changed(key)
        if touch:
            self._touch(parent)

    def _void(self, parent: Inode, name: str) -> None:
        for question in self._asking.get((parent.number, name), ()):
            question.void = True

    def _touch(self, directory: Inode) -> None:
        if self._store.capabilities.directories:
            directory.expires = 0.0  # the store says what its attributes are now
        if not self._store.capabilities.posix:
            directory.mtime_ns = directory.ctime_ns = time.time_ns()

    def moved(self, directory: Inode) -> None:
        """Take note that everything in a directory has another key now: older answers are void."""
        self.listings.drop(directory.number)
        directory.expires = 0.0
        for (number, _), questions in self._asking.items():
            if number == directory.number:
                for question in questions:
                    question.void = True
        self._lookups.changed_below(directory.key)
        self.sweeps.changed(directory.key)

    def doubt(self, inode: Inode) -> None:
        """Believe nothing any more that the store said of a file until now."""
        inode.expires = 0.0
        if inode.parent is not None:
            self.listings.note(inode.parent.number, inode.name, UNSURE)
        self._lookups.changed(inode.key)

    def _forgotten(self, number: int) -> None:
        """Drop what is kept for a directory that has no inode any more."""
        self.listings.forget(number)

    # -- whole directories ---------------------------------------------------------------------

    def fresh_listing(self, directory: Inode) -> Listing | None:
        """Return the listing of a directory, if one is kept and holds."""
        return self.listings.fresh(directory.number)

    def keep_listing(self, directory: Inode, begun: Begun, entries: dict[str, Found], expires: float) -> None:
        """Keep a complete listing, with what changed here since it was begun."""
        if self._table.find(directory.number) is directory:
            self.listings.keep(begun, entries, expires)

    def _lists_instead(self, directory: Inode) -> bool:
        """Whether a directory can be listed to answer for its names."""
        store = self._store
        return store.capabilities.listable and not (
            store.near or store.listings_are_hints or store.capabilities.posix or directory.unlinked
        )

    async def _list(self, directory: Inode) -> StoreError | None:
        """List a directory, unless it is too large; return what the store said if it did not answer."""
        asking = self._listing.get(directory.number)
        if asking is not None:
            await asking.answered.wait()
            return asking.error
        question = self._listing[directory.number] = _Question()
        begun = self.listings.begin(directory.number)
        try:
            await patiently(
                self._settings.read_timeout, directory.key, lambda: self._list_some(directory, begun)
            )
        except Unavailable as error:
            question.error = error
        except StoreError as error:
            log.debug("%r is not listed to answer for its names: %s", directory.key, error)
            self.listings.too_large(directory.number, LARGEST_LISTING)
        finally:
            del self._listing[directory.number]
            self.listings.end(begun)
            question.answered.set()
        return question.error

    async def _list_some(self, directory: Inode, begun: Begun) -> None:
        prefix, number = directory.key, directory.number
        most, pages = self.listings.worth(number), 0
        entries: dict[str, Found] = {}
        begun.start_over()
        expires = trio.current_time() + self._settings.metadata_ttl
        async with aclosing(self._store.list_dir(prefix)) as listed:
            async for page in listed:
                pages += 1
                merge(entries, self.shown.usable(page, prefix))
                if pages > most or len(entries) > LARGEST_LISTING or trio.current_time() >= expires:
                    self.listings.too_large(number, pages)
                    return
        self.keep_listing(directory, begun, entries, expires)

    async def is_empty(self, directory: Inode) -> bool:
        """Tell whether a directory holds nothing, in the store and here."""
        if any(child.lives_here for child in directory.children.values()):
            return False
        listing = self.fresh_listing(directory)
        prefix = directory.key
        if listing is not None and not listing.unsure and not self.shown.may_hide(prefix):
            return not listing.entries
        with deadline(self._settings.read_timeout, prefix):
            async with aclosing(self._store.list_dir(prefix)) as pages:
                async for page in pages:
                    if page.objects or page.prefixes:
                        return False
        return True


def _is_replaced_under_a_reader(inode: Inode, found: Found) -> bool:
    """Tell whether somebody else replaced a file of which a handle here has pinned a version."""
    if isinstance(found, PrefixMeta) or inode.staged is not None or inode.is_locked:
        return False
    readers = [handle.reader for handle in inode.handles if handle.reader is not None]
    return any(reader.meta.version != found.version for reader in readers)


def _kind_of(found: Found) -> Kind:
    if isinstance(found, PrefixMeta):
        return Kind.DIRECTORY
    if found.posix is None:
        return Kind.FILE
    return Kind.of_mode(found.posix.mode)
