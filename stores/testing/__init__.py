"""The conformance kit: what every store must do, as tests that a backend's test class inherits.

>>> class TestMemory(StoreConformance):                                      # doctest: +SKIP
...     capabilities = Capabilities(listable=True, versions=True)  # stated, not copied
...
...     async def make_store(self, tmp_path):
...         return MemoryStore()

The tests are coroutines for pytest-trio (``trio_mode = true``).  A backend that needs a server takes
it by a fixture of its own class (``autouse=True``) and keeps it on ``self``.  No test is ever skipped:
where a capability is not declared, the test asserts that it is lacking.  How a backend may differ
otherwise is said by the class attributes of :class:`~stores.testing._kit.Kit`, and by nothing else.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    *(f"stores.testing._{name}" for name in ("kit", "reading", "listing", "writing", "tree", "posix"))
)

from stores.testing._kit import INVALID_KEYS, ODD_NAMES, Kit, Listing, collect, each_raises  # noqa: E402 - after the line above
from stores.testing._listing import ListingTests  # noqa: E402
from stores.testing._posix import PosixTests  # noqa: E402
from stores.testing._reading import ReadingTests  # noqa: E402
from stores.testing._tree import TreeTests  # noqa: E402
from stores.testing._writing import RefusalTests, WritingTests  # noqa: E402

__all__ = [
    "INVALID_KEYS",
    "ODD_NAMES",
    "Kit",
    "Listing",
    "ReadOnlyStoreConformance",
    "StoreConformance",
    "collect",
    "each_raises",
]


class StoreConformance(ReadingTests, ListingTests, WritingTests, TreeTests, PosixTests):
    """The whole contract, for stores that can be written."""


class ReadOnlyStoreConformance(ReadingTests, ListingTests, RefusalTests):
    """The contract of stores that can never be written; `backdoor_put` must be overridden."""

    writable = False
