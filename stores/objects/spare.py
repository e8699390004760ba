"""Another way to list a bucket that holds keys which obstore refuses.

A key such as ``a//b`` or ``..`` is legal in S3 and no path to obstore, whose listing breaks off there
and tells nothing of the other keys.  s3fs lists them all.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from stores.base import Store
from stores.errors import Corrupt
from stores.objects.errors import UnlistableKey

__all__ = ["spare_lister"]

_NAMES = {"access_key_id": "key", "secret_access_key": "secret", "session_token": "token"}


def spare_lister(obstore_store: Any, kind: str, prefix: str, error: UnlistableKey) -> Store:
    """Return a store over the same place that can list every key.

    Parameters
    ----------
    obstore_store : obstore store
        Where the listing broke off.
    kind : str
        ``s3``, ``azure``, ``gcs``, ...
    prefix : str
        Where in it the store begins.
    error : UnlistableKey
        Why it broke off.

    Raises
    ------
    Corrupt
        If there is no other way here; says what to type.
    """
    if kind != "s3":
        raise Corrupt(f"{error.message}; try --backend fsspec, or rename the key", key=error.key) from error
    if find_spec("s3fs") is None:
        raise Corrupt(f"{error.message}; s3fs can: pip install 'zarrmount[s3]'", key=error.key) from error
    from stores.filesystems import FsspecStore

    told = dict(obstore_store.config)
    options: dict[str, Any] = {ours: told[name] for name, ours in _NAMES.items() if told.get(name)}
    if told.get("skip_signature"):
        options["anon"] = True
    if told.get("request_payer"):
        options["requester_pays"] = True
    client = {"endpoint_url": told.get("endpoint"), "region_name": told.get("region")}
    options["client_kwargs"] = {name: value for name, value in client.items() if value}
    where = "/".join(part for part in (told["bucket"], obstore_store.prefix, prefix) if part)
    return FsspecStore.from_url(f"s3://{where}", storage_options=options, read_only=True)
