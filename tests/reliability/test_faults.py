"""Thousands of random operations on a store that fails: nothing acknowledged is ever missing."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from mount.child import in_child
from mount.harness import mounted, wait_for, zarrmount
from mount.places import S3Backdoor, s3_options
from reliability.faults import Schedule
from reliability.faulty_proxy import faulty_proxy
from reliability.faulty_store import FaultyStore
from reliability.mount_walk import walk_on_mount
from reliability.tally import SOAK, TALLY, Progress, base_seed
from reliability.walk import Walk
from servers import S3Server
from trio.testing import MockClock
from vfs.client import Client
from vfs.fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore

from stores.meta import Capabilities
from zarrmount.errors import errno_of
from zarrmount.objects import reader

pytestmark = pytest.mark.timeout(7200 if SOAK else 300)
TTL = 2.0
WALKERS = 4
WALKS = 40 if SOAK else 4
STEPS = 150 if SOAK else 60
RATES = {
    "latency": 0.06,
    "refused": 0.05,
    "slow_down": 0.03,
    "dropped": 0.05,
    "stall": 0.02,
    "lost": 0.02,
    "late": 0.08,
    "expired": 0.02,
    "short": 0.10,
}
WEATHER = (0.0, 0.2, 0.6, 1.5)


class VfsFiles:
    """The calls of a `Vfs`, without a kernel."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def replace(self, path: str, data: bytes, learn: Callable[[bytes], None]) -> None:
        files = self._client.vfs.files
        async with self._client.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as handle:
            await files.write(handle, 0, data)
            learn(data)

    async def patch(
        self, path: str, data: bytes, at: int | None, learn: Callable[[bytes], None], *, fsync: bool
    ) -> None:
        files = self._client.vfs.files
        flags = os.O_RDWR | (os.O_APPEND if at is None else 0)
        async with self._client.open(path, flags) as handle:
            await files.write(handle, at or 0, data)
            learn(await files.read(handle, 0, 1 << 20))
            if fsync:
                await files.fsync(handle.inode)

    async def truncate(self, path: str, size: int) -> None:
        await self._client.truncate(path, size)

    async def read(self, path: str) -> bytes:
        return await self._client.read(path)

    async def read_part(self, path: str, at: int, size: int) -> bytes:
        return await self._client.read(path, at, size)

    async def unlink(self, path: str) -> None:
        await self._client.unlink(path)

    async def rename(self, old: str, new: str) -> None:
        await self._client.rename(old, new)

    async def names(self, path: str) -> list[str]:
        return await self._client.names(path)


