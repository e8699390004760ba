"""The kinds of store that every operation is tried on, and what each is expected to be able to do.

A *site* is one mounted store (or, for the kind ``plain``, a directory of the machine's own file
system, which checks the tests themselves).  A *place* is a directory of its own in a site, for one
test.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mount.harness import Mounted, mounted
from servers import S3Server

__all__ = ["KINDS", "TRAITS", "Backdoor", "Place", "Site", "Traits", "open_site"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """What of POSIX a kind of store keeps; where it does not, a test says what happens instead.

    Attributes
    ----------
    posix : bool
        Modes, owners and times are real, and so are symbolic and hard links and device nodes.
        Elsewhere: remembered while it is mounted; links are second keys; the rest is EPERM.
    exchange : bool
        RENAME_EXCHANGE works.  Elsewhere: EINVAL.
    shared : bool
        Two mounts of it, even in two processes, show one store.
    claims : bool
        A name is taken as soon as it is created.  Elsewhere: when the file is closed, so that the
        second of two creators with O_EXCL learns of the first at its close.
    sized : bool
        There is a limit to its size that ``statfs(2)`` can tell.  Elsewhere: a petabyte.
    controls : bool
        Names may hold control characters.  Elsewhere: making one is EINVAL, looking for it ENOENT.
    slow : bool
        Its server is so slow that tests of many files use fewer.
    """

    posix: bool = False
    exchange: bool = False
    shared: bool = False
    claims: bool = False
    sized: bool = False
    controls: bool = True
    slow: bool = False


TRAITS = {
    "plain": Traits(posix=True, exchange=True, shared=True, claims=True, sized=True),
    "local": Traits(posix=True, exchange=True, shared=True, sized=True),
    "zip": Traits(sized=True),
    "memory": Traits(),
    "s3": Traits(shared=True, controls=False, slow=True),
}
KINDS = tuple(TRAITS)
MOUNTED = tuple(kind for kind in KINDS if kind != "plain")


class Backdoor:
    """A way to a store's bytes that does not go through the mount."""

    def write(self, key: str, data: bytes) -> None:
        """Store an object."""
        raise NotImplementedError

    def read(self, key: str) -> bytes:
        """Return an object; KeyError if there is none."""
        raise NotImplementedError

    def keys(self, prefix: str) -> set[str]:
        """Return the keys below a prefix, without it."""
        raise NotImplementedError

    def clear(self, prefix: str) -> None:
        """Remove what is below a prefix, where a store would grow slow with it."""


