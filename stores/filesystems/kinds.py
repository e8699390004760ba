"""What fsspec does not tell of its file systems: a table of what each kind really does.

fsspec gives every file system one interface and leaves open what a version is,
whether a write is atomic, whether a read of a range reads more, whether two
threads may call at once.  :data:`KINDS` says so per protocol; a protocol that
is not in it gets :data:`UNKNOWN`, which promises nothing.

=====================  ==========================  ======================  =======================
protocol               version                     put                     create only if absent
=====================  ==========================  ======================  =======================
s3, s3a                ``ETag``                    atomic                  yes (If-None-Match)
gs, gcs                ``generation``              atomic                  yes (ifGenerationMatch)
az, abfs, abfss        ``etag``                    atomic                  yes (If-None-Match)
memory                 time of creation, size      atomic                  no
file, local            inode, mtime, size          beside, then rename     yes (link)
sftp, ssh, ftp         none (whole seconds)        beside, then rename     no
webdav, dav            none (not all servers)      as the server does      no
smb, hdfs, webhdfs     none                        in place                no
http, https            none (not all servers)      read-only               no
github, git            the hash of the blob        read-only               no
zip, tar, libarchive   none                        read-only               no
reference (kerchunk)   none                        read-only               no
simplecache, others    none: the copy may be old   read-only               no
of cached files
=====================  ==========================  ======================  =======================

"In place" means that a reader may see half an object while it is written: those
protocols have no rename that replaces.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from stores.meta import Capabilities

__all__ = ["KINDS", "UNKNOWN", "Kind", "kind_of", "mtime_of", "plain", "protocols_of", "version_of"]

Info = Mapping[str, Any]

PART = 8 << 20
IN_FLIGHT = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a kind of file system does.

    Attributes
    ----------
    version : tuple of str
        Fields of its infos that make a version together; empty where nothing does.
    create : {"", "mode", "link"}
        How an object is created only if absent, in one step: ``pipe_file(mode="create")``, or by a
        hard link to what was written beside it.
    replace : callable, optional
        Renames over an object in one step: objects are then written beside their name first.
    makes_dirs : bool
        Directories are real: made before a put, removed with their last object.
    tree : bool
        An object and a prefix cannot have the same name.
    flat : bool
        ``find`` lists all keys below a prefix in few requests (and swallows no error).
    bucket : bool
        The first name of a path is a bucket, which must exist.
    serial : bool
        Not for two threads at once.
    parts : dict
        How ``_put_file`` of an asynchronous file system is told to send a large file in small parts, a
        few at once, all or nothing; empty where it is not known to: files are then sent from memory.
    streams : bool
        A file that is open for writing takes its bytes piece by piece, without keeping them.
    read_only, listable, ranges, server_copy : bool
        As the capabilities of these names.
    """

    version: tuple[str, ...] = ()
    create: Literal["", "mode", "link"] = ""
    replace: Callable[[Any, str, str], None] | None = None
    makes_dirs: bool = False
    tree: bool = False
    flat: bool = False
    bucket: bool = False
    serial: bool = False
    parts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    streams: bool = False
    read_only: bool = False
    listable: bool = True
    ranges: bool = False
    server_copy: bool = False

    @property
    def capabilities(self) -> Capabilities:
        """What a store over it declares."""
        return Capabilities(
            listable=self.listable,
            ranges=self.ranges,
            versions=bool(self.version),
            create_if_absent=bool(self.create),
            server_copy=self.server_copy,
        )


def _replace_local(_: Any, source: str, target: str) -> None:
    # The mv of fsspec would move the file *into* a directory of that name.  The time is set because
    # the kernel's own is coarse: two puts within a tick could look like one version.
    os.utime(source)
    os.replace(source, target)  # noqa: PTH105 - fsspec's paths are strings


def _replace_by_mv(fs: Any, source: str, target: str) -> None:
    fs.mv(source, target)


_CLOUD = Kind(create="mode", flat=True, bucket=True, ranges=True, server_copy=True)
_ARCHIVE = Kind(read_only=True, tree=True, serial=True)
_CACHE = Kind(read_only=True)
_IN_PLACE = Kind(makes_dirs=True, tree=True)

UNKNOWN = Kind()
"""Of protocols that are not in the table."""

KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        ("s3", "s3a"),
        dataclasses.replace(
            _CLOUD, version=("ETag",), parts={"chunksize": PART, "max_concurrency": IN_FLIGHT}
        ),
    ),
    **dict.fromkeys(
        ("gs", "gcs"), dataclasses.replace(_CLOUD, version=("generation",), parts={"chunksize": PART})
    ),
    **dict.fromkeys(
        ("az", "abfs", "abfss"),
        dataclasses.replace(_CLOUD, version=("etag",), parts={"max_concurrency": IN_FLIGHT}),
    ),
    "memory": Kind(version=("created", "size"), tree=True, flat=True, ranges=True),
    **dict.fromkeys(
        ("file", "local"),
        Kind(
            version=("ino", "mtime", "size"),
            create="link",
            replace=_replace_local,
            makes_dirs=True,
            tree=True,
            streams=True,
            ranges=True,
        ),
    ),
    **dict.fromkeys(
        ("sftp", "ssh"),
        Kind(replace=_replace_by_mv, makes_dirs=True, tree=True, serial=True, streams=True, ranges=True),
    ),
    "ftp": Kind(replace=_replace_by_mv, makes_dirs=True, tree=True, serial=True),
    **dict.fromkeys(("smb", "hdfs", "arrow_hdfs", "webhdfs", "webdav", "dav"), _IN_PLACE),
    **dict.fromkeys(("http", "https"), Kind(read_only=True, listable=False, ranges=True)),
    "github": Kind(version=("sha",), read_only=True, tree=True),
    "git": Kind(version=("hex",), read_only=True, tree=True, serial=True),
    **dict.fromkeys(("zip", "tar", "libarchive"), _ARCHIVE),
    "reference": Kind(read_only=True, ranges=True),
    **dict.fromkeys(("simplecache", "filecache", "blockcache", "cached", "data", "gist", "jfrog"), _CACHE),
}


def plain(fs: Any) -> Any:
    """Return the synchronous file system below fsspec's asynchronous wrapper of one."""
    return fs.sync_fs if type(fs).__name__ == "AsyncFileSystemWrapper" else fs


def protocols_of(fs: Any) -> tuple[str, ...]:
    """Return the names of a file system's protocol; of the one below for fsspec's ``dir``."""
    while type(fs).__name__ == "DirFileSystem":
        fs = plain(fs.fs)
    protocol = type(fs).protocol  # not the instance's: a cache lends the attributes of its target
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def kind_of(protocols: tuple[str, ...]) -> Kind:
    """Return the row of the table for a protocol, by whichever of its names is there."""
    return next((KINDS[name] for name in protocols if name in KINDS), UNKNOWN)


# -- infos -----------------------------------------------------------------------------------------

_TIMES = (
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "Last-Modified",
    "modified",
    "modify",
    "last_write_time",
    "pushed_at",
    "date_time",
    "created",
)


def mtime_of(info: Info) -> int | None:
    """Return the time of modification that an info tells, in nanoseconds, or None."""
    for name in _TIMES:
        told = _nanoseconds(info.get(name))
        if told is not None:
            return told
    return None


def version_of(kind: Kind, info: Info) -> str | None:
    """Return the version that an info tells, or None for kinds that have none."""
    told = [_version_part(info.get(name)) for name in kind.version]
    return "-".join(told) if told and all(told) else None


def _version_part(value: Any) -> str:
    if value is None or value == "":
        return ""
    moment = _nanoseconds(value) if isinstance(value, (float, datetime)) else None
    return str(value if moment is None else moment)


def _nanoseconds(value: Any) -> int | None:
    """Convert what file systems call a time; one info says 1.5e9 and another a datetime, to the same."""
    if isinstance(value, str):
        value = _parsed(value)
    elif isinstance(value, (tuple, list)) and len(value) >= 6:  # of zip archives
        with suppress(ValueError):
            year, month, day, hour, minute, second = value[:6]
            return _nanoseconds(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
        return ((delta.days * 86400 + delta.seconds) * 10**6 + delta.microseconds) * 1000
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return round(value * 10**6) * 1000  # a float of today's seconds holds no more
    return None


def _parsed(text: str) -> datetime | None:
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(text)
    return None