class VfsWorld:
    """The store behind a `Vfs`, seen directly."""

    def __init__(self, inner: FakeStore, store: FaultyStore, client: Client) -> None:
        self._inner, self._store, self._client = inner, store, client
        self.walks: dict[str, Walk] = {}
        self._acknowledged: dict[str, int] = {}
        store.on_late = self._landed

    def _landed(self, key: str, data: bytes, number: int) -> None:
        walk = self.walks[key.partition("/")[0]]
        walk.landed(key, data, before_last_ack=number <= walk.acknowledged_puts.get(key, 0))

    async def stored(self, path: str) -> bytes | None:
        return self._inner.data.get(path)

    async def change(self, path: str, data: bytes | None) -> None:
        self._inner.change(path, data)

    async def kept(self, path: str) -> bytes | None:
        for inode in self._client.c.table.dirty():
            if inode.key == path:
                return await inode.staged.read(0, inode.staged.size)  # type: ignore[union-attr]
        return None

    async def settle(self, directory: str) -> None:
        while self._store.on_their_way[directory]:
            await trio.sleep(0.5)

    async def pause(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def now(self) -> float:
        return trio.current_time()

    def puts(self) -> int:
        return self._store.puts

    def faults(self, directory: str) -> int:
        struck = self._store.struck.items()
        return sum(count for key, count in struck if key.startswith(directory) or not key)

    def errno_of(self, error: Exception) -> int:
        return 0 if isinstance(error, AssertionError) else errno_of(error)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let objects of some hundred bytes be large ones, that are read block by block."""
    monkeypatch.setattr(reader, "BLOCK_SIZE", 64)
    monkeypatch.setattr(reader, "SMALL_OBJECT", 128)
    monkeypatch.setattr(reader, "WHOLE_OBJECT", 256)


def run_walk(seed: int, capabilities: Capabilities, spool: Path) -> None:
    """Let some walkers work at once on one store, then let the store recover, and compare."""

    async def main() -> None:
        schedule = Schedule(seed, RATES)
        inner = FakeStore({}, capabilities, page=3)
        store = FaultyStore(inner, schedule)
        client = Client(store, spool, cache_bytes=2048, metadata_ttl=TTL, read_timeout=5.0, write_timeout=6.0)
        world = VfsWorld(inner, store, client)
        walks = [Walk(VfsFiles(client), world, seed * 31 + n, f"w{n}", TTL) for n in range(WALKERS)]
        world.walks = {walk.directory: walk for walk in walks}
        schedule.weather = 0.0
        async with trio.open_nursery() as late:
            # Where nothing is conditional, a put that arrives late replaces whatever is there by then.
            store.nursery = late if capabilities.replace_if_version else None
            for walk in walks:
                await client.mkdir(walk.directory)
                # A directory that somebody else empties is gone: let there always be a file.
                await client.write(f"{walk.directory}/anchor", b"")
            async with trio.open_nursery() as nursery:
                for walk in walks:
                    nursery.start_soon(_take, walk, schedule)
        schedule.weather = 0.0
        await _recover(client, inner, walks, spool)
        for walk in walks:
            TALLY.add("operations", walk.operations)
            TALLY.add("operations that failed, as reported", walk.failures)
        TALLY.faults("VFS", schedule.counts)

    trio.run(main, clock=MockClock(autojump_threshold=0.003))


async def _take(walk: Walk, schedule: Schedule) -> None:
    for step in range(STEPS):
        if step % 10 == 0:
            schedule.weather = walk.random.choice(WEATHER)
        await walk.step()
        walk.files._client.vfs.check_invariants()  # type: ignore[attr-defined]


async def _recover(client: Client, inner: FakeStore, walks: list[Walk], spool: Path) -> None:
    """Without faults everything that was kept can be stored, or somebody else's change forbids it."""
    await trio.sleep(10)
    failed = await client.vfs.store_everything()
    saved = await client.vfs.rescue(spool / "unsaved")
    for walk in walks:
        for path, data in walk.kept.items():
            if path in failed:
                if path not in walk.foreign:
                    walk.lose(f"it could not be stored after all: {failed[path]}", path)
                assert saved[path].read_bytes() == data
            else:
                walk.store[path] = data
        for path in walk.paths:
            assert inner.data.get(path) == walk.store[path], path
    fresh = Client(inner, spool, metadata_ttl=TTL)
    for key, data in inner.data.items():
        assert await fresh.read(key) == data


@pytest.mark.parametrize("kind", ["s3", "local", "minimal"])
def test_walks_on_the_vfs(kind: str, tmp_path: Path) -> None:
    capabilities = {"s3": S3_LIKE, "local": LOCAL_LIKE, "minimal": MINIMAL}[kind]
    seed = base_seed()
    progress = Progress(f"walks on a {kind} store", WALKS)
    for number in range(WALKS):
        print(f"seed {seed + number} ({kind}); again with ZARRMOUNT_SEED={seed + number}")
        spool = tmp_path / str(number)
        spool.mkdir()
        run_walk(seed + number, capabilities, spool)
        progress.tell(number + 1, f", {TALLY.counts['faults injected']} faults")


# -- the same through the kernel, a real server and a bad network ----------------------------------

NETWORK = {
    "latency": 0.05,
    "stall_request": 0.01,
    "stall_response": 0.01,
    "reset_request": 0.06,
    "reset_response": 0.06,
    "truncated": 0.04,
    "dropped": 0.06,
    "late": 0.08,
    "500": 0.02,
    "503": 0.03,
    "429": 0.02,
    "expired": 0.01,
    "too_long": 0.04,
    "too_short": 0.04,
    "corrupt_request": 0.02,
}
IMPATIENT = (
    *("--storage-option", 'client_options={"timeout": "1s", "allow_http": true}'),
    *("--storage-option", 'retry_config={"max_retries": 1}'),
    *("--metadata-ttl", "0.5", "--read-timeout", "8", "--write-timeout", "8"),
)


def test_walks_on_a_mount(gateway: S3Server, tmp_path: Path) -> None:
    seed = base_seed()
    walks, steps = (10, 150) if SOAK else (1, 35)
    progress = Progress("walks on a mount behind the proxy", walks)
    for number in range(walks):
        print(f"seed {seed + number}; again with ZARRMOUNT_SEED={seed + number}")
        _walk_through_the_kernel(gateway, seed + number, steps, tmp_path / str(number))
        progress.tell(number + 1, f", {TALLY.counts['faults injected']} faults")


def _walk_through_the_kernel(gateway: S3Server, seed: int, steps: int, directory: Path) -> None:
    directory.mkdir()
    bucket, told = gateway.create(), directory / "told.json"
    backdoor = S3Backdoor(gateway, bucket, "store/")
    schedule = Schedule(seed, NETWORK)
    schedule.weather = 0.0
    with faulty_proxy(gateway.endpoint, schedule) as proxy:
        options = s3_options(dataclasses.replace(gateway, endpoint=proxy.endpoint))
        with mounted(f"s3://{bucket}/store", directory, *options, *IMPATIENT, umount=False) as mount:
            walk = partial(
                *(walk_on_mount, mount.path, backdoor, proxy.endpoint, seed),
                walkers=3,
                steps=steps,
                ttl=0.5,
                told=told,
            )
            try:
                in_child(walk, 60 + 10 * steps)
            except AssertionError as error:
                raise AssertionError(f"{error}\n--- log\n{mount.read_log()[-5000:]}") from None
            done = json.loads(told.read_text())
            wait_for(lambda: not proxy.late)
            ended = zarrmount("umount", "--force", mount.path, environment=mount.environment)
    expected = dict(done["store"])
    for path, data in done["kept"].items():
        saved = [line.split("\t")[1] for line in ended.stdout.splitlines() if line.startswith(f"{path}\t")]
        if saved:
            assert path in done["foreign"], f"{path} could not be stored: {ended.stdout}{ended.stderr}"
            assert Path(saved[0]).read_bytes() == data.encode("latin-1")
        else:
            expected[path] = data
    assert (ended.returncode != 0) == ("\t" in ended.stdout), ended.stdout + ended.stderr
    keys = {key for key in backdoor.keys("") if not key.endswith("/anchor")}
    stored = {key: backdoor.read(key).decode("latin-1") for key in keys}
    assert stored == {path: data for path, data in expected.items() if data is not None}
    TALLY.add("operations", done["operations"])
    TALLY.add("operations that failed, as reported", done["failures"])
    TALLY.faults("network", schedule.counts)