class LocalBackdoor(Backdoor):
    """The directory that is mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def read(self, key: str) -> bytes:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def keys(self, prefix: str) -> set[str]:
        top = self.root / prefix
        return {
            os.path.relpath(Path(directory) / name, top)
            for directory, _, names in os.walk(top)
            for name in names
        }


class S3Backdoor(Backdoor):
    """boto3, on the bucket that is mounted."""

    def __init__(self, server: S3Server, bucket: str, prefix: str) -> None:
        self._server, self._bucket, self._prefix = server, bucket, prefix

    @property
    def _client(self) -> Any:
        return s3_client(self._server, os.getpid())

    def write(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}{key}", Body=data)

    def read(self, key: str) -> bytes:
        client = self._client
        try:
            return client.get_object(Bucket=self._bucket, Key=f"{self._prefix}{key}")["Body"].read()
        except client.exceptions.NoSuchKey:
            raise KeyError(key) from None

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"{self._prefix}{key}")

    def keys(self, prefix: str) -> set[str]:
        start = f"{self._prefix}{prefix}/" if prefix else self._prefix
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start)
        return {found["Key"][len(start) :] for page in pages for found in page.get("Contents", [])}

    def clear(self, prefix: str) -> None:
        # The server that the tests start looks at all keys of a bucket for each listing.
        keys = sorted(f"{self._prefix}{prefix}/{name}" for name in self.keys(prefix))
        for start in range(0, len(keys), 1000):
            objects = [{"Key": key} for key in keys[start : start + 1000]]
            self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects})


@cache
def s3_client(server: S3Server, pid: int) -> Any:
    """Return a client for one process (connections do not outlive a fork)."""
    return server.client()


def s3_options(server: S3Server) -> tuple[str, ...]:
    """Return the options with which zarrmount reaches a server."""
    options = {"key": server.key, "secret": server.secret}
    words = [word for pair in options.items() for word in ("--storage-option", "=".join(pair))]
    return (*words, "--endpoint-url", server.endpoint, "--region", server.region)


@dataclasses.dataclass
class Site:
    """One mounted store, for as many tests as like to use it.

    Attributes
    ----------
    root : Path
        Where it is mounted.
    backdoor : Backdoor or None
        Where other programs can look at the store while it is mounted.
    mount : Mounted or None
        None for the kind ``plain``.
    again : callable
        A context manager that mounts the same store once more, and gives the path.
    """

    kind: str
    root: Path
    backdoor: Backdoor | None
    mount: Mounted | None
    again: Callable[[Path], Any]


@dataclasses.dataclass(frozen=True)
class Place:
    """A directory in a site, of one test; ``place / "name"`` is a path in it."""

    site: Site
    dir: Path
    made: float = dataclasses.field(default_factory=time.monotonic)

    def __truediv__(self, name: str) -> Path:
        return self.dir / name

    @property
    def kind(self) -> str:
        return self.site.kind

    @property
    def traits(self) -> Traits:
        return TRAITS[self.site.kind]

    @property
    def prefix(self) -> str:
        """The prefix in the store that the place is."""
        return str(self.dir.relative_to(self.site.root))

    def stored(self, name: str) -> bytes:
        """Return what the store itself has of a file here; KeyError if it has none."""
        assert self.site.backdoor is not None
        return self.site.backdoor.read(f"{self.prefix}/{name}")

    def stored_names(self) -> set[str]:
        """Return the names of the files that the store itself has here."""
        assert self.site.backdoor is not None
        return self.site.backdoor.keys(self.prefix)

    def store(self, name: str, data: bytes) -> None:
        """Put an object here, past the mount."""
        assert self.site.backdoor is not None
        if self.kind == "s3":  # for the time to live it is known to be empty, because it was made here
            time.sleep(max(0.0, self.made + 1.05 - time.monotonic()))
        self.site.backdoor.write(f"{self.prefix}/{name}", data)


@contextmanager
def open_site(kind: str, directory: Path, server: Callable[[], S3Server], *options: str) -> Iterator[Site]:
    """Mount a new, empty store of a kind."""
    backdoor: Backdoor | None = None
    if kind == "plain":
        root = directory / "plain"
        root.mkdir()

        @contextmanager
        def same(directory: Path) -> Iterator[Path]:
            yield root

        yield Site(kind, root, LocalBackdoor(root), None, same)
        return
    if kind == "local":
        location, words = str(directory / "store.zarr"), ("--create",)
        backdoor = LocalBackdoor(Path(location))
    elif kind == "zip":
        location, words = str(directory / "store.zarr.zip"), ("--create",)
    elif kind == "memory":
        location, words = "memory://store", ()
    elif kind == "s3":
        s3 = server()
        bucket = s3.create()
        location, words = f"s3://{bucket}/some/store.zarr", s3_options(s3)
        backdoor = S3Backdoor(s3, bucket, "some/store.zarr/")
    else:
        raise ValueError(kind)

    @contextmanager
    def again(directory: Path) -> Iterator[Path]:
        with mounted(location, directory, *words, *options) as mount:
            yield mount.path

    with ExitStack() as stack:
        mount = stack.enter_context(mounted(location, directory, *words, *options))
        yield Site(kind, mount.path, backdoor, mount, again)
