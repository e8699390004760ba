"""Which faults of a network and a server are noticed, and which cannot be.

HTTP and S3 protect some things and not others; this says exactly what, with the real library, the
real server and every kind of fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from mount.places import S3Backdoor
from reliability.faults import Schedule
from reliability.faulty_proxy import KINDS, FaultyProxy, faulty_proxy
from servers import S3Server

from stores.errors import Denied, StoreError, Unavailable
from stores.objects.store import ObjectStore

CONTENT = bytes(range(256)) * 400


@dataclasses.dataclass
class Site:
    proxy: FaultyProxy
    store: ObjectStore
    backdoor: S3Backdoor


@pytest.fixture
def site(gateway: S3Server) -> Iterator[Site]:
    bucket = gateway.create()
    backdoor = S3Backdoor(gateway, bucket, "")
    backdoor.write("key", CONTENT)
    with faulty_proxy(gateway.endpoint, Schedule(1)) as proxy:
        options = {
            **gateway.storage_options,
            "endpoint_url": proxy.endpoint,
            "region": gateway.region,
            "client_options": {"timeout": "1s"},
            "retry_config": {"max_retries": 0},
        }
        yield Site(proxy, ObjectStore.from_url(f"s3://{bucket}", storage_options=options), backdoor)


OF_PUTS = {"late", "reset_request", "corrupt_request"}
UNNOTICED = {"latency", "corrupt", "too_short"}


@pytest.mark.parametrize("kind", sorted(KINDS - OF_PUTS - UNNOTICED))
async def test_a_read_that_is_cut_or_refused_is_an_error(site: Site, kind: str) -> None:
    await site.store.open()
    site.proxy.blocked = kind
    expected = Denied if kind == "expired" else Unavailable
    with pytest.raises(expected):
        await site.store.get("key")
    with pytest.raises(expected):
        await site.store.get_range("key", 1000, 90_000)


async def test_an_answer_that_says_that_half_of_it_is_all(site: Site) -> None:
    """HTTP cannot tell; the reader of a file knows the size, and makes EIO of it (test_walks)."""
    await site.store.open()
    site.proxy.blocked = "too_short"
    assert await site.store.get_range("key", 0, 1000) == CONTENT[:500]
    data, meta = await site.store.get("key")
    assert (data, meta.size) == (CONTENT[: len(CONTENT) // 2], len(data))


async def test_a_flipped_bit_of_an_answer_is_not_noticed(site: Site) -> None:
    """Nothing in an S3 answer over plain HTTP covers the body: use https, where TLS does.

    If this fails, the library has learned to check: then say so in the documentation.
    """
    await site.store.open()
    site.proxy.blocked = "corrupt"
    data, _ = await site.store.get("key")
    assert len(data) == len(CONTENT)
    assert sum(a != b for a, b in zip(data, CONTENT, strict=True)) == 1


async def test_a_flipped_bit_of_a_put_is_refused_by_the_server(site: Site) -> None:
    """The signature of a request covers the SHA-256 of its body."""
    await site.store.open()
    site.proxy.blocked = "corrupt_request"
    with pytest.raises(StoreError):
        await site.store.put("key", b"new bytes" * 1000)
    site.proxy.blocked = ""
    assert site.backdoor.read("key") == CONTENT


@pytest.mark.parametrize("kind", ["refused", "reset_request", "500", "503", "429", "dropped", "truncated"])
async def test_a_put_that_fails_is_an_error_and_leaves_old_or_new(site: Site, kind: str) -> None:
    await site.store.open()
    site.proxy.blocked = kind
    new = b"new bytes" * 1000
    try:
        await site.store.put("key", new)
    except Unavailable:
        assert site.backdoor.read("key") in (CONTENT, new)
    else:  # the answer of a put has no body that anybody needs
        assert kind == "truncated"
        assert site.backdoor.read("key") == new
