"""How many requests a listing of S3 takes, and what it shows where pages end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import anyio
import pytest
from reliability.faulty_proxy import FaultyProxy, faulty_proxy
from servers import S3Server

from stores.meta import ObjectMeta
from stores.objects.store import PAGE, ObjectStore
from stores.testing._kit import collect


@pytest.fixture(scope="module")
def proxy(moto_server: S3Server) -> Iterator[tuple[FaultyProxy, str]]:
    bucket = moto_server.create()
    client = moto_server.client()
    keys = [f"leaf/{number:05}" for number in range(PAGE + 7)]
    keys += [f"tree/c/{i}/{j}" for i in range(3) for j in range(350)]
    keys += [f"exact/{number:05}" for number in range(PAGE)]
    keys += ["few/a", "few/b/c", "few/b/d/e", "marked/a", "marked/d/", "marked/e/", "marked/e/x"]
    keys += [f"late/{number:05}" for number in range(PAGE + 5)] + ["late/00700/x", "late/z/x"]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"" if key.endswith("/") else b"x")
    client.put_object(Bucket=bucket, Key="few/empty", Body=b"")
    with faulty_proxy(moto_server.endpoint) as running:
        yield running, bucket


@pytest.fixture
def store(proxy: tuple[FaultyProxy, str], moto_server: S3Server) -> ObjectStore:
    running, bucket = proxy
    options = {**moto_server.storage_options, "endpoint_url": running.endpoint}
    return ObjectStore.from_url(f"s3://{bucket}", storage_options=options)


@pytest.mark.parametrize(
    ("prefix", "objects", "prefixes", "requests"),
    [
        ("leaf", PAGE + 7, [], 2),
        ("exact", PAGE, [], 1),
        ("none", 0, [], 1),
        ("tree/c/1", 350, [], 1),
        ("tree/c", 0, ["tree/c/0", "tree/c/1", "tree/c/2"], 2),
        ("tree", 0, ["tree/c"], 2),
        ("few", 2, ["few/b"], 2),  # an empty object may be the marker of a directory: that takes another
        ("few/b", 1, ["few/b/d"], 1),
        ("marked", 1, ["marked/d", "marked/e"], 2),
        ("late", PAGE + 5, ["late/00700", "late/z"], 3),
    ],
)
async def test_a_listing(
    store: ObjectStore,
    proxy: tuple[FaultyProxy, str],
    prefix: str,
    objects: int,
    prefixes: list[str],
    requests: int,
) -> None:
    await store.open()
    before = proxy[0].requests
    found = await collect(store, prefix)
    assert (len(found.objects), sorted(found.prefixes)) == (objects, prefixes)
    assert proxy[0].requests - before <= requests


async def test_what_is_known_to_be_deep_is_listed_by_level_at_once(
    store: ObjectStore, proxy: tuple[FaultyProxy, str]
) -> None:
    await collect(store, "tree")
    before = proxy[0].requests
    assert list((await collect(store, "tree")).prefixes) == ["tree/c"]
    assert proxy[0].requests - before == 1


async def test_a_page_is_asked_for_when_it_is_wanted(
    store: ObjectStore, proxy: tuple[FaultyProxy, str]
) -> None:
    await store.open()
    before = proxy[0].requests
    for listing in (store.list_dir("leaf"), store.list_after("", "leaf/00500")):
        async with aclosing(listing) as pages:
            page = await anext(pages)
            assert page.asked_alone
            assert len(page.objects) == PAGE
            await anyio.sleep(0.05)
            assert proxy[0].requests - before == 1
        before = proxy[0].requests


async def test_an_order_of_its_own_hides_nothing(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = store._remote.meta

    def shuffled(raw: dict[str, object], key: str) -> ObjectMeta:
        return asked(raw, f"leaf/{int(key[5:]) * 709 % (PAGE + 7):05}" if key.startswith("leaf/") else key)

    monkeypatch.setattr(store._remote, "meta", shuffled)
    found = await collect(store, "leaf")
    assert len(found.objects) == PAGE + 7
