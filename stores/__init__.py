"""Asynchronous key-value stores for Zarr: one protocol over every place where Zarr data is kept.

>>> from stores import open_store
>>> async with open_store("s3://bucket/data.zarr", anon=True, read_only=True) as store:
...     data, meta = await store.get("zarr.json")

Everything below is imported when it is first asked for: ``import stores`` costs nothing, and a
store costs only the libraries that it needs itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores.base import ObjectReader, Store
    from stores.errors import (
        AlreadyExists,
        BadLocation,
        Corrupt,
        Denied,
        InvalidKey,
        NoSpace,
        NotFound,
        Precondition,
        ReadOnly,
        StoreError,
        Unavailable,
        Unsupported,
    )
    from stores.filesystems import FsspecStore
    from stores.foreign import ForeignStore
    from stores.local import LocalStore
    from stores.memory import MemoryStore
    from stores.meta import (
        AttributeChange,
        Capabilities,
        ListPage,
        Lookup,
        ObjectMeta,
        PosixAttributes,
        PrefixMeta,
        Usage,
    )
    from stores.objects import ObjectStore
    from stores.opening import open_store
    from stores.zarr_adapter import as_zarr_store
    from stores.zipped import ZipStore

__all__ = [
    "AlreadyExists",
    "AttributeChange",
    "BadLocation",
    "Capabilities",
    "Corrupt",
    "Denied",
    "ForeignStore",
    "FsspecStore",
    "InvalidKey",
    "ListPage",
    "LocalStore",
    "Lookup",
    "MemoryStore",
    "NoSpace",
    "NotFound",
    "ObjectMeta",
    "ObjectReader",
    "ObjectStore",
    "PosixAttributes",
    "Precondition",
    "PrefixMeta",
    "ReadOnly",
    "Store",
    "StoreError",
    "Unavailable",
    "Unsupported",
    "Usage",
    "ZipStore",
    "as_zarr_store",
    "open_store",
]

_HOME = {
    "FsspecStore": "filesystems",
    "ForeignStore": "foreign",
    "LocalStore": "local",
    "MemoryStore": "memory",
    "ObjectReader": "base",
    "ObjectStore": "objects",
    "Store": "base",
    "ZipStore": "zipped",
    "as_zarr_store": "zarr_adapter",
    "open_store": "opening",
} | dict.fromkeys(
    (
        "AttributeChange",
        "Capabilities",
        "ListPage",
        "Lookup",
        "ObjectMeta",
        "PosixAttributes",
        "PrefixMeta",
        "Usage",
    ),
    "meta",
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'stores' has no attribute {name!r}")
    module = importlib.import_module(f"stores.{_HOME.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
