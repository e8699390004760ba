"""``kill -9`` of the mount at random moments under load: what was acknowledged is in the store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount.harness import DEADLINE, Mounted, clear, environment, is_mounted, mounted, zarrmount
from mount.places import LocalBackdoor, S3Backdoor, s3_options
from reliability import writers
from reliability.tally import SOAK, TALLY, Progress, base_seed
from servers import S3Server

from zarrmount import registry

CRASHES = 35 if SOAK else 4
WRITERS = 3
ABSENT = "nothing"

States = dict[str, set[str]]
"""By key the digests (or `ABSENT`) that may be found."""


class Manifest:
    """What one writer noted down, and what must therefore be in the store.

    Parameters
    ----------
    path : Path
        Where it did so.
    behind_server : bool
        Whether there is a server before the store, which goes on with requests whose sender has died.
    """

    def __init__(self, path: Path, *, behind_server: bool) -> None:
        self.path = path
        self.behind_server = behind_server
        self._read = 0
        self.states: States = {}
        self.under_way: States = {}
        """What a server may bring into the store yet; it must not replace what is acknowledged later."""
        self.acknowledged = 0

    def take(self) -> list[tuple[str, str]]:
        """Read what came since; return the moves that may be half done, as (old, new)."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        fresh, self._read = lines[self._read :], len(lines)
        intent: dict[str, str] | None = None
        unsure: list[tuple[str, str]] = []
        for line in fresh:
            said = json.loads(line)
            if "ok" in said:
                assert intent is not None
                self._done(intent)
                self.acknowledged += 1
                intent = None
            elif "errno" in said:
                assert intent is not None
                unsure += self._maybe(intent)
                intent = None
            else:
                intent = said
        if intent is not None:
            unsure += self._maybe(intent)
        return unsure

    def story(self, key: str) -> str:
        """Return the last lines of the manifest that are about a key, each with its answer."""
        lines = self.path.read_text().splitlines()
        answers = [*lines[1:], "no answer"]
        return "\n".join([f"{a} {b}" for a, b in zip(lines, answers, strict=True) if f'"{key}"' in a][-10:])

    def state(self, key: str) -> set[str]:
        return self.states.setdefault(key, {ABSENT})

    def _done(self, intent: dict[str, str]) -> None:
        for key in intent.values():  # what is acknowledged nothing older may replace
            self.under_way.pop(key, None)
        if "put" in intent:
            self.states[intent["put"]] = {intent["sha"]}
        elif "move" in intent:
            self.states[intent["to"]] = self.state(intent["move"]) - {ABSENT}
            self.states[intent["move"]] = {ABSENT}
        else:
            self.states[intent["unlink"]] = {ABSENT}

    def _maybe(self, intent: dict[str, str]) -> list[tuple[str, str]]:
        if "put" in intent:
            self._may_become(intent["put"], {intent["sha"]})
        elif "move" in intent:
            self._may_become(intent["to"], self.state(intent["move"]) - {ABSENT})
            self._may_become(intent["move"], {ABSENT})
            return [(intent["move"], intent["to"])]
        else:
            self._may_become(intent["unlink"], {ABSENT})
        return []

    def _may_become(self, key: str, states: set[str]) -> None:
        self.state(key).update(states)
        self.under_way.setdefault(key, set()).update(states)

    def check(self, found: dict[str, str]) -> None:
        """Compare with the store; what is found there is then what must be there."""
        before = {key: set(states) for key, states in self.states.items()}
        for key, late in self.under_way.items():
            self.state(key).update(late)
        for old, new in self.take():
            if found.get(old, ABSENT) == ABSENT:
                moved = self.state(old) - {ABSENT}
                assert found.get(new) in moved, f"{old} was lost while it was moved to {new}"
        for key, states in self.states.items():
            there = found.get(key, ABSENT)
            assert there in states, (
                f"LOSS: {key} is {there[:12]}, and may be {[s[:12] for s in states]};"
                f" before this round {[s[:12] for s in before.get(key, ())]};"
                f" what was done:\n{self.story(key)}"
            )
            if there in self.under_way.get(key, ()):
                del self.under_way[key]
            self.states[key] = {there}
        if not self.behind_server:
            self.under_way.clear()
        directory = self.path.stem
        strangers = {key for key in found if key.startswith(f"{directory}/") and key not in self.states}
        assert all(key.endswith(".partial") for key in strangers), f"nobody wrote {strangers}"


class Store:
    """One kind of store: where it is, and what is in it, past any mount."""

    def __init__(
        self,
        location: str,
        options: tuple[str, ...],
        backdoor: LocalBackdoor | S3Backdoor | None,
        writeback: bool,
    ) -> None:
        self.location, self.backdoor, self.writeback = location, backdoor, writeback
        self.options = (*options, "--writeback=1") if writeback else options

    def digests(self, *, ended_well: bool = False) -> dict[str, str] | None:
        """Return what the store itself has; None where only a mount can tell.

        That is a zip, or, with write-back, any store as long as something may wait in the journal.
        """
        if self.backdoor is not None and (ended_well or not self.writeback):
            return {
                key: _digest(self.backdoor.read(key))
                for key in self.backdoor.keys("")
                if ".zarrmount" not in key
            }
        archive = Path(self.location)
        if self.backdoor is None and archive.exists():
            with zipfile.ZipFile(archive) as opened:
                assert opened.testzip() is None
        return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


