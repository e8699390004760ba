"""What kind of store an obstore store is, and how to speak of it without secrets."""

from __future__ import annotations

import dataclasses
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store

from stores.errors import BadLocation
from stores.keys import join

__all__ = ["Place", "without_path"]

_KINDS = {
    S3Store: "s3",
    AzureStore: "azure",
    GCSStore: "gcs",
    HTTPStore: "http",
    LocalStore: "local",
    MemoryStore: "memory",
}
_OWNERS = {"s3": "AWS", "gcs": "Google", "azure": "Azure"}
_SCHEMES = {"s3": "s3", "gcs": "gs", "azure": "az"}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where an obstore store is.

    Attributes
    ----------
    kind : str
        ``s3``, ``azure``, ``gcs``, ``http``, ``local`` or ``memory``.
    endpoint : str
        The server, for messages about the network.
    bucket : str
        What to call the bucket, such as ``"bucket 'data'"``; empty where there is none.
    base : str
        The location of the store's own root.
    """

    kind: str
    endpoint: str
    bucket: str
    base: str

    @classmethod
    def of(cls, store: Any) -> Place:
        """Describe `store`; BadLocation if it is none of obstore's."""
        kind = next((name for kind, name in _KINDS.items() if isinstance(store, kind)), None)
        if kind is None:
            raise BadLocation(f"a {type(store).__name__} is no store of obstore's")
        if kind == "memory":
            return cls(kind, "memory", "", "memory://")
        if kind == "local":
            return cls(kind, "the disk", "", f"file://{store.prefix or ''}")
        if kind == "http":
            parts = urlsplit(store.url)
            endpoint = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            return cls(kind, endpoint, "", f"{endpoint}{parts.path.rstrip('/')}")
        config = store.config
        url = config.get("endpoint") or config.get("base_url") or ""
        parts = urlsplit(str(url))
        endpoint = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if url else _OWNERS[kind]
        name = str(config.get("bucket") or config.get("container_name") or "")
        called = f"{'container' if kind == 'azure' else 'bucket'} {name!r}"
        below = str(store.prefix or "").strip("/")
        return cls(kind, endpoint, called, join(f"{_SCHEMES[kind]}://{name}", below))


def without_path(store: HTTPStore) -> tuple[HTTPStore, str]:
    """Return a store for the whole server, and the path that `store` began at.

    obstore takes the paths in a WebDAV listing for keys as they are, which is right only for a store
    of the whole server.
    """
    parts = urlsplit(store.url)
    path = unquote(parts.path).strip("/")
    if not path:
        return store, ""
    url = parts._replace(path="").geturl()
    return HTTPStore(url, client_options=store.client_options, retry_config=store.retry_config), path
