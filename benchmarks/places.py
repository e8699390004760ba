"""Where objects are: a directory, or a bucket behind a server that takes its time."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Objects = Iterable[tuple[str, bytes | bytearray | memoryview]]

SHM = Path("/dev/shm")
ROOM = 3 << 30


@dataclass(frozen=True)
class Place:
    """One store, in words that a process can be given.

    Attributes
    ----------
    directory : str or None
        A local directory; None for a bucket.
    endpoint : str
        The server, with its latency.
    direct : str
        The server without it: for preparing and looking, never for what is measured.
    bucket, key, secret, region : str
        As S3 has them.
    """

    directory: str | None = None
    endpoint: str = ""
    direct: str = ""
    bucket: str = ""
    key: str = ""
    secret: str = ""
    region: str = "us-east-1"

    @property
    def kind(self) -> str:
        """``local`` or ``s3``."""
        return "s3" if self.directory is None else "local"

    def near(self) -> Place:
        """Return the same without latency."""
        return replace(self, endpoint=self.direct)

    def obstore(self) -> Any:
        """Return it as a store of obstore's."""
        from obstore.store import LocalStore, S3Store

        if self.directory is not None:
            return LocalStore(self.directory)
        return S3Store(
            self.bucket,
            endpoint=self.endpoint,
            access_key_id=self.key,
            secret_access_key=self.secret,
            region=self.region,
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )

    def put(self, objects: Objects) -> None:
        """Store objects, many at once."""
        if self.directory is None:
            asyncio.run(self._put_to_bucket(objects))
        else:
            self._put_to_directory(Path(self.directory), objects)

    async def _put_to_bucket(self, objects: Objects) -> None:
        import obstore

        store, pending = self.near().obstore(), iter(objects)

        async def work() -> None:
            for key, data in pending:
                # Its multipart uploads would be as many requests more, for objects of any size.
                await obstore.put_async(store, key, bytes(data), use_multipart=len(data) > 64 << 20)

        await asyncio.gather(*(work() for _ in range(16)))

    def _put_to_directory(self, directory: Path, objects: Objects) -> None:
        made = set()
        for key, data in objects:
            path = directory / key
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            with path.open("wb") as file:
                file.write(data)

    def clear(self) -> None:
        """Remove all objects of a bucket."""
        import obstore

        store = self.near().obstore()
        for page in obstore.list(store, chunk_size=1000):
            obstore.delete(store, [meta["path"] for meta in page])


def local_root(needed: int = ROOM) -> Path:
    """Return where local stores go: memory if there is room, so that it isn't the disk that is measured."""
    given = os.environ.get("BENCH_LOCAL_DIR")
    if given:
        return Path(given)
    if SHM.is_dir() and shutil.disk_usage(SHM).free > needed:
        return SHM
    return Path(tempfile.gettempdir())