SHOWN = """
import hashlib
result = {str(path): hashlib.sha256(path.read_bytes()).hexdigest()
          for path in Path(".").rglob("*") if path.is_file()}
"""


@pytest.fixture(params=["local", "zip", "s3", "local-writeback", "zip-writeback", "s3-writeback"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    kind, _, mode = request.param.partition("-")
    writeback = mode == "writeback"
    if kind == "s3":
        server: S3Server = request.getfixturevalue("gateway")
        bucket = server.create()
        backdoor = S3Backdoor(server, bucket, "store/")
        return Store(f"s3://{bucket}/store", s3_options(server), backdoor, writeback)
    if kind == "local":
        path = tmp_path / "store.zarr"
        return Store(str(path), ("--create",), LocalBackdoor(path), writeback)
    return Store(str(tmp_path / "store.zarr.zip"), ("--create",), None, writeback)


@contextlib.contextmanager
def load(root: Path, manifests: list[Manifest], seed: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Let writers work; end them afterwards."""
    processes = [
        subprocess.Popen(
            [sys.executable, writers.__file__, root, manifest.path, str(seed + number)],
            stderr=subprocess.DEVNULL,
        )
        for number, manifest in enumerate(manifests)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait(DEADLINE)


def crash(store: Store, directory: Path, manifests: list[Manifest], seed: int) -> None:
    """Mount, check what the last crash left, load it, kill it, clear it, look into the store."""
    source = random.Random(seed)
    log, mountpoint = directory / "log", directory / "mnt"
    mountpoint.mkdir(exist_ok=True)
    variables = environment(directory)
    done = zarrmount(
        "mount", store.location, mountpoint, "--log-file", log, *store.options, environment=variables
    )
    assert done.returncode == 0, done.stderr
    mount = Mounted(mountpoint, log, variables)
    try:
        shown = mount.python(SHOWN)
        for manifest in manifests:
            manifest.check(shown)
        running = registry.find(mountpoint)
        assert running is not None
        written = [manifest.path.stat().st_size if manifest.path.exists() else 0 for manifest in manifests]
        with load(mountpoint, manifests, seed) as processes:
            _wait_until_they_write(manifests, written)
            time.sleep(source.uniform(0.0, 0.6))
            ends = None
            if source.random() < 0.25:  # in the middle of its end
                for process in processes:
                    process.terminate()  # after its operation: who is killed leaves half a file
                for process in processes:
                    process.wait(DEADLINE)
                ends = subprocess.Popen(
                    [sys.executable, "-m", "zarrmount", "umount", mountpoint],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=variables,
                )
                time.sleep(source.uniform(0.25, 0.7))
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)
            if ends is not None:
                ends.wait(DEADLINE)
            for process in processes:
                process.wait(DEADLINE)  # a dead mount lets nobody hang
        while running.alive:
            time.sleep(0.005)
        if is_mounted(mountpoint):
            cleared = zarrmount("umount", mountpoint, environment=variables)
            assert cleared.returncode == 0, cleared.stderr
        assert not is_mounted(mountpoint)
    finally:
        clear(mountpoint)
    found = store.digests()
    if found is not None:
        for manifest in manifests:
            manifest.check(found)


def _wait_until_they_write(manifests: list[Manifest], written: list[int]) -> None:
    end = time.monotonic() + DEADLINE
    while any(
        m.path.stat().st_size <= size if m.path.exists() else True
        for m, size in zip(manifests, written, strict=True)
    ):
        assert time.monotonic() < end, "the writers do not write"
        time.sleep(0.005)


@pytest.mark.timeout(3600)
def test_killed_mounts(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["store"]
    seed = base_seed()
    print(f"seed {seed}; again with ZARRMOUNT_SEED={seed}")
    behind_server = kind.startswith("s3")
    paths = [tmp_path / f"writer{number}" for number in range(WRITERS)]
    manifests = [Manifest(path, behind_server=behind_server) for path in paths]
    progress = Progress(f"crashes of a {kind} mount", CRASHES)
    for number in range(CRASHES):
        crash(store, tmp_path, manifests, seed + 1000 * number)
        TALLY.add(f"crashes, {kind}")
        progress.tell(number + 1, f", {sum(m.acknowledged for m in manifests)} acknowledged")
    with mounted(store.location, tmp_path, *store.options) as mount:
        shown = mount.python(SHOWN)
        for manifest in manifests:
            manifest.check(shown)
    found = store.digests(ended_well=True)
    if found is not None:
        for manifest in manifests:
            manifest.check(found)
    if kind.startswith("zip"):
        with zipfile.ZipFile(store.location) as archive:
            assert archive.testzip() is None
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            assert len(names) == len(set(names))
            for manifest in manifests:
                manifest.check({name: _digest(archive.read(name)) for name in names})
    TALLY.add("operations acknowledged before crashes", sum(m.acknowledged for m in manifests))
