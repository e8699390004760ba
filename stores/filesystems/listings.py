"""Listing through fsspec: by level, or all below where its ``find`` can be trusted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress

from stores.concurrency import for_each
from stores.errors import NotFound, Unsupported
from stores.filesystems.files import PARTIAL
from stores.filesystems.gets import Gets
from stores.filesystems.kinds import mtime_of
from stores.filesystems.remote import Info, Remote
from stores.keys import join
from stores.meta import ListPage, PrefixMeta

__all__ = ["Listings"]

_PAGE = 1000


class Listings:
    """Every way to list one store.

    Parameters
    ----------
    remote : Remote
        What is listed.
    gets : Gets
        Tells what listings do not.
    listable : bool
        Whether it can be listed at all.
    """

    def __init__(self, remote: Remote, gets: Gets, listable: bool) -> None:
        self._remote = remote
        self._gets = gets
        self._listable = listable

    async def holds_anything(self, prefix: str) -> bool:
        """Whether there is anything directly below a prefix."""
        files, directories = await self._entries(prefix)
        return bool(files or directories)

    async def list_dir(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        """List what is directly below `prefix`."""
        files, directories = await self._entries(prefix)
        metas = await self._gets.metas(files)
        if metas or directories:
            below = (PrefixMeta(key, mtime_of(info)) for key, info in directories.items())
            yield ListPage(tuple(metas), tuple(below))

    async def list_all(self, prefix: str) -> AsyncGenerator[ListPage, None]:
        """List every object below `prefix`."""
        if self._remote.kind.flat:
            found = await self._found(prefix)
            keys = list(found)
            for first in range(0, len(keys), _PAGE):
                page = {key: found[key] for key in keys[first : first + _PAGE]}
                yield ListPage(tuple(await self._gets.metas(page)))
            return
        # fsspec's own find leaves out, silently, what it fails to list.
        waiting = [prefix]
        while waiting:
            files, directories = await self._entries(waiting.pop())
            # What is reached by a symbolic link may lead in a circle.
            waiting.extend(key for key, info in directories.items() if not info.get("islink"))
            metas = await self._gets.metas(files)
            if metas:
                yield ListPage(tuple(metas))

    async def _entries(self, prefix: str) -> tuple[dict[str, Info], dict[str, Info]]:
        """List one level: the infos of its files and of its directories, by key."""
        if not self._listable:
            raise Unsupported("this store cannot be listed", key=prefix or None)
        remote = self._remote
        path = await remote.path(prefix)
        files: dict[str, Info] = {}
        directories: dict[str, Info] = {}
        others: list[str] = []
        for info in await self._level(prefix, path):
            name = remote.relative(str(info["name"]), path)
            key = join(prefix, name.rstrip("/"))
            if remote.kind.flat and info["type"] == "directory" and str(info["name"]) == f"{path}/":
                directories[f"{prefix}/"] = info  # there are keys with an empty segment
            if not name.rstrip("/") or PARTIAL.fullmatch(name):
                continue
            if info.get("islink") or info["type"] == "link":
                others.append(key)
            elif info["type"] == "directory" or name.endswith("/"):
                directories[key] = info
            elif info["type"] == "file":
                files[key] = info

        async def follow(key: str) -> None:
            with suppress(NotFound):  # it leads nowhere
                info = await remote.info(await remote.path(key), key)
                if info["type"] in ("file", "directory"):
                    (files if info["type"] == "file" else directories)[key] = {**info, "islink": True}

        if others:
            await for_each(follow, others)
        return files, directories

    async def _level(self, prefix: str, path: str) -> list[Info]:
        """Return what the file system lists directly below a prefix, its path given."""
        remote = self._remote
        fs, _ = await remote.calls.filesystem()
        try:
            infos: list[Info] = await remote.fresh("ls", path or fs.root_marker, key=prefix, detail=True)
        except NotFound:
            if prefix == "" and (remote.kind.makes_dirs or remote.kind.bucket):
                await remote.check_root()
            return []
        return infos

    async def _found(self, prefix: str) -> dict[str, Info]:
        """Return the infos of all files below a prefix, by key."""
        remote = self._remote
        path = await remote.path(prefix)
        try:
            infos = await remote.fresh("find", path, key=prefix, detail=True)
        except NotFound:
            if prefix == "" and remote.kind.bucket:
                await remote.check_root()
            return {}
        files: dict[str, Info] = {}
        for info in infos.values() if isinstance(infos, dict) else ():  # adlfs: a list, of no use here
            name = remote.relative(str(info["name"]), path)
            # What ends with a slash marks a directory, for those who need one.
            if name and info["type"] == "file" and not name.endswith("/"):
                files[join(prefix, name)] = info
        return files
