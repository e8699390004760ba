"""zarr-python's stores as ours: the conformance kit over two of them, and unwrapping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from zarr.storage import LocalStore as ZarrLocalStore
from zarr.storage import MemoryStore as ZarrMemoryStore

from stores.base import Store
from stores.bridge import Bridge
from stores.errors import InvalidKey
from stores.foreign import ForeignStore
from stores.meta import Capabilities
from stores.testing import ODD_NAMES, StoreConformance

SHORT_NAMES = [name for name in ODD_NAMES if len(name.encode()) <= 200]


@pytest.fixture(autouse=True, scope="module")
def close_the_bridge() -> Iterator[None]:
    yield
    Bridge.shared().close()


class TestForeignLocal(StoreConformance):
    capabilities = Capabilities(listable=True, ranges=True)
    object_and_prefix = False
    many_keys = 500

    async def make_store(self, tmp_path: Path) -> ForeignStore:
        return ForeignStore(ZarrLocalStore(tmp_path / "data"))

    @pytest.mark.parametrize("name", SHORT_NAMES, ids=range(len(SHORT_NAMES)))
    async def test_odd_names(self, store: Store, name: str) -> None:
        await super().test_odd_names(store, name)

    async def test_long_names(self, store: Store) -> None:
        """zarr writes beside them a name that is longer still."""
        with pytest.raises(InvalidKey):
            await store.put("n" * 250, b"x")


class TestForeignMemory(StoreConformance):
    capabilities = Capabilities(listable=True, ranges=True)
    many_keys = 500

    async def make_store(self, tmp_path: Path) -> ForeignStore:
        return ForeignStore(ZarrMemoryStore())
