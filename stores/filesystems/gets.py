"""Reading through fsspec, for one version: on S3 in one request, elsewhere with a look before or after.

Outside of S3 fsspec has no conditional get: the version is looked at *after* the bytes were read.  The
caller saw that version before, so bytes read in between are of that version.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from stores.concurrency import for_each
from stores.errors import NotFound, Precondition, StoreError, Unavailable, Unsupported
from stores.filesystems.files import read_async, read_sync
from stores.filesystems.remote import Info, Remote
from stores.meta import ObjectMeta

__all__ = ["Gets"]

_ATTEMPTS = 100  # of an object that others rewrite all the time
_LARGE = 1 << 26


class Gets:
    """Whole objects, ranges of them, and what is told of them.

    Parameters
    ----------
    remote : Remote
        Where from.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    # -- metas ---------------------------------------------------------------------------------

    async def head(self, key: str) -> ObjectMeta:
        """Return the meta of an object."""
        info = await self._remote.info(await self._remote.path(key), key)
        if info["type"] != "file":
            raise NotFound("no such key", key=key)
        return await self.meta(key, info)

    async def meta(self, key: str, info: Info) -> ObjectMeta:
        """Return the meta of an object of which an info is told, whether that tells its size or not."""
        size = info.get("size")
        if size is None:  # an HTTP server that does not say, or a listing that does not
            size = (await self._remote.info(await self._remote.path(key), key)).get("size")
        if size is None:
            size = len((await self._read(key, {}, before=False, after=False))[1])
        return self._remote.meta_of(key, info, int(size))

    async def metas(self, infos: Mapping[str, Info]) -> list[ObjectMeta]:
        """Return the metas of objects, by whose keys infos are given; without those that are gone."""
        sized = {key: int(info["size"]) for key, info in infos.items() if info.get("size") is not None}
        metas = [self._remote.meta_of(key, infos[key], size) for key, size in sized.items()]

        async def add(key: str) -> None:
            with suppress(NotFound):  # deleted since it was listed
                metas.append(await self.meta(key, infos[key]))

        if len(sized) < len(infos):
            await for_each(add, infos.keys() - sized.keys())
        return metas

    # -- bytes ---------------------------------------------------------------------------------

    async def get(self, key: str, if_version: str | None) -> tuple[bytes, ObjectMeta]:
        """Return a whole object and its meta."""
        self._check_condition(if_version, key)
        remote = self._remote
        if remote.is_s3:
            data, info = await self._s3_get(key, None, None, if_version)
            return data, remote.meta_of(key, info, len(data))
        versioned = bool(remote.kind.version)
        for _ in range(_ATTEMPTS):
            before, data, after = await self._read(key, {}, before=True, after=versioned)
            if before["type"] != "file":
                raise NotFound("no such key", key=key)
            meta = remote.meta_of(key, before, len(data))
            _check_version(meta.version, if_version, key)
            if not versioned or remote.version_of(after) == meta.version:
                return data, meta
        raise Unavailable("it changes faster than it can be read", key=key)

    async def get_range(self, key: str, start: int, stop: int, if_version: str | None) -> bytes:
        """Return the bytes ``[start, stop)`` of an object, fewer only where it ends."""
        self._check_condition(if_version, key)
        try:
            if self._remote.is_s3:
                data, _ = await self._s3_get(key, start, stop, if_version)
                return data
            if stop - start > _LARGE:  # many file systems make room for all that is asked for
                stop = max(start, min(stop, (await self.head(key)).size))
            limits = {"start": start, "end": stop}
            _, data, after = await self._read(key, limits, before=False, after=if_version is not None)
        except (NotFound, Precondition):
            raise
        except StoreError:
            # Many refuse a range that begins behind the end; the contract has it empty.
            meta = await self.head(key)
            _check_version(meta.version, if_version, key)
            if start >= meta.size:
                return b""
            raise
        _check_version(self._remote.version_of(after), if_version, key)
        return data[: stop - start] if len(data) > stop - start else data

    async def _read(
        self, key: str, limits: dict[str, int], *, before: bool, after: bool
    ) -> tuple[Info, bytes, Info]:
        """Read bytes, with an info (or an empty one) from before and one from after that."""
        remote = self._remote
        path = await remote.path(key)
        fs, _ = await remote.calls.filesystem()
        try:
            told: tuple[Info, bytes, Info] = await remote.either(
                read_async, read_sync, fs, path, limits, before, after
            )
        except Exception as error:
            raise remote.translated(error, key) from error
        return told

    async def _s3_get(
        self, key: str, start: int | None, stop: int | None, if_version: str | None
    ) -> tuple[bytes, Info]:
        from stores.filesystems.s3 import get_object

        remote = self._remote
        fs, _ = await remote.calls.filesystem()
        path = await remote.path(key)
        try:
            data, info = await remote.calls.await_on_loop(get_object, fs, path, start, stop, if_version)
        except Exception as error:
            raise remote.translated(error, key) from error
        _check_version(remote.version_of(info), if_version, key)
        return data, info

    def _check_condition(self, if_version: str | None, key: str) -> None:
        if if_version is not None and not self._remote.kind.version:
            raise Unsupported("this kind of file system has no versions", key=key)


def _check_version(found: str | None, if_version: str | None, key: str) -> None:
    if if_version is not None and found != if_version:
        raise Precondition("it has changed since it was looked up", key=key)
