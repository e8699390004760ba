"""How many requests each operation costs on an object store; docs/ARCHITECTURE.md has the same table."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from client import Client
from fake_store import FakeStore
from trio.testing import MockClock

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "ARCHITECTURE.md"
COSTS = {"lookup": 2, "copy": 2, "next_page": 0}  # HEAD and LIST; COPY and HEAD; all fits in one page
DATA = {"d/a": b"1", "d/b": b"1", "d/draft.tmp": b"1", "d/e/x": b"1"}


def requests(store: FakeStore) -> int:
    """Return how many requests S3 would have had."""
    return sum(COSTS.get(method, 1) for method, _ in store.calls)


async def create(client: Client) -> None:
    await client.write("d/new", b"1")


async def overwrite(client: Client) -> None:
    await client.write("d/a", b"22")


async def append(client: Client) -> None:
    async with client.open("d/a", os.O_WRONLY) as handle:
        await client.vfs.files.write(handle, 1, b"2")


async def create_and_rename(client: Client) -> None:
    await client.write("d/new.tmp", b"1")
    await client.rename("d/new.tmp", "d/new")


async def create_and_rename_over(client: Client) -> None:
    await client.write("d/a.tmp", b"1")
    await client.rename("d/a.tmp", "d/a")


async def rename(client: Client) -> None:
    await client.rename("d/draft.tmp", "d/new")


async def rename_over(client: Client) -> None:
    await client.rename("d/draft.tmp", "d/a")


async def unlink(client: Client) -> None:
    await client.unlink("d/a")


async def mkdir(client: Client) -> None:
    await client.mkdir("d/new")


async def mkdir_and_create(client: Client) -> None:
    await client.mkdir("d/new")
    await client.write("d/new/file", b"1")


async def remove_tree(client: Client) -> None:
    async with client.at("d/e"):
        await client.names("d/e")
        await client.unlink("d/e/x")
        await client.rmdir("d/e")


async def stat(client: Client) -> None:
    await client.size("d/a")


async def read(client: Client) -> None:
    await client.read("d/a")


OPERATIONS: dict[str, Callable[[Client], Awaitable[None]]] = {
    "look at a file (`stat`)": stat,
    "read a small file": read,
    "create a file": create,
    "overwrite a file (`O_TRUNC`)": overwrite,
    "change a small file in place": append,
    "create under a temporary name, rename": create_and_rename,
    "create under a temporary name, rename over a file": create_and_rename_over,
    "rename a stored file": rename,
    "rename a stored file over another": rename_over,
    "`unlink`": unlink,
    "`mkdir`": mkdir,
    "`mkdir`, and create a file in it": mkdir_and_create,
    "`rm -r` of a directory with one file": remove_tree,
}


def table() -> dict[str, tuple[int, int]]:
    rows = re.findall(r"^\| (.+?) +\| (\d+) +\| (\d+) +\|$", ARCHITECTURE.read_text(), re.MULTILINE)
    return {operation: (int(cold), int(known)) for operation, cold, known in rows}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_the_table_of_requests(tmp_path: Path, clock: MockClock, operation: str) -> None:
    counted = []
    for known in (False, True):
        store = FakeStore(dict(DATA))
        client = Client(store, tmp_path / str(known), metadata_ttl=10)
        async with client.running(), client.at("d"):
            if known:
                await client.names("d")
            clock.jump(1)
            store.calls.clear()
            await OPERATIONS[operation](client)
            counted.append(requests(store))
    assert tuple(counted) == table()[operation]


def test_the_table_is_whole() -> None:
    assert set(table()) == set(OPERATIONS)


@pytest.mark.parametrize("made_here", [False, True])
async def test_many_writers_cost_one_put_each_and_a_few_listings(
    tmp_path: Path, clock: MockClock, threads_in_no_time: None, made_here: bool
) -> None:
    store = FakeStore({} if made_here else {"d/there": b"1"})
    client = Client(store, tmp_path, metadata_ttl=1)
    if made_here:
        await client.mkdir("d")
    store.calls.clear()
    store.latency = 0.02
    names = iter([f"d/{number}" for number in range(2000)])

    async def write() -> None:
        for name in names:
            await client.write(name, b"bytes")

    async with client.at("d"):
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(write)
    assert store.count("put") == 2000
    assert len(store.objects) == 2000 + (not made_here)
    # Each name that somebody asks for before there are enough of them to list costs two.
    assert requests(store) + store.count("next_page") <= 2000 + 2 * 20 + 20
