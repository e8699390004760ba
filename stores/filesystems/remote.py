"""A file system of fsspec as a store asks it: by key, with every error translated, never from a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from stores.errors import NotFound, StoreError
from stores.filesystems.calls import Calls
from stores.filesystems.files import fresh_async, fresh_sync
from stores.filesystems.kinds import kind_of, mtime_of, version_of
from stores.meta import ObjectMeta
from stores.translation import translate_error

__all__ = ["Info", "Remote"]

Info = Mapping[str, Any]
"""What fsspec tells of a file or directory."""


class Remote:
    """The part of a file system that a store shows.

    Parameters
    ----------
    calls : Calls
        Of the file system.
    protocols : tuple of str
        The names of its protocol.
    location : str
        Of the store, without any secret.

    Attributes
    ----------
    kind : Kind
        What the file system does.
    is_web, is_s3, is_local : bool
        What sort of place it is.
    """

    def __init__(self, calls: Calls, protocols: tuple[str, ...], location: str) -> None:
        self.calls = calls
        self.location = location
        self.kind = kind_of(protocols)
        self.is_web = bool({"http", "https"} & set(protocols))
        self.is_s3 = "s3" in protocols
        self.is_local = bool({"file", "local"} & set(protocols))

    async def check_root(self) -> None:
        """Connect, and make sure that the bucket or directory is there."""
        try:
            fs, root = await self.calls.filesystem()
            await self.info(root or fs.root_marker)
        except NotFound as error:
            if self.kind.makes_dirs:
                raise NotFound(f"there is no directory {self.location}") from error
            if self.kind.bucket:
                await self._check_bucket(root)
            # Elsewhere a prefix of no objects is as good as an empty one, and web servers often have
            # no page for what is above their files.
        except StoreError:
            raise
        except Exception as error:
            raise self.translated(error, None) from error

    async def _check_bucket(self, root: str) -> None:
        bucket = root.lstrip("/").partition("/")[0]
        try:
            await self.info(bucket)
        except NotFound as error:
            raise NotFound(f"there is no bucket {bucket!r}") from error

    # -- names ---------------------------------------------------------------------------------

    async def path(self, key: str) -> str:
        """Return what the file system calls a key."""
        try:
            fs, root = await self.calls.filesystem()
        except Exception as error:
            raise self.translated(error, key or None) from error
        name = quote(key) if self.is_web else key
        if not name:
            return root
        return f"{root}/{name}" if root or fs.root_marker == "/" else name

    def relative(self, name: str, path: str) -> str:
        """Return a name of a listing relative to the path that was listed; empty for that path itself."""
        name, path = name.lstrip("/"), path.strip("/")
        if path and name.rstrip("/") == path:
            return ""
        if path and name.startswith(f"{path}/"):
            name = name[len(path) + 1 :]
        elif path:
            name = name.rpartition("/")[2]
        if not self.is_web:
            return name
        return "" if "?" in name or "#" in name else unquote(name)  # links that sort the page

    # -- calls ---------------------------------------------------------------------------------

    async def call(self, name: str, *args: Any, key: str | None, **kwargs: Any) -> Any:
        """Call a method of the file system about `key`."""
        try:
            return await self.calls.call(name, *args, **kwargs)
        except Exception as error:
            raise self.translated(error, key or None) from error

    async def fresh(self, name: str, path: str, *, key: str | None, **kwargs: Any) -> Any:
        """Call a method with nothing of it answered from fsspec's cache of listings."""
        try:
            fs, _ = await self.calls.filesystem()
            return await self.either(fresh_async, fresh_sync, fs, name, path, kwargs)
        except Exception as error:
            raise self.translated(error, key or None) from error

    async def either(self, on_loop: Callable[..., Any], in_thread: Callable[..., Any], *args: Any) -> Any:
        """Call the one function if the file system is asynchronous, else the other; errors as they are."""
        if self.calls.is_async:
            return await self.calls.await_on_loop(on_loop, *args)
        return await self.calls.in_thread(in_thread, *args)

    async def info(self, path: str, key: str | None = None) -> Info:
        """Return what the file system tells of a path."""
        info: Info = await self.fresh("info", path, key=key)
        return info

    def translated(self, error: Exception, key: str | None) -> StoreError:
        """Return the StoreError for what a call raised."""
        return translate_error(error, key, exact_errno=self.is_local)

    # -- metas ---------------------------------------------------------------------------------

    def version_of(self, info: Info) -> str | None:
        """Return the version that an info tells, if there are any."""
        return version_of(self.kind, info)

    def meta_of(self, key: str, info: Info, size: int) -> ObjectMeta:
        """Return the meta of an object of which an info is told, its size given."""
        return ObjectMeta(key, size, mtime_of(info), self.version_of(info))
