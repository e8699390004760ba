"""Settings of the whole test suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")

ZARR_SUITE = Path(__file__).parent / "zarr_suite"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out zarr-python's own suite, which needs another event loop and a run of its own.

    ``pytest tests/zarr_suite -o trio_mode=false -o asyncio_mode=auto``
    """
    inside = collection_path == ZARR_SUITE or ZARR_SUITE in collection_path.parents
    return True if inside and config.getini("trio_mode") else None
