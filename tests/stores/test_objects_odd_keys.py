"""Keys that obstore cannot name do not hide the others."""

from __future__ import annotations

import pytest
from servers import S3Server

from stores.base import Store
from stores.errors import Corrupt
from stores.objects import ObjectStore
from stores.objects.errors import UnlistableKey
from stores.objects.spare import spare_lister


def _fill(server: S3Server, *keys: str) -> str:
    bucket = server.create()
    client = server.client()
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


async def _names(store: Store, prefix: str) -> set[str]:
    names = set()
    async for page in store.list_dir(prefix):
        names |= {meta.key for meta in page.objects} | {below.prefix for below in page.prefixes}
    return names


async def test_odd_keys_do_not_hide_the_others(moto_server: S3Server) -> None:
    bucket = _fill(moto_server, "a/ok", "a//b", "a/../c", "x/./y", "..", "plain", "d/e")
    store = ObjectStore.from_url(f"s3://{bucket}", storage_options=moto_server.storage_options)
    async with store:
        assert {"a", "x", "d", "plain"} <= await _names(store, "")
        assert await _names(store, "a") >= {"a/ok", "a/"}  # of which a//b is below the second
        assert await _names(store, "d") == {"d/e"}
        assert (await store.lookup("a")).prefix is not None
        assert (await store.get("a/ok"))[0] == b"a/ok"
        found = {meta.key async for page in store.list_all("") for meta in page.objects}
        assert {"a/ok", "plain", "d/e"} <= found


async def test_below_a_prefix_of_the_bucket(moto_server: S3Server) -> None:
    bucket = _fill(moto_server, "deep/er/ok", "deep/er//odd", "other")
    store = ObjectStore.from_url(f"s3://{bucket}/deep/er", storage_options=moto_server.storage_options)
    async with store:
        assert "ok" in await _names(store, "")


def test_where_there_is_no_other_way_it_says_what_to_do() -> None:
    with pytest.raises(Corrupt, match="--backend fsspec"):
        spare_lister(object(), "azure", "", UnlistableKey("it holds a key", key="a"))
