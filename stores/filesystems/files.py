"""What takes several calls of a file system of fsspec, to be run where its calls run.

Writing beside a name and renaming over it, removing the directories that a
delete leaves empty, and asking without being answered from a cache.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from stores.bodies import BodyReader
from stores.filesystems.kinds import Kind
from stores.meta import Body

__all__ = [
    "LARGE",
    "PARTIAL",
    "Place",
    "fresh_async",
    "fresh_sync",
    "in_parts",
    "path_of",
    "read_async",
    "read_sync",
    "remove",
    "write",
]

PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial")
"""Names of what is being written; listings leave them out."""

LARGE = 64 << 20
"""Files from this size on are not taken into memory, where the table knows another way."""

_ATTEMPTS = 4
_BLOCK = 4 << 20
_MAX_PARTS = 10_000


class Place(NamedTuple):
    """A path in a synchronous file system, and the root of the store above it."""

    fs: Any
    kind: Kind
    root: str
    path: str

    @property
    def parent(self) -> str:
        """The path of the directory that holds it."""
        return self.path.rpartition("/")[0]


# -- writing ---------------------------------------------------------------------------------------


def write(place: Place, body: BodyReader, *, if_absent: bool) -> int:
    """Store a file, in one step where the table says so, and return its size."""
    fs, kind, _, path = place
    size = body.size()
    if kind.replace is not None and kind.streams and size >= LARGE:
        _write_beside(place, lambda partial: _pour(fs, partial, body, size), if_absent)
        return size
    data = body.whole()
    if kind.replace is not None:
        _write_beside(place, lambda partial: fs.pipe_file(partial, data), if_absent)
        return len(data)
    if kind.tree and not kind.makes_dirs:
        _refuse_directory(fs, path)
    _with_parent(place, lambda: fs.pipe_file(path, data))
    return len(data)


def _pour(fs: Any, path: str, body: BodyReader, size: int) -> None:
    with fs.open(path, "wb") as file:
        for start in range(0, size, _BLOCK):
            block = bytearray(min(_BLOCK, size - start))
            body.fill(block, start)
            file.write(block)


def _write_beside(place: Place, store: Callable[[str], object], if_absent: bool) -> None:
    fs, kind, _, path = place
    partial = place._replace(path=f"{place.parent}/.{uuid.uuid4().hex}.partial")
    try:
        _with_parent(partial, lambda: store(partial.path))
    except BaseException:
        with suppress(FileNotFoundError):
            remove(partial)
        raise
    try:
        if if_absent:
            fs.link(partial.path, path)
        else:
            _refuse_directory(fs, path)
            assert kind.replace is not None
            kind.replace(fs, partial.path, path)
            return
    except BaseException:
        remove(partial)
        raise
    fs.rm_file(partial.path)


def in_parts(kind: Kind, size: int) -> dict[str, int]:
    """Return the options of a ``_put_file`` in parts, small ones unless there were too many."""
    options = dict(kind.parts)
    if "chunksize" in options:
        mebibytes = math.ceil(size / _MAX_PARTS / (1 << 20))
        options["chunksize"] = max(options["chunksize"], mebibytes << 20)
    return options


@contextmanager
def path_of(body: Body) -> Iterator[str | None]:
    """Give a path of a body that is a real file, as long as the context lasts; None for any other.

    Opening the path gives a file of its own, with a position of its own.
    """
    raw = getattr(body, "raw", body)
    if not (isinstance(body, (io.FileIO, io.BufferedReader, io.BufferedRandom)) and type(raw) is io.FileIO):
        yield None  # a file in disguise (of gzip, say) lends the descriptor of another
        return
    body.flush()
    descriptor = os.dup(raw.fileno())
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _with_parent(place: Place, action: Callable[[], object]) -> None:
    """Do what needs the directory above `place`, made first where directories are real."""
    for left in reversed(range(_ATTEMPTS)):
        if place.kind.makes_dirs:
            place.fs.makedirs(place.parent, exist_ok=True)
        try:
            action()
        except FileNotFoundError:
            # Somebody's delete removed the directory, just made and still empty, in between.
            if not left or not place.kind.makes_dirs:
                raise
        else:
            return


def _refuse_directory(fs: Any, path: str) -> None:
    try:
        info = fs.info(path)
    except FileNotFoundError:
        return
    if info["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, "a directory has this name", path)


def remove(place: Place) -> None:
    """Remove a file and the directories above it that it leaves empty."""
    if place.fs.info(place.path)["type"] == "directory":  # which some rm_file would remove as well
        raise FileNotFoundError(errno.ENOENT, "a directory, no file", place.path)
    place.fs.rm_file(place.path)
    for directory in _above(place):
        try:
            place.fs.rmdir(directory)
        except Exception:  # noqa: BLE001 - not empty, or not ours: each file system says it its own way
            return


def _above(place: Place) -> Iterator[str]:
    directory = place.parent
    while len(directory) > len(place.root):
        yield directory
        directory = directory.rpartition("/")[0]


# -- asking ----------------------------------------------------------------------------------------


def _forget(fs: Any, path: str) -> None:
    fs.invalidate_cache(path)
    if type(fs).__name__ == "HTTPFileSystem":  # which forgets nothing
        fs.dircache.pop(path, None)


def fresh_sync(fs: Any, name: str, path: str, kwargs: dict[str, Any]) -> Any:
    """Call the method `name` with nothing of it answered from the cache of listings."""
    _forget(fs, path)
    return getattr(fs, name)(path, **kwargs)


async def fresh_async(fs: Any, name: str, path: str, kwargs: dict[str, Any]) -> Any:
    """As `fresh_sync`, on the loop of an asynchronous file system."""
    _forget(fs, path)
    if name == "ls" and path and hasattr(fs, "_lsdir"):
        # s3fs: its _ls of a prefix without objects goes on to list all that stands beside it.
        return await fs._lsdir(path, refresh=True)
    return await getattr(fs, f"_{name}")(path, **kwargs)


Read = tuple[Mapping[str, Any], bytes, Mapping[str, Any]]


def read_sync(fs: Any, path: str, limits: Mapping[str, int], before: bool, after: bool) -> Read:
    """Read a file, or the part within `limits`, with its info from before and from after that."""
    first = fresh_sync(fs, "info", path, {}) if before else {}
    data = b"" if first.get("type") == "directory" else fs.cat_file(path, **limits)
    last = fresh_sync(fs, "info", path, {}) if after else {}
    return first, data if isinstance(data, bytes) else bytes(data), last


async def read_async(fs: Any, path: str, limits: Mapping[str, int], before: bool, after: bool) -> Read:
    """As `read_sync`, on the loop of an asynchronous file system."""
    first = await fresh_async(fs, "info", path, {}) if before else {}
    data = b"" if first.get("type") == "directory" else await fs._cat_file(path, **limits)
    last = await fresh_async(fs, "info", path, {}) if after else {}
    return first, data if isinstance(data, bytes) else bytes(data), last
