"""What each change of the store means, in terms of the catalog and the journal.

Each function runs in a worker thread, holds all other changes off, and makes its change in one step.
"""

from __future__ import annotations

import errno

from stores.errors import AlreadyExists, InvalidKey, NotFound, Precondition, StoreError, Unsupported
from stores.keys import split
from stores.meta import Body, ObjectMeta, PrefixMeta
from stores.zipped.catalog import Catalog, Changed, Entry, Extent
from stores.zipped.pending import Change
from stores.zipped.session import Session

__all__ = ["copy", "delete", "make_dir", "put", "remove_dir", "rename", "rename_dir"]

_LONGEST_NAME = 0xFFFF


def put(session: Session, key: str, body: Body, if_absent: bool, if_version: str | None) -> ObjectMeta:
    """Set an object; see `Store.put`."""
    with session.changing(key) as pending:
        view = session.view
        entry = view.catalog.get(key)
        if if_version is not None and (entry is None or view.meta(key, entry).version != if_version):
            raise Precondition("it has changed since it was looked up", key=key)
        _check_target(view.catalog, key, if_absent=if_absent)
        new = pending.store(body, session.tick())
        session.commit([(key, new)])
        return view.meta(key, new)


def delete(session: Session, key: str) -> None:
    """Remove an object; the directory that held it stays."""
    with session.changing(key):
        session.view.find(key)
        session.commit([(key, None), *_kept_parent(session, key, 1)])


def copy(session: Session, source: str, target: str, if_absent: bool) -> ObjectMeta:
    """Let two keys share their bytes."""
    with session.changing(source):
        view = session.view
        entry = view.find(source)
        _check_target(view.catalog, target, if_absent=if_absent)
        tick = session.tick()
        new: Extent | Changed
        if isinstance(entry, Extent):
            new = Extent(entry.offset, entry.size, entry.crc, tick)
        else:
            new = Changed(entry.at if isinstance(entry, Changed) else entry, tick)
        session.commit([(target, new)])
        return view.meta(target, new)


def rename(session: Session, source: str, target: str, if_absent: bool, exchange: bool) -> None:
    """Move an object to another key, or let two change places."""
    with session.changing(source):
        catalog = session.view.catalog
        entry = session.view.find(source)
        if exchange:
            other = session.view.find(target)
            session.commit([(source, _moved(other)), (target, _moved(entry))])
            return
        _check_target(catalog, target, if_absent=if_absent)
        if source != target:
            kept = [] if _is_below(target, split(source)[0]) else _kept_parent(session, source, 1)
            session.commit([(target, _moved(entry)), (source, None), *kept])


def make_dir(session: Session, path: str) -> PrefixMeta:
    """Add an entry for a directory."""
    with session.changing(path) as pending:
        catalog = session.view.catalog
        if catalog.get(path) is not None or catalog.has_below(path):
            raise AlreadyExists("there is something of this name", key=path)
        _check_parents(catalog, path)
        new = pending.store(b"", session.tick())
        session.commit([(path + "/", new)])
        return PrefixMeta(path)


def remove_dir(session: Session, path: str) -> None:
    """Remove the entry for a directory that is empty; the directory that held it stays."""
    with session.changing(path):
        catalog = session.view.catalog
        _check_directory(catalog, path)
        _check_empty(catalog, path)
        session.commit([(path + "/", None), *_kept_parent(session, path, 1)])


def rename_dir(session: Session, source: str, target: str, if_absent: bool, exchange: bool) -> None:
    """Move all keys below a prefix, or let those below two change places."""
    with session.changing(source):
        catalog = session.view.catalog
        _check_directory(catalog, source)
        if source == target and not if_absent:
            return
        if _is_below(target, source) or (exchange and _is_below(source, target)):
            raise Unsupported("a directory cannot go below itself", key=target, os_errno=errno.EINVAL)
        going = catalog.all_below(source)
        moves = [(target + key[len(source) :], entry) for key, entry in going]
        if exchange:
            _check_directory(catalog, target)
            coming = catalog.all_below(target)
            moves += [(source + key[len(target) :], entry) for key, entry in coming]
            gone = {key for key, _ in going + coming} - {key for key, _ in moves}
            kept: list[Change] = []
        else:
            _check_replaceable(catalog, target, if_absent=if_absent)
            gone = {key for key, _ in going}
            kept = [] if _is_below(target, split(source)[0]) else _kept_parent(session, source, len(going))
        for key, _ in moves:
            if len(key.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
                raise InvalidKey("too long for a zip archive", key=key)
        session.commit(
            [*((key, _moved(entry)) for key, entry in moves), *((key, None) for key in gone), *kept]
        )


def _moved(entry: Entry) -> Extent | Changed:
    return Changed(entry, None) if isinstance(entry, int) else entry


def _is_below(path: str, prefix: str) -> bool:
    return not prefix or path.startswith(prefix + "/")


def _kept_parent(session: Session, path: str, leaving: int) -> list[Change]:
    """Return the change that keeps the directory above `path` when its last entries are leaving it."""
    parent, _ = split(path)
    if not parent or session.view.catalog.count_below(parent) > leaving:
        return []
    return [(parent + "/", Extent(0, 0, 0, session.tick()))]


# -- checks ------------------------------------------------------------------------------------


def _check_target(catalog: Catalog, key: str, *, if_absent: bool) -> None:
    """Refuse what would replace, or stand below, something of another kind."""
    if catalog.get(key) is not None:
        if if_absent:
            raise AlreadyExists("there is such an object already", key=key)
        return
    if catalog.has_below(key):
        raise AlreadyExists(
            "there is a directory of this name", key=key, os_errno=None if if_absent else errno.EISDIR
        )
    _check_parents(catalog, key)


def _check_parents(catalog: Catalog, path: str) -> None:
    parent, _ = split(path)
    while parent:
        if catalog.get(parent) is not None:
            raise Unsupported(f"{parent!r} is an object, not a directory", key=path, os_errno=errno.ENOTDIR)
        parent, _ = split(parent)


def _check_directory(catalog: Catalog, path: str) -> None:
    if catalog.has_below(path):
        return
    if catalog.get(path) is not None:
        raise Unsupported("not a directory", key=path, os_errno=errno.ENOTDIR)
    raise NotFound("no such directory", key=path)


def _check_empty(catalog: Catalog, path: str) -> None:
    if [key for key, _ in catalog.all_below(path)] != [path + "/"]:
        raise StoreError("the directory is not empty", key=path, os_errno=errno.ENOTEMPTY)


def _check_replaceable(catalog: Catalog, path: str, *, if_absent: bool) -> None:
    """Let a directory replace nothing, or an empty directory."""
    if if_absent and (catalog.has_below(path) or catalog.get(path) is not None):
        raise AlreadyExists("there is something of this name", key=path)
    if catalog.has_below(path):
        _check_empty(catalog, path)
    elif catalog.get(path) is not None:
        raise Unsupported("not a directory", key=path, os_errno=errno.ENOTDIR)
    else:
        _check_parents(catalog, path)
