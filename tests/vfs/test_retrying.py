"""What is tried again can be told while it is, for whoever waits for the end of a mount."""

from __future__ import annotations

from pathlib import Path

import trio
from client import Client
from fake_store import FakeStore
from trio.testing import MockClock

from stores.errors import Unavailable


async def test_what_store_everything_tries_again_is_told(clock: MockClock, tmp_path: Path) -> None:
    store = FakeStore()
    client = Client(store, tmp_path, write_timeout=1)
    store.fail("put", "bad", error=lambda: Unavailable("503"))
    for key in ("bad", "good"):
        try:
            await client.write(key, b"12345")
        except Unavailable:
            assert key == "bad"
    assert client.vfs.dirty() == [("bad", 5)]
    assert client.vfs.retrying() == {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.vfs.store_everything)
        await trio.sleep(0.1)
        assert client.vfs.retrying() == {"bad": "503"}
    assert client.vfs.retrying() == {}
    assert client.vfs.dirty() == [("bad", 5)]
