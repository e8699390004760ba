"""What is there, for the tests of several stores to compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stores.base import Store


async def content(store: Store) -> dict[str, bytes]:
    """Read all objects of a store."""
    from stores.testing import collect  # with pytest, which the many processes of zip_crasher.py do not need

    return {key: (await store.get(key))[0] for key in (await collect(store, recursive=True)).objects}


def names(directory: Path) -> list[str]:
    """Return what is in a directory of the disk."""
    return sorted(found.name for found in directory.iterdir())
