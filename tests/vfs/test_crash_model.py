"""Random calls with write-back and crashes at any moment, against a model: what was acknowledged is there."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from client import Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from trio.testing import MockClock

from stores.errors import Denied
from stores.meta import Capabilities
from zarrmount.objects.journal import Journal

FILES = ("a", "a.tmp", "b", "d/a", "d/a.tmp", "e/a")
PATHS = strategies.sampled_from(FILES)
DATA = strategies.binary(max_size=30)
MOMENT = strategies.none() | strategies.integers(0, 60)
"""After how many steps of the scheduler a crash comes; None: no crash."""

Model = dict[str, bytes]


async def at_once(function: Callable[..., Any], *arguments: Any, **_: object) -> Any:
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class CrashMachine(RuleBasedStateMachine):
    """After a crash the next mount shows, and stores, what was acknowledged before."""

    capabilities: ClassVar[Capabilities] = S3_LIKE
    crashes: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(trio.to_thread, "run_sync", at_once)
        self.directory = Path(tempfile.mkdtemp(prefix="crash-model-"))
        self.clock = MockClock(autojump_threshold=0.0)
        self.lives = 0
        self.model: Model = {"d/keep": b"d", "e/keep": b"e"}  # so that the directories are there
        self.store = FakeStore(dict(self.model), self.capabilities)
        self.failing = False
        self.journal = Journal.open(self.place, "fake://")
        self.client = self.mount()

    @property
    def place(self) -> Path:
        return self.directory / f"journal-{self.lives}"

    def mount(self) -> Client:
        client = Client(
            self.store, self.directory / "spool", journal=self.journal, writeback=5.0, metadata_ttl=10
        )

        async def resume() -> None:
            client.vfs.resume()

        trio.run(resume, clock=self.clock)
        return client

    # -- running and crashing --------------------------------------------------------------------

    def run(self, call: Awaitable[Any], moment: int | None = None) -> Any:
        """Make a call; with a moment, remember what a crash would leave then."""
        snapshots: list[dict[str, Any]] = []

        async def crash(steps: int) -> None:
            for _ in range(steps):
                await trio.lowlevel.cancel_shielded_checkpoint()
            shutil.copytree(self.place, self.directory / f"journal-{self.lives + 1}")
            snapshots.append(copy.deepcopy(self.store.objects))  # type: ignore[arg-type]

        async def main() -> Any:
            with trio.fail_after(10_000):
                async with self.client.running(), trio.open_nursery() as nursery:
                    if moment is not None:
                        nursery.start_soon(crash, moment)
                    result = await call
                    await trio.testing.wait_all_tasks_blocked()
                    return result

        result = trio.run(main, clock=self.clock)
        if snapshots:
            self.die(snapshots[0])
        return result

    def die(self, objects: dict[str, Any]) -> None:
        type(self).crashes += 1
        self.drop()
        self.lives += 1
        after = FakeStore({}, self.capabilities)
        after.objects, after.dirs = objects, set(self.store.dirs)
        after._count = self.store._count
        self.store = after
        self.failing = False
        self.journal = Journal.open(self.place, "fake://")
        self.client = self.mount()

    def drop(self) -> None:
        self.client.vfs.close()
        self.journal.close()

    def shown(self) -> Model:
        async def look() -> Model:
            found = {}
            for directory in ("", "d", "e"):
                for name in await self.client.names(directory):
                    path = f"{directory}/{name}".lstrip("/")
                    if path not in ("d", "e"):
                        found[path] = await self.client.read(path)
            return found

        return self.run(look())

    def attempt(self, call: Awaitable[Any], moment: int | None, *possible: Model) -> None:
        """Make a call that leads to the last of the possible outcomes, or by a crash to any of them."""
        before = self.model
        number = self.run(failure(call), moment)
        outcomes = [before, *possible] if moment is not None or number else [possible[-1]]
        shown = self.shown()
        assert shown in outcomes, (shown, outcomes, number)
        self.model = shown

    # -- calls -----------------------------------------------------------------------------------

    @rule(path=PATHS, data=DATA, moment=MOMENT)
    def write(self, path: str, data: bytes, moment: int | None) -> None:
        if self.failing:
            return
        self.attempt(self.client.write(path, data), moment, {**self.model, path: data})

    @rule(path=PATHS, data=DATA, moment=MOMENT)
    def append_and_sync(self, path: str, data: bytes, moment: int | None) -> None:
        if self.failing or path not in self.model:
            return

        async def append() -> None:
            async with self.client.open(path, os.O_WRONLY | os.O_APPEND) as handle:
                await self.client.vfs.files.write(handle, 0, data)
                await self.client.vfs.files.fsync(handle.inode)

        self.attempt(append(), moment, {**self.model, path: self.model[path] + data})

    @rule(old=PATHS, new=PATHS, moment=MOMENT)
    def rename(self, old: str, new: str, moment: int | None) -> None:
        if self.failing or old not in self.model or old == new:
            return
        both = {**self.model, new: self.model[old]}
        moved = {path: data for path, data in both.items() if path != old}
        self.attempt(self.client.rename(old, new), moment, both, moved)

    @rule(old=PATHS, new=PATHS, moment=MOMENT)
    def link_then_unlink(self, old: str, new: str, moment: int | None) -> None:
        if self.failing or self.capabilities.directories or old not in self.model or new in self.model:
            return
        both = {**self.model, new: self.model[old]}
        self.attempt(self.client.link(old, new), moment, both)
        if old in self.model and new in self.model:
            self.attempt(self.client.unlink(old), None, {k: v for k, v in self.model.items() if k != old})

    @rule(path=PATHS, moment=MOMENT)
    def unlink(self, path: str, moment: int | None) -> None:
        if self.failing or path not in self.model:
            return
        left = {key: data for key, data in self.model.items() if key != path}
        self.attempt(self.client.unlink(path), moment, left)

    @rule()
    def exchange_directories(self) -> None:
        if self.failing:
            return
        renamed = {
            {"d": "e", "e": "d"}[path[0]] + path[1:] if "/" in path else path: data
            for path, data in self.model.items()
        }

        async def exchange() -> None:
            await self.client.rename("d", "f")
            await self.client.rename("e", "d")
            await self.client.rename("f", "e")

        self.attempt(exchange(), None, renamed)

    # -- what happens ----------------------------------------------------------------------------

    @rule(seconds=strategies.sampled_from([0.5, 4, 20]), moment=MOMENT)
    def wait(self, seconds: float, moment: int | None) -> None:
        self.attempt(trio.sleep(seconds), moment, self.model)

    @rule()
    def puts_fail_or_do_not(self) -> None:
        if self.failing:
            self.store.faults.clear()
        else:
            self.store.fail("put", error=lambda: Denied("not now"))
        self.failing = not self.failing

    @rule()
    def crash(self) -> None:
        self.attempt(trio.lowlevel.checkpoint(), 0, self.model)

    @invariant()
    def holds(self) -> None:
        self.client.vfs.check_invariants()
        known = {**self.store.data, **dict.fromkeys(self.journal.entries, b"")}
        assert set(self.model) <= set(known)

    def teardown(self) -> None:
        try:
            self.store.faults.clear()
            assert self.run(self.client.vfs.store_everything()) == {}
            assert self.store.data == self.model
            assert self.journal.entries == {}
            self.client.at_rest()
        finally:
            self.drop()
            shutil.rmtree(self.directory)
            self.patch.undo()


class LocalLike(CrashMachine):
    capabilities = LOCAL_LIKE


class Minimal(CrashMachine):
    capabilities = MINIMAL


_SETTINGS = settings(
    max_examples=int(os.environ.get("VFS_MODEL_EXAMPLES", "60")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestS3Like = CrashMachine.TestCase
TestLocalLike = LocalLike.TestCase
TestMinimal = Minimal.TestCase
TestS3Like.settings = TestLocalLike.settings = TestMinimal.settings = _SETTINGS
