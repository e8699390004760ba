"""A store that zarrmount is told of as ``python:tools.snapshots:snapshot``."""

from __future__ import annotations

import icechunk
from zarr.abc.store import Store


def snapshot(path: str) -> Store:
    """Return the newest snapshot of an Icechunk repository."""
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(path))
    return repository.readonly_session("main").store
