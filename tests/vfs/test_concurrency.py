"""Many tasks at once, on a store that is slow and sometimes fails: nothing is lost, nobody waits for ever."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from client import Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore
from trio.testing import MockClock

from stores.meta import Capabilities


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """A clock that jumps at once; threads, whose work it would take for waiting, are done without."""

    async def run_here(function: Callable[..., object], *arguments: object, **_: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)
    return MockClock(autojump_threshold=0)


class Worker:
    """Works on files that nobody else touches, in directories that everybody changes."""

    def __init__(self, client: Client, number: int, chance: random.Random) -> None:
        self.client = client
        self.name = f"w{number}"
        self.chance = chance
        self.path = f"d{number % 2}/{self.name}"
        self.data: bytes | None = None

    async def run(self) -> None:
        for step in range(8):
            await trio.sleep(self.chance.random())
            if self.data is None or self.chance.random() < 0.4:
                await self.write(f"{self.name}-{step}".encode() * self.chance.randrange(1, 4))
            elif self.chance.random() < 0.5:
                await self.move()
            else:
                await self.remove()
            if self.data is not None:
                assert await self.client.read(self.path) == self.data
            else:
                assert not await self.client.exists(self.path)

    async def write(self, data: bytes) -> None:
        temporary = f"{self.path}.partial"
        async with self.client.open(temporary, os.O_CREAT | os.O_RDWR | os.O_TRUNC) as handle:
            await self.client.vfs.files.write(handle, 0, data)
            if self.chance.random() < 0.5:
                await self.client.vfs.files.close(handle)
        await self.client.rename(temporary, self.path)
        self.data = data

    async def move(self) -> None:
        target = f"d{self.chance.randrange(2)}/{self.name}"
        await self.client.rename(self.path, target)
        self.path = target

    async def remove(self) -> None:
        async with self.client.open(self.path) as handle:
            await self.client.unlink(self.path)
            assert await self.client.vfs.files.read(handle, 0, 1000) == self.data
        self.data = None


@pytest.mark.parametrize("profile", [S3_LIKE, LOCAL_LIKE, MINIMAL], ids=["s3", "local", "minimal"])
@pytest.mark.parametrize("seed", range(4))
async def test_everybody_finds_what_is_theirs(
    clock: MockClock, tmp_path: Path, profile: Capabilities, seed: int
) -> None:
    chance = random.Random(seed)
    store = FakeStore(capabilities=profile, page=3)
    client = Client(store, tmp_path, metadata_ttl=chance.choice([0, 1, 1000]))
    for name in ("d0", "d1"):
        await client.mkdir(name)
    store.latency = 0.05
    workers = [Worker(client, number, chance) for number in range(8)]
    working = len(workers)

    async def work(worker: Worker) -> None:
        nonlocal working
        await worker.run()
        working -= 1

    async def disturb() -> None:
        for step in range(1000):
            if not working:
                return
            await trio.sleep(0.3)
            await client.names("d0")
            await failure(client.rmdir("d1"))  # it may be empty for a moment
            await failure(client.mkdir("d1"))
            await client.mkdir(f"d0/sub{step}")
            await client.rename(f"d0/sub{step}", f"d0/moved{step}")
            await client.rmdir(f"d0/moved{step}")

    async def keep() -> None:
        """Keep a file in the other directory, so that it is never gone when it is needed."""
        await client.write("d1/keep", b"keep")

    await keep()
    with trio.fail_after(3000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disturb)
            for worker in workers:
                nursery.start_soon(work, worker)
    client.at_rest()
    expected = {worker.path: worker.data for worker in workers if worker.data is not None}
    assert store.data == expected | {"d1/keep": b"keep"}
    assert store.open_readers == 0


@pytest.mark.parametrize("seed", range(8))
async def test_failures_and_cancellations_leave_nothing_behind(
    clock: MockClock, tmp_path: Path, seed: int
) -> None:
    """Whatever fails or is cancelled wherever: the tables agree, and what was acknowledged is there."""
    chance = random.Random(seed)
    store = FakeStore(
        {f"{d}/{i}": b"x" for d in "de" for i in range(3)}, chance.choice([S3_LIKE, LOCAL_LIKE])
    )
    client = Client(store, tmp_path, metadata_ttl=chance.choice([0, 1]), read_timeout=2, write_timeout=3)
    store.latency = 0.1
    acknowledged: dict[str, bytes] = {}

    async def work(number: int) -> None:
        for step in range(6):
            path, data = f"{chance.choice('de')}/own{number}-{step}", bytes([number, step])
            with trio.move_on_after(chance.choice([0.15, 0.35, 100])):
                if await failure(client.write(path, data)) == 0:
                    acknowledged[path] = data
            with trio.move_on_after(chance.choice([0.15, 0.35, 100])):
                await failure(client.rename(f"d/{chance.randrange(3)}", f"e/{chance.randrange(3)}"))
            with trio.move_on_after(chance.choice([0.15, 0.35, 100])):
                await failure(client.names(chance.choice("de")))

    for _ in range(12):
        store.fail(
            chance.choice(["put", "copy", "delete", "lookup", "list", "rename"]),
            skip=chance.randrange(30),
            times=chance.randrange(1, 3),
            after=chance.random() < 0.5,
            hang=chance.random() < 0.3,
        )
    with trio.fail_after(3000):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(work, number)
    store.faults.clear()
    assert await client.vfs.store_everything() == {}
    for path, data in acknowledged.items():
        assert store.data[path] == data
    client.at_rest()
    assert store.open_readers == 0
