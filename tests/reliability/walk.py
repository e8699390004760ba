"""Random operations on a file system over a store that fails, and what must hold all the same.

A *walk* is one writer with a directory of its own.  After each operation it looks into the store
itself, past the file system, and asserts:

* what was acknowledged (the call returned) is in the store, exactly;
* what failed was reported: the store has the old content or the new one, whole, and what the store
  does not have is still shown by the file system;
* a read gives bytes that the file had or has, all of them, or an error; ENOENT only for a name that
  is (or just was) not there;
* nothing fails without a reason: a fault that was injected, or somebody else's change.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Files", "Loss", "Walk", "World"]

NAMES = ("a", "b", "c", "d", "e", "f")


class Loss(AssertionError):
    """Bytes that were acknowledged are missing, or mixed, or a failure was not reported."""


class Files(Protocol):
    """The calls of a file system; OSError (or a store's error) if they fail."""

    async def replace(self, path: str, data: bytes, learn: Callable[[bytes], None]) -> None:
        """Open with O_CREAT and O_TRUNC, write, tell that it was written, close."""

    async def patch(
        self, path: str, data: bytes, at: int | None, learn: Callable[[bytes], None], *, fsync: bool
    ) -> None:
        """Open, write at an offset (None: with O_APPEND), tell what is staged now, fsync, close."""

    async def truncate(self, path: str, size: int) -> None: ...
    async def read(self, path: str) -> bytes: ...
    async def read_part(self, path: str, at: int, size: int) -> bytes: ...
    async def unlink(self, path: str) -> None: ...
    async def rename(self, old: str, new: str) -> None: ...
    async def names(self, path: str) -> list[str]: ...


class World(Protocol):
    """What a walk has to know of the rest."""

    async def stored(self, path: str) -> bytes | None:
        """Return what the store itself has, None if nothing."""

    async def change(self, path: str, data: bytes | None) -> None:
        """Change the store past the file system."""

    async def kept(self, path: str) -> bytes | None:
        """Return what the file system holds of a file and has not stored; None if nothing."""

    async def settle(self, directory: str) -> None:
        """Return when nothing that was sent before is still on its way."""

    async def pause(self, seconds: float) -> None: ...
    def now(self) -> float: ...
    def puts(self) -> int:
        """Return how many puts were sent until now."""

    def faults(self, directory: str) -> int:
        """Return how many faults hit calls below a directory, or listings of what it is in, until now."""

    def errno_of(self, error: Exception) -> int: ...


class Walk:
    """One random walk.

    Parameters
    ----------
    files : Files
        The file system.
    world : World
        The store behind it.
    seed : int
        Decides everything that the walk does.
    directory : str
        Its own.
    ttl : float
        For how long the file system may tell what was.
    """

    def __init__(self, files: Files, world: World, seed: int, directory: str, ttl: float) -> None:
        self.files = files
        self.world = world
        self.directory = directory
        self.ttl = ttl
        self.random = random.Random(seed)
        self.paths = [f"{directory}/{name}" for name in NAMES]
        self.store: dict[str, bytes | None] = dict.fromkeys(self.paths)
        self.kept: dict[str, bytes] = {}
        """What a close could not store, and the file system must go on showing."""
        self.foreign: set[str] = set()
        """Names of `kept` that somebody else changed in the store: ESTALE is right."""
        self.past: dict[str, list[tuple[float, bytes | None]]] = {path: [] for path in self.paths}
        """What a name held until a moment ago, which may be told for a while."""
        self.changed_until: dict[str, float] = {}
        """Until when somebody else's change of a name may be unknown to the file system."""
        self.acknowledged_puts: dict[str, int] = {}
        """How many puts had been sent, of all, when a name was last acknowledged."""
        self.operations = 0
        self.failures = 0
        self.surprised: list[str] = []
        self.story: list[str] = []
        self._serial = 0

    # -- what may be seen ----------------------------------------------------------------------

    def views(self, path: str) -> list[bytes | None]:
        """Return what a reader may find under a name."""
        if path in self.kept:
            return [self.kept[path]]
        now = self.world.now()
        self.past[path] = [(until, data) for until, data in self.past[path] if until > now]
        return [self.store[path], *(data for _, data in self.past[path])]

    def was(self, path: str, data: bytes | None) -> None:
        """Take note that a name held `data` until now, and that this may still be told."""
        self.past[path].append((self.world.now() + self.ttl, data))

    def lose(self, why: str, path: str) -> None:
        story = "\n  ".join(self.story[-40:])
        raise Loss(
            f"{path}: {why}\n  in the store: {_short(self.store[path])}\n"
            f"  kept: {_short(self.kept.get(path))}\n"
            f"  the last operations:\n  {story}"
        )

    async def look(self, path: str) -> bytes | None:
        return await self.world.stored(path)

    # -- one step ------------------------------------------------------------------------------

    async def step(self) -> None:
        """Do one random operation and check it."""
        kinds = (
            *(self.replace,) * 5,
            *(self.patch,) * 4,
            *(self.read,) * 5,
            *(self.rename,) * 3,
            *(self.unlink,) * 2,
            self.truncate,
            self.list_names,
            self.change,
            self.wait,
        )
        await self.random.choice(kinds)()
        self.operations += 1

    def content(self) -> bytes:
        self._serial += 1
        head = f"{self.directory}:{self._serial}:".encode()
        return head + self.random.randbytes(self.random.choice((0, 3, 50, 200, 700)))

    def path(self) -> str:
        return self.random.choice(self.paths)

    async def attempt(self, what: str, call: object, *paths: str) -> int:
        """Make a call; return its errno.  It may fail only with a reason."""
        faults = self.world.faults(self.directory)
        surprised = [path for path in paths if self.changed_until.get(path, -1.0) > self.world.now()]
        excused = surprised or any(path in self.foreign for path in paths)
        missing = any(None in self.views(path) for path in paths[:1])
        try:
            await call  # type: ignore[misc]
        except Exception as error:
            number = self.world.errno_of(error)
            if isinstance(error, Loss) or not number:
                raise
            told = f"{errno.errorcode.get(number, number)} ({error})"
        else:
            number, told = 0, "ok"
        struck = self.world.faults(self.directory) - faults
        self.story.append(f"{self.world.now():.2f} {what}: {told}{f', {struck} faults' if struck else ''}")
        self.surprised = surprised
        if number:
            self.failures += 1
        if number == errno.ENOENT and not missing and not excused:
            self.lose(f"{what} gave ENOENT for a name that is there", paths[0])
        if number and not struck and not excused and not (missing and number == errno.ENOENT):
            self.lose(f"{what} failed with {errno.errorcode.get(number)} for no reason", paths[0])
        return number

    # -- operations ----------------------------------------------------------------------------

    async def replace(self) -> None:
        path, data = self.path(), self.content()
        written: list[bytes] = []
        call = self.files.replace(path, data, written.append)
        number = await self.attempt(f"replace {path}", call, path)
        if number == errno.ENOENT:
            self.lose("O_CREAT gave ENOENT", path)
        await self.written(path, data, number, keep=bool(written))

    async def patch(self) -> None:
        await self.world.settle(self.directory)
        path, data = self.path(), self.content()
        at = self.random.choice((None, 0, 10, 300))
        before = self.views(path)
        learned: list[bytes] = []

        def learn(staged: bytes) -> None:
            learned.append(staged)
            if not any(old is not None and staged == _patched(old, data, at) for old in before):
                self.lose(f"a patch at {at} made {_short(staged)} of {[_short(old) for old in before]}", path)

        call = self.files.patch(path, data, at, learn, fsync=self.random.random() < 0.3)
        number = await self.attempt(f"patch {path} at {at}", call, path)
        if learned:
            await self.written(path, learned[0], number, keep=True)
        elif number == 0:
            self.lose("the patch did not take place", path)
        else:
            await self.nothing_happened(path)

    async def truncate(self) -> None:
        await self.world.settle(self.directory)
        path = self.path()
        size = self.random.choice((0, 1, 20, 400))
        before = [old for old in self.views(path) if old is not None]
        number = await self.attempt(f"truncate {path} {size}", self.files.truncate(path, size), path)
        wanted = [old[:size].ljust(size, b"\0") for old in before]
        found = await self.look(path)
        if number == 0:
            if found not in wanted:
                self.lose(f"truncated, and the store has {_short(found)}", path)
            self.acknowledged(path, found)
        else:
            await self.maybe_written(path, wanted)

    async def written(self, path: str, data: bytes, number: int, *, keep: bool) -> None:
        """Check the store after a file was written and closed."""
        if number == 0:
            found = await self.look(path)
            if found != data:
                self.lose(f"acknowledged {_short(data)}, and the store has {_short(found)}", path)
            self.acknowledged(path, data)
            return
        await self.maybe_written(path, [data])
        # A call may fail after another one has stored the bytes: an fsync in vain before a close, say.
        if keep and data not in (self.kept.get(path), self.store[path]):
            self.lose(f"written, not stored and not kept: {_short(data)}", path)

    async def maybe_written(self, path: str, candidates: list[bytes]) -> None:
        """Check the store after a write that failed: what is kept says how far it came."""
        before, found = self.store[path], await self.look(path)
        if found != before and found not in candidates:
            self.lose(f"a failed write left {_short(found)}", path)
        if found != before:
            self.was(path, before)
        self.store[path] = found
        kept = await self.world.kept(path)
        if kept is None and path in self.kept:
            if found not in candidates:
                self.lose("what could not be stored is gone", path)
            del self.kept[path]  # the close after an fsync that failed has stored all of it
            self.foreign.discard(path)
        if kept is not None and kept not in (*candidates, self.kept.get(path)):
            self.lose(f"kept is {_short(kept)}", path)
        if kept is not None:
            self.kept[path] = kept
            if path in self.surprised:  # what was opened is not what was there
                self.foreign.add(path)

    def acknowledged(self, path: str, data: bytes | None) -> None:
        self.store[path] = data
        self.acknowledged_puts[path] = self.world.puts()
        self.kept.pop(path, None)
        self.foreign.discard(path)
        self.past[path].clear()
        self.changed_until.pop(path, None)

    async def nothing_happened(self, path: str) -> None:
        found = await self.look(path)
        if found != self.store[path]:
            self.lose(f"a call that did nothing left {_short(found)}", path)

    async def unlink(self) -> None:
        path = self.path()
        number = await self.attempt(f"unlink {path}", self.files.unlink(path), path)
        before, found = self.store[path], await self.look(path)
        if number == 0:
            if found is not None and not (path in self.foreign and found == before):
                self.lose(f"unlinked, and the store has {_short(found)}", path)
            self.acknowledged(path, found)  # what somebody else stored unseen is not ours to remove
        elif found is None:
            self.was(path, before)
            self.store[path] = None
            self.unsure_of(path)
        elif found != before:
            self.lose(f"a failed unlink left {_short(found)}", path)

    async def rename(self) -> None:
        await self.world.settle(self.directory)
        old, new = self.random.sample(self.paths, 2)
        moved = self.kept.get(old, self.store[old])
        before = self.store[old], self.store[new]
        number = await self.attempt(f"rename {old} {new}", self.files.rename(old, new), old, new)
        found = await self.look(old), await self.look(new)
        if number == 0:
            # What somebody else stored under the old name, unseen, is not ours to remove.
            left = before[0] if old in self.foreign else None
            if found[1] != moved or found[0] not in (None, left):
                self.lose(
                    f"renamed to {new}; in the store {_short(found[0])} and {_short(found[1])}"
                    f" instead of {_short(moved)}",
                    old,
                )
            self.acknowledged(old, found[0])
            self.acknowledged(new, moved)
            return
        if found[0] not in (before[0], None):
            self.lose(f"a failed rename left {_short(found[0])} under the old name", old)
        if found[1] not in (before[1], moved):
            self.lose(f"a failed rename left {_short(found[1])} under the new name", new)
        if found[0] is None and before[0] is not None and found[1] != moved:
            self.lose(f"a failed rename to {new} lost the file", old)
        for path, was, now in zip((old, new), before, found, strict=True):
            self.was(path, was)
            self.store[path] = now
            self.was(path, now)
            if was != now:
                self.unsure_of(path)
        for path in (old, new):
            if path in self.kept and await self.world.kept(path) != self.kept[path]:
                if found[1] != moved:
                    self.lose("what was kept is gone after a failed rename", path)
                del self.kept[path]
                self.foreign.discard(path)
        if new in self.kept and found[1] != before[1]:
            self.foreign.add(new)  # what was kept must not replace what the rename left there

    async def read(self) -> None:
        path = self.path()
        at, size = self.random.choice(((0, None), (0, 10), (100, 250)))
        got: list[bytes] = []

        async def call() -> None:
            if size is None:
                got.append(await self.files.read(path))
            else:
                got.append(await self.files.read_part(path, at, size))

        views = self.views(path)
        await self.attempt(f"read {path} {at} {size}", call(), path)
        stop = None if size is None else at + size
        views = [*views, *self.views(path)]
        if got and not any(view is not None and view[at:stop] == got[0] for view in views):
            self.lose(f"read {_short(got[0])} at {at}", path)

    async def list_names(self) -> None:
        got: list[list[str]] = []

        async def call() -> None:
            got.append(await self.files.names(self.directory))

        number = await self.attempt("list", call(), *self.paths)
        if number:
            return
        for path in self.paths:
            name, views = path.rpartition("/")[2], self.views(path)
            if name not in got[0] and None not in views:
                self.lose(f"it is missing in the listing {got[0]}", path)
            if name in got[0] and not any(view is not None for view in views):
                self.lose(f"it is in the listing {got[0]}", path)

    async def change(self) -> None:
        """Somebody else stores or deletes an object."""
        path = self.path()
        if not self.may_be_changed(path):
            return
        data = None if self.random.random() < 0.3 else b"foreign:" + self.content()
        if data is None and self.store[path] is None:
            return
        await self.world.change(path, data)
        self.story.append(f"{self.world.now():.2f} somebody changes {path}")
        self.changed(path, data)

    def may_be_changed(self, path: str) -> bool:
        return True

    def changed(self, path: str, data: bytes | None) -> None:
        """Take note of a change of somebody else's."""
        if self.store[path] != data:
            self.was(path, self.store[path])
            self.store[path] = data
        self.changed_until[path] = self.world.now() + self.ttl
        if path in self.kept:
            self.foreign.add(path)

    def unsure_of(self, path: str) -> None:
        """Take note that a call failed and took place all the same: the kernel may know the old file."""
        self.changed_until[path] = self.world.now() + self.ttl

    def landed(self, path: str, data: bytes, *, before_last_ack: bool) -> None:
        """Take note that a put took place of which the file system was told that it failed."""
        self.story.append(f"{self.world.now():.2f} a late put of {path} takes place")
        if before_last_ack and self.store[path] not in (None, data):
            self.lose(f"a put that had failed replaced what was acknowledged, by {_short(data)}", path)
        self.was(path, self.store[path])
        self.store[path] = data

    async def wait(self) -> None:
        await self.world.pause(self.random.choice((0.1, self.ttl, 3 * self.ttl)))

    @contextmanager
    def told(self) -> Iterator[None]:
        """Print the story if something goes wrong."""
        try:
            yield
        except Loss:
            raise
        except Exception as error:
            story = "\n  ".join(self.story[-40:])
            raise AssertionError(f"{error!r} after\n  {story}") from error


def _patched(old: bytes, data: bytes, at: int | None) -> bytes:
    if at is None:
        return old + data
    return old.ljust(at, b"\0")[:at] + data + old[at + len(data) :]


def _short(data: bytes | None) -> str:
    if data is None:
        return "nothing"
    return f"{data[:16]!r}...({len(data)} bytes)" if len(data) > 16 else repr(data)
