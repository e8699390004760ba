"""Chunks that are looked at in the order of their keys cost a request a page."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.errors import Unavailable
from stores.meta import Capabilities

COUNT = 2500


def array(count: int) -> dict[str, bytes]:
    document = {
        "zarr_format": 2,
        "shape": [count],
        "chunks": [1],
        "dtype": "|u1",
        "compressor": None,
        "filters": None,
        "fill_value": 0,
        "order": "C",
    }
    chunks = {f"a/{i}": str(i).encode() for i in range(count) if i % 7}
    return {"a/.zarray": json.dumps(document).encode(), **chunks}


@asynccontextmanager
async def looked_at(
    tmp_path: Path, profile: Capabilities = S3_LIKE
) -> AsyncIterator[tuple[Client, FakeStore]]:
    """Give a client whose array is known, and of whose chunks nothing is."""
    store = FakeStore(array(COUNT), profile, page=1000)
    client = Client(store, tmp_path, metadata_ttl=1)
    async with client.running(), client.at("a/.zarray"), client.at("a"):
        yield client, store
    client.at_rest()


def in_order() -> list[int]:
    return sorted(range(COUNT), key=str)


def requests(store: FakeStore) -> Counter[str]:
    return Counter(method for method, key in store.calls if not key.endswith(".zarray"))


async def test_a_request_a_page(tmp_path: Path, clock: MockClock) -> None:
    async with looked_at(tmp_path) as (client, store):
        store.latency = 0.02
        store.calls.clear()
        began = trio.current_time()
        for i in in_order():
            if i % 7:
                assert await client.size(f"a/{i}") == len(str(i))
            else:
                assert not await client.exists(f"a/{i}")
        counts = requests(store)
        assert counts["list_after"] <= 4
        assert counts.total() <= 4 + 10
        assert trio.current_time() - began < 1


async def test_what_a_page_says_is_told_no_longer_than_it_holds(tmp_path: Path, clock: MockClock) -> None:
    async with looked_at(tmp_path) as (client, store):
        for i in in_order()[:100]:
            await client.exists(f"a/{i}")
        following = next(i for i in in_order()[100:] if i % 7)
        store.change(f"a/{following}", b"another size")
        clock.jump(1.1)
        assert await client.size(f"a/{following}") == 12


async def test_a_change_here_is_seen_at_once(tmp_path: Path, clock: MockClock) -> None:
    async with looked_at(tmp_path) as (client, _):
        for i in in_order()[:100]:
            await client.exists(f"a/{i}")
        there, missing, removed = 1111, 1113 - 1113 % 7, 1116
        assert there % 7
        assert removed % 7
        await client.write(f"a/{there}", b"larger than before")
        await client.write(f"a/{missing}", b"new")
        await client.unlink(f"a/{removed}")
        clock.jump(0.5)
        assert await client.size(f"a/{there}") == 18
        assert await client.size(f"a/{missing}") == 3
        assert not await client.exists(f"a/{removed}")


async def test_in_no_order_each_is_asked_for(tmp_path: Path, clock: MockClock) -> None:
    async with looked_at(tmp_path) as (client, store):
        store.calls.clear()
        for i in reversed(in_order()[:200]):
            await client.exists(f"a/{i}")
        assert requests(store)["list_after"] == 0


@pytest.mark.parametrize("profile", [LOCAL_LIKE, MINIMAL], ids=["local", "minimal"])
async def test_stores_without_an_order(tmp_path: Path, clock: MockClock, profile: Capabilities) -> None:
    async with looked_at(tmp_path, profile) as (client, store):
        store.calls.clear()
        for i in in_order()[:50]:
            assert await client.exists(f"a/{i}") is bool(i % 7)
        assert requests(store)["list_after"] == 0


async def test_no_answer_is_an_error_and_never_absence(tmp_path: Path, clock: MockClock) -> None:
    async with looked_at(tmp_path) as (client, store):
        for i in in_order()[:20]:
            await client.exists(f"a/{i}")
        clock.jump(1.1)
        for i in in_order()[20:40]:
            await client.exists(f"a/{i}")
        store.fail("list_after", error=lambda: Unavailable("no answer"))
        store.fail("head", error=lambda: Unavailable("no answer"))
        store.fail("get", error=lambda: Unavailable("no answer"))
        store.fail("lookup", error=lambda: Unavailable("no answer"))
        clock.jump(1.1)
        assert await failure(client.exists("a/999")) == errno.EIO
