"""Storing through fsspec: from memory or in parts, beside the name or in place, as the table says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_thread

from stores.bodies import BodyFailed, BodyReader
from stores.errors import AlreadyExists, NotFound, Precondition
from stores.filesystems.files import LARGE, Place, in_parts, path_of, remove, write
from stores.filesystems.gets import Gets
from stores.filesystems.remote import Remote
from stores.meta import Body, ObjectMeta

__all__ = ["Puts"]


class Puts:
    """Puts into one store, and deletions from it.

    Parameters
    ----------
    remote : Remote
        Where to.
    gets : Gets
        Tells what a put has stored, where its answer does not.
    """

    def __init__(self, remote: Remote, gets: Gets) -> None:
        self._remote = remote
        self._gets = gets

    async def put(self, key: str, body: Body, if_absent: bool) -> ObjectMeta:
        """Store an object, and return what is now there."""
        remote = self._remote
        path = await remote.path(key)
        reader = BodyReader(body)
        try:
            size, told = await self._store(path, body, reader, if_absent)
        except BodyFailed as failed:
            raise failed.error from None
        except (IsADirectoryError, NotADirectoryError) as error:
            raise AlreadyExists(
                "an object or a directory is in the way",
                key=key,
                os_errno=error.errno if remote.is_local else None,
            ) from error
        except Exception as error:
            translated = remote.translated(error, key)
            if if_absent and isinstance(translated, Precondition):
                raise AlreadyExists("the key is taken", key=key) from error
            raise translated from error
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(reader.let_go)
            raise
        if remote.is_s3 and isinstance(told, dict) and told.get("ETag"):
            return remote.meta_of(key, told, size)
        return await self._gets.head(key)

    async def delete(self, key: str) -> None:
        """Delete an object, and the directories that it leaves empty where they are real."""
        remote = self._remote
        path = await remote.path(key)
        if not remote.kind.makes_dirs or remote.calls.is_async:
            await remote.call("rm_file", path, key=key)
            return
        fs, root = await remote.calls.filesystem()
        try:
            await remote.calls.in_thread(remove, Place(fs, remote.kind, root, path))
        except Exception as error:
            raise remote.translated(error, key) from error

    async def _store(self, path: str, body: Body, reader: BodyReader, if_absent: bool) -> tuple[int, Any]:
        """Store a body; return its size and what the file system told."""
        remote = self._remote
        fs, root = await remote.calls.filesystem()
        if not remote.calls.is_async:
            place = Place(fs, remote.kind, root, path)
            return await remote.calls.in_thread(write, place, reader, if_absent=if_absent), None
        options: dict[str, Any] = {"mode": "create"} if if_absent else {}
        size = reader.size() if reader.in_memory else await anyio.to_thread.run_sync(reader.size)
        if size >= LARGE and remote.kind.parts:
            with path_of(body) as source:
                if source is not None:
                    if if_absent:
                        await self._check_absent(path)
                    await self._send_in_parts(source, path, options | in_parts(remote.kind, size))
                    return size, None
        data = reader.whole() if reader.in_memory else await anyio.to_thread.run_sync(reader.whole)
        return len(data), await remote.calls.call("pipe_file", path, data, **options)

    async def _check_absent(self, path: str) -> None:
        # Some servers, older RADOS Gateways for one, ignore the condition of an upload in parts.
        try:
            await self._remote.info(path)
        except NotFound:
            return
        raise FileExistsError(path)

    async def _send_in_parts(self, source: str, path: str, options: Mapping[str, Any]) -> None:
        calls = self._remote.calls
        if not self._remote.is_s3:
            await calls.call("put_file", source, path, **options)
            return
        from stores.filesystems.s3 import put_file

        fs, _ = await calls.filesystem()
        await calls.await_on_loop(put_file, fs, source, path, **options)
