"""From what a person types, or already holds, to a store.

:func:`open_store` only *makes* the store: it looks at local paths, because they tell which kind of
store is meant, and asks nothing of a network.  ``await store.open()`` verifies that it answers.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import zipfile
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from stores.base import Store
from stores.errors import BadLocation, Denied, NotFound
from stores.urls import redact

__all__ = ["Backend", "local_path", "open_store"]

Backend = Literal["auto", "obstore", "fsspec"]
"""Which library reaches a URL that both can; ``auto`` takes obstore."""

_OBJECT_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "http", "https")
_OWN_SCHEMES = ("file", "memory", "python")
_ZIP_SUFFIXES = (".zip", ".ozx")
_AT_ONCE = 64
_MAX_SIBLINGS = 2000  # looked at for a hint; a directory may hold a million
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(
    location: object,
    *,
    read_only: bool = False,
    create: bool = False,
    backend: Backend = "auto",
    max_connections: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Store:
    """Make the store that `location` names.

    Parameters
    ----------
    location : str, path, dict or object
        * a path or ``file:///`` URL of a directory or of a zip archive;
        * ``memory://NAME``;
        * ``s3://``, ``gs://``, ``az://``, ``abfs://``, ``http(s)://`` of a directory or of a zip
          archive; anything else that fsspec knows, chains (``zip::s3://...``) too;
        * ``python:PACKAGE.MODULE:FACTORY``, called with the storage options;
        * a dict of keys and bytes, which is then the content of a memory store;
        * a store of this package, a ``zarr.abc.store.Store``, an obstore store, an fsspec file
          system or ``FSMap``.
    read_only : bool
        Refuse every change.
    create : bool
        Make a local directory or zip archive that is missing.
    backend : {"auto", "obstore", "fsspec"}
        For URLs that both libraries can reach; other stores have but one way.
    max_connections : int, optional
        How many requests may be under way at once; for stores that are reached through obstore or fsspec,
        others make none.
    storage_options : mapping, optional
        As fsspec, obstore or the factory take them.
    **options
        More storage options; they win over `storage_options`.

    Returns
    -------
    Store
        Not opened yet: ``async with`` it, or await its ``open``.

    Raises
    ------
    BadLocation
        If the location or an option cannot be used.
    NotFound
        If a local directory or archive is missing and `create` is not given.
    Denied
        If a local path may not be looked at.
    """
    if backend not in ("auto", "obstore", "fsspec"):
        raise BadLocation(f"unknown backend {backend!r}: use auto, obstore or fsspec")
    if max_connections is not None and max_connections < 1:
        raise BadLocation(f"{max_connections} is no number of connections: at least 1 is expected")
    if create and read_only:
        raise BadLocation("a store that is created cannot be read-only: leave out one of the two")
    chosen = {**(storage_options or {}), **options}
    if isinstance(location, bytes):
        location = os.fsdecode(location)
    if isinstance(location, str):
        return _from_text(location, read_only, create, backend, chosen, max_connections)
    if isinstance(location, os.PathLike):
        _refuse_options(chosen, "a local path")
        return _local(Path(os.fsdecode(location)), read_only, create)
    _refuse_options(chosen, "a store that is already made")
    return _from_object(location, read_only)


# -- objects ---------------------------------------------------------------------------------------


def _from_object(found: object, read_only: bool) -> Store:
    store = _known_object(found, read_only)
    if store is not None:
        return store
    raise BadLocation(
        f"a {type(found).__name__} is no store: give a path, a URL, a dict, or a store of this "
        "package, zarr, obstore or fsspec"
    )


def _known_object(found: object, read_only: bool) -> Store | None:
    """Wrap an object; libraries that were never imported cannot have made it, so none is imported."""
    if isinstance(found, Store):
        return found.with_read_only() if read_only else found
    if isinstance(found, dict):
        from stores.memory import MemoryStore

        return MemoryStore(found, read_only=read_only)
    if _is_instance(found, "stores.zarr_adapter", "ZarrStoreAdapter"):
        return _known_object(found.store, read_only)  # type: ignore[attr-defined]  # seen by name
    if _is_instance(found, "zarr.abc.store", "Store"):
        from stores.foreign import ForeignStore, unwrap

        inner = unwrap(found)  # type: ignore[arg-type]  # seen by name
        if inner is not None:
            return inner.with_read_only() if read_only else inner
        return ForeignStore(found, read_only=True if read_only else None)  # type: ignore[arg-type]  # as above
    if _is_instance(found, "fsspec.spec", "AbstractFileSystem"):
        return _filesystem(found, "", read_only)
    if _is_instance(found, "fsspec.mapping", "FSMap"):
        return _filesystem(found.fs, found.root, read_only)  # type: ignore[attr-defined]  # seen by name
    if any(_is_instance(found, "obstore.store", name) for name in _OBSTORE_CLASSES):
        from stores.objects import ObjectStore

        return ObjectStore(found, read_only=read_only)
    return None


_OBSTORE_CLASSES = ("S3Store", "GCSStore", "AzureStore", "HTTPStore", "LocalStore", "MemoryStore")


def _filesystem(filesystem: Any, path: str, read_only: bool) -> Store:
    from stores.filesystems import FsspecStore

    return FsspecStore(filesystem, path, read_only=read_only)


def _is_instance(found: object, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(found, kind)


# -- text ------------------------------------------------------------------------------------------


def _from_text(
    text: str,
    read_only: bool,
    create: bool,
    backend: Backend,
    options: dict[str, Any],
    connections: int | None,
) -> Store:
    if not text.strip():
        raise BadLocation("no store is named: give a path or a URL such as s3://bucket/data.zarr")
    if "\0" in text:
        raise BadLocation("the name of the store holds a NUL byte")
    if text.startswith("python:"):
        from stores.factories import make_from_factory

        made = make_from_factory(text, options)
        store = _known_object(made, read_only)
        if store is None:
            raise BadLocation(f"{text!r} returned a {type(made).__name__}, which is no store")
        return store
    path = local_path(text)
    if path is not None:
        _refuse_options(options, "a local path")
        return _local(path, read_only, create)
    if _is_chain(text):
        return _fsspec_url(text, read_only, backend, options, connections)
    scheme = text.partition("://")[0].lower()
    return _from_url(scheme, f"{scheme}{text[len(scheme) :]}", read_only, backend, options, connections)


def local_path(text: str) -> Path | None:
    """Return the path of this machine that a location names, None if it names another place.

    Raises
    ------
    BadLocation
        If it is the URL of a file of another machine.
    """
    if text.startswith("python:"):
        return None
    if re.match(r"file:/", text, re.IGNORECASE):
        return _path_of_url(text)
    found = _SCHEME.match(text)
    if _is_chain(text) or (found is not None and len(found[1]) > 1):  # C:// is a drive
        return None
    return Path(text).expanduser() if _has_home(text) else Path(text)


def _from_url(
    scheme: str,
    url: str,
    read_only: bool,
    backend: Backend,
    options: dict[str, Any],
    connections: int | None,
) -> Store:
    if scheme == "memory" and backend != "fsspec":
        from stores.memory import MemoryStore

        _refuse_options(options, "a memory store")
        named = MemoryStore.named(url.removeprefix("memory://"))
        return named.with_read_only() if read_only else named
    if scheme not in _OBJECT_SCHEMES:
        return _fsspec_url(url, read_only, backend, options, connections)
    _check_object_url(scheme, url)
    if not url.lower().endswith(_ZIP_SUFFIXES):
        return _object_url(url, backend, options, connections, read_only=read_only)
    parent, _, name = url.rpartition("/")
    if parent.count("/") < 2:
        raise BadLocation(f"there is no key in {redact(url)!r}: a bucket cannot be a zip archive")
    from stores.zipped import ZipStore

    archive = ZipStore.over(_object_url(parent, backend, options, connections, read_only=True), name)
    return archive.with_read_only() if read_only else archive


def _object_url(
    url: str, backend: Backend, options: dict[str, Any], connections: int | None, *, read_only: bool
) -> Store:
    if backend == "fsspec":
        return _filesystem_url(url, read_only, options, connections)
    from stores.objects import ObjectStore

    if connections is not None:
        options = {"max_connections": connections} | options
    return ObjectStore.from_url(url, storage_options=options, read_only=read_only)


def _check_object_url(scheme: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise BadLocation(f"{redact(url)!r} is no URL: {scheme}://NAME/PATH is expected") from error
    web = scheme in ("http", "https")
    if not host:
        what = "host" if web else "bucket"
        raise BadLocation(f"there is no {what} in {redact(url)!r}: write {scheme}://{what.upper()}/PATH")
    if web and (parts.query or parts.fragment):
        raise BadLocation(
            f"{redact(url)!r} has a query or fragment, and keys cannot be added behind one: "
            "give the credentials as storage options"
        )


def _filesystem_url(url: str, read_only: bool, options: dict[str, Any], connections: int | None) -> Store:
    from stores.filesystems import FsspecStore

    at_once = _AT_ONCE if connections is None else connections
    return FsspecStore.from_url(url, storage_options=options, read_only=read_only, concurrency=at_once)


def _fsspec_url(
    url: str, read_only: bool, backend: Backend, options: dict[str, Any], connections: int | None
) -> Store:
    known = _protocols()
    *links, last = url.split("::")
    for scheme in [link.partition("://")[0] for link in (*links, *([last] if "://" in last else ()))]:
        if scheme not in known:
            raise BadLocation(_unknown_scheme(scheme, known))
    if backend == "obstore":
        raise BadLocation(f"obstore cannot reach {redact(url)!r}: use the backend fsspec")
    return _filesystem_url(url, read_only, options, connections)


def _unknown_scheme(scheme: str, known: Iterable[str]) -> str:
    import difflib

    everything = sorted({*known, *_OBJECT_SCHEMES, *_OWN_SCHEMES})
    near = difflib.get_close_matches(scheme, everything, n=3, cutoff=0.5)
    listed = ", ".join(f"{name}://" for name in near or _OBJECT_SCHEMES)
    return f"unknown scheme {scheme}://: {'did you mean' if near else 'there are'} {listed}?"


def _protocols() -> frozenset[str]:
    from fsspec import available_protocols

    return frozenset(available_protocols())


def _is_chain(text: str) -> bool:
    """Whether it is a chain such as ``zip::s3://b/x.zip``; a file name may hold ``::`` too."""
    first, mark, rest = text.partition("::")
    if not mark or "/" in first.partition("://")[0] or first.endswith("["):  # http://[::1]/
        return False
    return "://" in first or "://" in rest or first in _protocols()


def _refuse_options(options: Mapping[str, Any], what: str) -> None:
    if options:
        raise BadLocation(f"{what} takes no storage options: leave out {', '.join(sorted(options))}")


# -- local paths -----------------------------------------------------------------------------------


def _path_of_url(url: str) -> Path:
    rest = url[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            raise BadLocation(
                f"{redact(url)!r} names the host {host!r}: write file:///PATH, or just the path"
            )
        rest = f"/{path}"
    decoded = unquote(rest, errors="surrogateescape")
    if "\0" in decoded:
        raise BadLocation("the name of the store holds a NUL byte")
    return Path(decoded)


def _has_home(text: str) -> bool:
    """Whether its ``~`` can be expanded; ``~nobody-of-that-name`` is a file name."""
    return text.startswith("~") and not os.path.expanduser(text).startswith("~")  # noqa: PTH111  # never raises


def _local(path: Path, read_only: bool, create: bool) -> Store:
    mode = _mode(path)
    is_zip = path.suffix.lower() in _ZIP_SUFFIXES
    if mode is None and not create:
        raise NotFound(_missing(path))
    if mode is not None and not stat.S_ISDIR(mode):
        if not stat.S_ISREG(mode):
            raise BadLocation(f"'{path}' is neither a directory nor a file")
        if not is_zip and not _is_zipfile(path):
            raise BadLocation(f"'{path}' is a file, not a Zarr directory or zip")
        is_zip = True
    elif mode is not None:
        is_zip = False
    if is_zip:
        from stores.zipped import ZipStore

        return ZipStore(path, "r" if read_only else "a", create=create, read_only=read_only)
    from stores.local import LocalStore

    return LocalStore(path, create=create, read_only=read_only)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise BadLocation(f"'{path}' is no path: something above its end is a file") from error
    except PermissionError as error:
        raise Denied(f"'{path}' may not be looked at", os_errno=errno.EACCES) from error
    except OSError as error:
        raise BadLocation(f"'{path}' cannot be used: {error.strerror}") from error


def _is_zipfile(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except PermissionError as error:
        raise Denied(f"'{path}' may not be read", os_errno=errno.EACCES) from error
    except OSError as error:
        raise BadLocation(f"'{path}' cannot be read: {error.strerror}") from error


def _missing(path: Path) -> str:
    """Say what is missing, what may have been meant, and how to create it."""
    import difflib

    text = str(path)
    if path.is_symlink():
        return f"'{text}' is a symbolic link to '{path.readlink()}', which does not exist"
    if re.match(r"[A-Za-z]:[\\/]", text):
        return f"'{text}' does not exist (a drive of Windows is /mnt/{text[0].lower()}/... under WSL)"
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in (*_OBJECT_SCHEMES, *_OWN_SCHEMES):
        return f"'{text}' does not exist; did you mean {scheme}://{rest.lstrip('/')}?"
    try:
        siblings = [entry.name for entry in islice(path.parent.iterdir(), _MAX_SIBLINGS)]
        near = difflib.get_close_matches(path.name, siblings, n=1)
    except FileNotFoundError:
        return f"'{text}' does not exist, nor does the directory above it; --create makes both"
    except OSError:
        near = []  # the hint is left out where the directory cannot be listed
    hint = f"did you mean '{path.with_name(near[0])}'? " if near else ""
    return f"'{text}' does not exist; {hint}--create makes a new, empty one"
