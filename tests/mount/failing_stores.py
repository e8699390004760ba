"""Stores for ``python:mount.failing_stores:...``: prepared ones, and such as fail on demand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from zarr.core.buffer import Buffer, cpu
from zarr.storage import MemoryStore

__all__ = ["both", "does_as_told", "fails_while"]


class FailsWhile(MemoryStore):
    """A store in memory that cannot be written to while a certain file exists."""

    flag: Path

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        if self.flag.exists():
            raise OSError(5, "the flag says that it fails")
        await super().set(key, value, byte_range)


def fails_while(**options: Any) -> MemoryStore:
    """Make a store that fails while the file `flag` exists."""
    store = FailsWhile()
    store.flag = Path(options["flag"])
    return store


class DoesAsTold(MemoryStore):
    """A store in memory that fails in the way that a certain file says."""

    flag: Path

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        while (said := self.flag.read_text()) == "hang":
            await asyncio.sleep(0.02)
        if said == "refuse":
            raise PermissionError(13, "the flag says that it refuses")
        if said == "fail":
            raise OSError(5, "the flag says that it fails")
        await super().set(key, value, byte_range)
        if said == "lose":
            raise OSError(5, "the flag says that the answer is lost")

    async def delete(self, key: str) -> None:
        await super().delete(key)
        if self.flag.read_text() == "lose deletions":
            raise OSError(5, "the flag says that the answer is lost")


def does_as_told(**options: Any) -> MemoryStore:
    """Make a store that is written to as the file `flag` says: hang, refuse, fail, lose, or well."""
    store = DoesAsTold()
    store.flag = Path(options["flag"])
    return store


def both(**_options: Any) -> MemoryStore:
    """Make a store with keys that a directory tree cannot show as they are."""
    keys = ["a", "a/b", "dir//inner", "../outside", "x/../y", "/absolute", "nul\0name", "n" * 300, "good"]
    return MemoryStore({key: cpu.Buffer.from_bytes(key.encode()) for key in keys})
