"""Random walks on a real mount of a real S3 server behind a faulty proxy; runs in a child process."""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from mount.places import S3Backdoor
from reliability.walk import Walk

from zarrmount import registry
from zarrmount.control import Request

__all__ = ["MountFiles", "MountWorld", "control", "walk_on_mount"]

_SLACK = 0.5


def control(endpoint: str, **orders: Any) -> dict[str, Any]:
    """Tell a `FaultyProxy` what to do; return what it tells."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{endpoint}/-faults-", json.dumps(orders).encode(), timeout=30) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


class MountFiles:
    """System calls below a mount point, in threads."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def replace(self, path: str, data: bytes, learn: Callable[[bytes], None]) -> None:
        def call() -> None:
            file = os.open(self._root / path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                os.write(file, data)
                learn(data)
            except BaseException:
                os.close(file)
                raise
            os.close(file)

        await trio.to_thread.run_sync(call)

    async def patch(
        self, path: str, data: bytes, at: int | None, learn: Callable[[bytes], None], *, fsync: bool
    ) -> None:
        def call() -> None:
            file = os.open(self._root / path, os.O_RDWR | (os.O_APPEND if at is None else 0))
            try:
                os.write(file, data) if at is None else os.pwrite(file, data, at)
                learn(os.pread(file, 1 << 20, 0))
                if fsync:
                    os.fsync(file)
            except BaseException as error:
                with contextlib.suppress(OSError):  # the first error is told
                    os.close(file)
                raise error
            os.close(file)

        await trio.to_thread.run_sync(call)

    async def truncate(self, path: str, size: int) -> None:
        await trio.to_thread.run_sync(os.truncate, self._root / path, size)

    async def read(self, path: str) -> bytes:
        return await trio.to_thread.run_sync((self._root / path).read_bytes)

    async def read_part(self, path: str, at: int, size: int) -> bytes:
        def call() -> bytes:
            with open(self._root / path, "rb", buffering=0) as file:
                return os.pread(file.fileno(), size, at)

        return await trio.to_thread.run_sync(call)

    async def unlink(self, path: str) -> None:
        await trio.to_thread.run_sync(os.unlink, self._root / path)

    async def rename(self, old: str, new: str) -> None:
        await trio.to_thread.run_sync(os.rename, self._root / old, self._root / new)

    async def names(self, path: str) -> list[str]:
        return await trio.to_thread.run_sync(os.listdir, self._root / path)


class MountWorld:
    """The bucket behind a mount, past the proxy, and what the proxy and the mount tell."""

    def __init__(self, root: Path, backdoor: S3Backdoor, proxy: str) -> None:
        self._root, self._backdoor, self._proxy = root, backdoor, proxy

    async def stored(self, path: str) -> bytes | None:
        def call() -> bytes | None:
            while control(self._proxy)["late"]:
                time.sleep(0.05)
            try:
                return self._backdoor.read(path)
            except KeyError:
                return None

        return await trio.to_thread.run_sync(call)

    async def change(self, path: str, data: bytes | None) -> None:
        remove, write = self._backdoor.remove, self._backdoor.write
        await trio.to_thread.run_sync(partial(remove, path) if data is None else partial(write, path, data))

    async def kept(self, path: str) -> bytes | None:
        def call() -> bytes | None:
            mount = registry.find(self._root)
            assert mount is not None
            with Request(mount.socket, {"do": "ping"}) as answers:
                told = next(iter(answers))
            if path not in [key for key, _ in told["dirty"]]:
                return None
            weather = control(self._proxy, weather=0.0)["before"]
            data = (self._root / path).read_bytes()
            control(self._proxy, weather=weather)
            return data

        return await trio.to_thread.run_sync(call)

    async def settle(self, directory: str) -> None:
        pass  # `stored` waits for whatever is on its way

    async def pause(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def now(self) -> float:
        return trio.current_time()

    def puts(self) -> int:
        return 0

    def faults(self, directory: str) -> int:
        struck = control(self._proxy)["struck"]
        return sum(
            count for target, count in struck.items() if f"/{directory}" in target or "/w" not in target
        )

    def errno_of(self, error: Exception) -> int:
        return error.errno or 0 if isinstance(error, OSError) else 0


def walk_on_mount(
    root: Path,
    backdoor: S3Backdoor,
    proxy: str,
    seed: int,
    *,
    walkers: int,
    steps: int,
    ttl: float,
    told: Path,
) -> None:
    """Let walkers work on a mount while the proxy does its worst; write to `told` what was done."""
    world = MountWorld(root, backdoor, proxy)
    walks = [Walk(MountFiles(root), world, seed * 31 + n, f"w{n}", ttl + _SLACK) for n in range(walkers)]

    async def take(walk: Walk) -> None:
        for step in range(steps):
            if step % 10 == 0:
                control(proxy, weather=walk.random.choice((0.0, 0.5, 1.0, 2.0)))
            await walk.step()

    async def main() -> None:
        for walk in walks:
            (root / walk.directory).mkdir()
            (root / walk.directory / "anchor").touch()
        async with trio.open_nursery() as nursery:
            for walk in walks:
                nursery.start_soon(take, walk)
        control(proxy, weather=0.0)

    trio.run(main)
    told.write_text(
        json.dumps(
            {
                "operations": sum(walk.operations for walk in walks),
                "failures": sum(walk.failures for walk in walks),
                "store": {path: _text(data) for walk in walks for path, data in walk.store.items()},
                "kept": {path: _text(data) for walk in walks for path, data in walk.kept.items()},
                "foreign": [path for walk in walks for path in walk.foreign],
            }
        )
    )


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("latin-1")
