"""Random calls on a `Vfs`, against a model: a dict of paths and a set of directories."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar

import trio
from client import Client, failure
from fake_store import LOCAL_LIKE, MINIMAL, S3_LIKE, FakeStore, Fault
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio.testing import MockClock

from stores.errors import Denied
from stores.meta import Capabilities
from zarrmount.handles import FileHandle

TTL = 10.0
PATHS = strategies.lists(strategies.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
DATA = strategies.binary(max_size=40)
PICK = strategies.integers(0, 1000)


def above(path: str) -> str:
    return path.rpartition("/")[0]


class File:
    """One file of the model; it goes on being one when it is renamed or unlinked."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def write(self, offset: int, data: bytes) -> None:
        if data:
            kept = self.data.ljust(offset, b"\0")
            self.data = kept[:offset] + data + kept[offset + len(data) :]

    def truncate(self, size: int) -> None:
        self.data = self.data[:size].ljust(size, b"\0")


class VfsMachine(RuleBasedStateMachine):
    """What `Vfs` shows is what the model says, after every step."""

    capabilities: ClassVar[Capabilities] = S3_LIKE
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = MockClock()
        self.spool = Path(tempfile.mkdtemp(prefix="vfs-model-"))
        self.store = FakeStore({"a": b"1", "b/a": b"2", "b/b": b"3"}, self.capabilities, page=2)
        self.client = Client(self.store, self.spool, metadata_ttl=TTL)
        self.client.c.staging.memory_limit = 16  # spools beyond 64 KiB only: see `write_far`
        self.files = {"a": File(b"1"), "b/a": File(b"2"), "b/b": File(b"3")}
        self.dirs = {"", "b"}
        self.open: list[tuple[FileHandle, File]] = []
        self.pinned: list[int] = []
        self.fault: Fault | None = None

    def run(self, call: Awaitable[Any]) -> Any:
        type(self).steps += 1

        async def main() -> Any:
            with trio.fail_after(10_000):
                return await call

        return trio.run(main, clock=self.clock)

    def attempt(self, call: Awaitable[Any], ok: bool) -> bool:
        """Make a call that must succeed just if `ok`."""
        number = self.run(failure(call))
        assert (number == 0) == ok, (errno.errorcode.get(number), sorted(self.files), sorted(self.dirs))
        return ok

    def below(self, path: str) -> list[str]:
        return [name for name in [*self.files, *self.dirs] if name.startswith(f"{path}/")]

    def dirty(self) -> set[str]:
        return {key for key, _ in self.client.vfs.dirty()}

    def is_open(self, path: str) -> bool:
        return any(file is self.files[path] for _, file in self.open)

    # -- files ---------------------------------------------------------------------------------

    @rule(path=PATHS, data=DATA)
    def write_whole(self, path: str, data: bytes) -> None:
        possible = above(path) in self.dirs and path not in self.dirs
        ok = possible and self.fault is None
        before = self.files.get(path)
        if ok and before is not None and not before.data and not data and path not in self.dirty():
            self.run(self.client.write(path, data))
            return
        if possible and before is not None and not before.data and not data and path not in self.dirty():
            ok = True  # nothing changes, so nothing is put
        self.attempt(self.client.write(path, data), ok)
        if possible:
            self.files.setdefault(path, File(b"")).data = data

    @rule(path=PATHS, offset=strategies.integers(0, 50), data=DATA)
    def write_part(self, path: str, offset: int, data: bytes) -> None:
        changes = bool(data) or path in self.dirty()
        ok = path in self.files and (self.fault is None or not changes)
        self.attempt(self.client.write(path, data, offset, os.O_RDWR), ok)
        if path in self.files:
            self.files[path].write(offset, data)

    @rule(path=PATHS)
    def write_far(self, path: str) -> None:
        ok = path in self.files and self.fault is None
        self.attempt(self.client.write(path, b"far", 70_000, os.O_RDWR), ok)
        if path in self.files:
            self.files[path].write(70_000, b"far")

    @rule(path=PATHS, size=strategies.integers(0, 60))
    def truncate(self, path: str, size: int) -> None:
        there = path in self.files
        writers = there and any(file is self.files[path] and h.writable for h, file in self.open)
        changes = there and (len(self.files[path].data) != size or path in self.dirty())
        works = there and (self.fault is None or writers or not changes)
        staged_already = path in self.dirty()
        self.attempt(self.client.truncate(path, size), works)
        if works or (there and staged_already):  # else it is as it was, as the caller was told
            self.files[path].truncate(size)

    @rule(path=PATHS, flags=strategies.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT]))
    @precondition(lambda self: len(self.open) < 6)
    def open_file(self, path: str, flags: int) -> None:
        creates = bool(flags & os.O_CREAT) and above(path) in self.dirs and path not in self.dirs

        async def open_it() -> FileHandle:
            async with AsyncExitStack() as stack:
                return await stack.enter_async_context(self.client.opened(path, flags))

        if path in self.files or creates:
            handle = self.run(open_it())
            self.open.append((handle, self.files.setdefault(path, File(b""))))
        else:
            self.attempt(open_it(), False)

    @rule(pick=PICK, offset=strategies.integers(0, 50), data=DATA)
    @precondition(lambda self: self.open)
    def write_handle(self, pick: int, offset: int, data: bytes) -> None:
        handle, file = self.open[pick % len(self.open)]
        if handle.writable:
            self.run(self.client.vfs.files.write(handle, offset, data))
            file.write(offset, data)

    @rule(pick=PICK)
    @precondition(lambda self: self.open)
    def read_handle(self, pick: int) -> None:
        handle, file = self.open[pick % len(self.open)]
        assert self.run(self.client.vfs.files.read(handle, 0, 1 << 20)) == file.data
        assert self.run(self.client.vfs.files.read(handle, 3, 5)) == file.data[3:8]

    @rule(pick=PICK, flush=strategies.booleans())
    @precondition(lambda self: self.open)
    def close_handle(self, pick: int, flush: bool) -> None:
        handle, _ = self.open.pop(pick % len(self.open))
        if flush:
            failed = self.run(failure(self.client.vfs.files.close(handle)))
            assert self.fault is not None or not failed
        self.run(self.client.vfs.files.release(handle.number))

    @rule(path=PATHS)
    def read(self, path: str) -> None:
        if path in self.files:
            data = self.files[path].data
            assert self.run(self.client.read(path)) == data
            assert self.run(self.client.size(path)) == len(data)
        else:
            self.attempt(self.client.read(path), False)

    @rule()
    def read_all(self) -> None:
        for path in sorted(self.dirs):
            prefix = f"{path}/" if path else ""
            expected = (
                {name[len(prefix) :].split("/")[0] for name in self.below(path)}
                if path
                else {name.split("/")[0] for name in [*self.files, *self.dirs] if name}
            )
            assert self.run(self.client.names(path)) == sorted(expected), path
        for path in self.files:
            self.read(path)

    # -- names ---------------------------------------------------------------------------------

    @rule(path=PATHS)
    def mkdir(self, path: str) -> None:
        ok = above(path) in self.dirs and path not in self.dirs and path not in self.files
        if self.attempt(self.client.mkdir(path), ok):
            self.dirs.add(path)

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        if self.attempt(self.client.rmdir(path), path in self.dirs and not self.below(path)):
            self.dirs.remove(path)

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        if self.attempt(self.client.unlink(path), path in self.files):
            del self.files[path]

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: str, new: str) -> None:
        ok = above(new) in self.dirs and above(old) in self.dirs
        if old in self.files:
            moves = old != new
            ok = ok and new not in self.dirs and not (moves and self.fault and old in self.dirty())
            if self.attempt(self.client.rename(old, new), ok):
                self.files[new] = self.files.pop(old)
            return
        ok = ok and old in self.dirs and new not in self.files and not f"{new}/".startswith(f"{old}/")
        ok = (ok and not (new in self.dirs and self.below(new))) or (old in self.dirs and old == new)
        if self.attempt(self.client.rename(old, new), ok) and old != new:
            for names in (self.files, self.dirs):
                for path in [path for path in names if path == old or path.startswith(f"{old}/")]:
                    moved = new + path[len(old) :]
                    if isinstance(names, dict):
                        names[moved] = names.pop(path)
                    else:
                        names.remove(path)
                        names.add(moved)

    @rule(old=PATHS, new=PATHS)
    def link(self, old: str, new: str) -> None:
        ok = old in self.files and above(new) in self.dirs and new not in self.files and new not in self.dirs
        ok = ok and not (self.fault and old in self.dirty())
        if self.attempt(self.client.link(old, new), ok):
            self.files[new] = File(self.files[old].data)

    @rule(path=PATHS)
    @precondition(lambda self: len(self.pinned) < 6)
    def pin(self, path: str) -> None:
        """Look up, and hold on to the inode as the kernel does."""

        async def look() -> None:
            async with self.client.at(path) as inode:
                self.pinned.append(self.client.vfs.remember(inode).number)

        self.attempt(look(), path in self.files or path in self.dirs)

    @rule()
    @precondition(lambda self: self.pinned)
    def getattr_pinned(self) -> None:
        for number in self.pinned:
            found = self.run(failure(self.client.vfs.getattr(number)))
            assert found in (0, errno.ENOENT)

    @rule()
    def forget(self) -> None:
        self.client.vfs.forget([(number, 1) for number in self.pinned])
        self.pinned.clear()

    # -- the world -----------------------------------------------------------------------------

    @rule(path=PATHS, data=DATA)
    def remote_put(self, path: str, data: bytes) -> None:
        parts = path.split("/")
        parents = {"/".join(parts[:i]) for i in range(1, len(parts))}
        if parents & set(self.files) or path in self.dirs:
            return
        if path in self.files and (path in self.dirty() or self.is_open(path)):
            return
        self.store.change(path, data)
        self.clock.jump(TTL + 1)
        self.files[path] = File(data)
        self.dirs |= parents

    @rule(pick=PICK)
    def remote_delete(self, pick: int) -> None:
        """Of a file that leaves another one in the store's directory, which so stays."""
        clean = sorted(set(self.files) - self.dirty())
        path = clean[pick % len(clean)] if clean else None
        if path is None or self.is_open(path):
            return
        if above(path) and not any(above(other) == above(path) and other != path for other in clean):
            return
        self.store.change(path, None)
        self.clock.jump(TTL + 1)
        del self.files[path]

    @rule(seconds=strategies.sampled_from([0.1, 5, 11]))
    def wait(self, seconds: float) -> None:
        self.clock.jump(seconds)

    @rule()
    def puts_fail_or_do_not(self) -> None:
        if self.fault is None:
            self.fault = self.store.fail("put", error=lambda: Denied("not now"))
        else:
            self.store.faults.clear()
            self.fault = None

    @rule()
    def store_everything(self) -> None:
        failed = self.run(self.client.vfs.store_everything())
        assert self.fault is not None or not failed

    # -- always --------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        self.client.vfs.check_invariants()
        files = {path: file.data for path, file in self.files.items() if path not in self.dirty()}
        assert {path: data for path, data in self.store.data.items() if path in files} == files
        assert set(self.store.data) <= set(self.files)

    def teardown(self) -> None:
        try:
            self.store.faults.clear()
            self.forget()
            for handle, _ in self.open:
                self.run(self.client.vfs.files.close(handle))
                self.run(self.client.vfs.files.release(handle.number))
            assert self.run(self.client.vfs.store_everything()) == {}
            assert self.store.data == {path: file.data for path, file in self.files.items()}
            self.client.at_rest()
            assert self.store.open_readers == 0
        finally:
            shutil.rmtree(self.spool)


class LocalLike(VfsMachine):
    capabilities = LOCAL_LIKE


class Minimal(VfsMachine):
    capabilities = MINIMAL


_SETTINGS = settings(
    max_examples=int(os.environ.get("VFS_MODEL_EXAMPLES", "100")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestS3Like = VfsMachine.TestCase
TestLocalLike = LocalLike.TestCase
TestMinimal = Minimal.TestCase
TestS3Like.settings = TestLocalLike.settings = TestMinimal.settings = _SETTINGS
