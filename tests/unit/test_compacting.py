"""``zarrmount compact``: what it reclaims, what it says, and what it leaves when it cannot."""

from __future__ import annotations

import errno
import os
import random
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import stores.zipped.session as zip_session
from stores.errors import BadLocation, Corrupt, Denied, NoSpace, NotFound
from stores.zipped import ZipStore
from zarrmount import registry
from zarrmount.cli import cli
from zarrmount.compacting import compact
from zarrmount.progress import Progress

LARGE = random.Random(1).randbytes(3 << 20)
KEPT = {"a": b"a", "d/b": b"b" * 100}


def nobody(progress: Progress) -> None:
    """Show it to nobody."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for key, data in KEPT.items():
            archive.writestr(key, data)
    return path


@pytest.fixture
async def dead(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive that is large for nothing, and looks as if nobody had touched it since."""
    with monkeypatch.context() as patch:
        patch.setattr(zip_session, "COMPACT_BYTES", 1 << 40)
        async with ZipStore(path, "a") as store:
            await store.put("large", LARGE)
        async with ZipStore(path, "a") as store:
            await store.delete("large")
    assert path.stat().st_size > len(LARGE)
    return path


async def leave_pending(path: Path) -> None:
    """Change it, and crash."""
    store = ZipStore(path, "a")
    await store.put("new", LARGE)
    await store.put("new", b"new")
    session = store._shared.place.session
    assert session is not None
    session._lock._handle = None
    store._shared.place.session = None


def content(path: Path) -> dict[str, bytes]:
    subprocess.run(["unzip", "-tq", path], check=True, stdout=subprocess.DEVNULL)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def names(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir())


async def test_dead_bytes_are_reclaimed(dead: Path) -> None:
    before = dead.stat().st_size
    seen: list[Progress] = []
    done = compact(str(dead), seen.append)
    assert (done.before, done.pending, done.after) == (before, 0, dead.stat().st_size)
    assert done.after < 1000
    assert content(dead) == KEPT
    assert names(dead) == ["archive.zip"]
    assert done.in_words() == f"{dead}: 3.1 MB before, {done.after} bytes after, 3.1 MB reclaimed"


async def test_what_is_pending_is_taken_up(dead: Path) -> None:
    await leave_pending(dead)
    seen: list[Progress] = []
    done = compact(dead.as_uri(), seen.append)
    assert done.pending == len(LARGE) + 3
    assert content(dead) == KEPT | {"new": b"new"}
    assert names(dead) == ["archive.zip"]
    assert "3.1 MB and 3.1 MB pending before" in done.in_words()
    assert "6.3 MB reclaimed" in done.in_words()


async def test_progress(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zarrmount.compacting._SHOW_EVERY", 0)
    monkeypatch.setattr("stores.zipped.merge._MOST_AT_ONCE", 1 << 20)
    async with ZipStore(path, "a") as store:
        await store.put("large", LARGE)
    await leave_pending(path)
    seen: list[Progress] = []
    compact(str(path), seen.append)
    done = [progress.done_bytes for progress in seen]
    assert done == sorted(done)
    assert len(set(done)) > 4
    total = len(LARGE) + sum(len(data) for data in KEPT.values()) + 3
    assert {progress.total_bytes for progress in seen} == {total}
    assert done[-1] == total


def test_nothing_to_reclaim(path: Path) -> None:
    before = path.stat()
    done = compact(str(path), nobody)
    assert done.in_words() == f"{path}: {before.st_size} bytes, nothing to reclaim"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(path) == ["archive.zip"]


def test_an_archive_with_another_name(path: Path) -> None:
    other = path.rename(path.with_name("archive.zarr"))
    link = other.with_name("link")
    link.symlink_to(other)
    assert compact(str(link), nobody).path == other
    assert link.is_symlink()


# -- what cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location", ["s3://bucket/a.zip", "https://me:secret@host/a.zip", "zip::s3://b/a.zip", "python:m:f"]
)
def test_an_archive_elsewhere(location: str) -> None:
    with pytest.raises(BadLocation, match="on this machine") as caught:
        compact(location, nobody)
    assert "secret" not in str(caught.value)


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"missing\.zip' does not exist"):
        compact(str(tmp_path / "missing.zip"), nobody)
    with pytest.raises(BadLocation, match="is no zip archive"):
        compact(str(tmp_path), nobody)
    (tmp_path / "text").write_text("text")
    with pytest.raises(BadLocation, match="not a Zarr directory or zip"):
        compact(str(tmp_path / "text"), nobody)
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(Corrupt, match=r"text\.zip': not a zip archive"):
        compact(str(tmp_path / "text.zip"), nobody)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "text.zip"]


async def test_another_process_is_writing(dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dead.read_bytes()
    async with ZipStore(dead, "a") as store:
        await store.put("new", b"new")
        with pytest.raises(Denied, match=rf"written by another process \(pid {os.getpid()}\)$"):
            compact(str(dead), nobody)
        mount = registry.RunningMount(pid=os.getpid(), mountpoint="/mnt/a", location="a", socket="s")
        monkeypatch.setattr(registry, "all_running", lambda: [mount])
        with pytest.raises(Denied, match=r"; unmount it first: zarrmount umount /mnt/a$"):
            compact(str(dead), nobody)
        assert dead.read_bytes() == before
    assert content(dead) == KEPT | {"new": b"new"}


@pytest.mark.parametrize("pending", [False, True])
async def test_a_full_disk(dead: Path, monkeypatch: pytest.MonkeyPatch, pending: bool) -> None:
    if pending:
        await leave_pending(dead)
    before = dead.read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "copy_file_range", full)
        with pytest.raises(NoSpace, match="it is as it was"):
            compact(str(dead), nobody)
    assert dead.read_bytes() == before
    assert not list(dead.parent.rglob("new.zip"))
    assert names(dead) == (["archive.zip", "archive.zip.pending"] if pending else ["archive.zip"])
    compact(str(dead), nobody)
    assert content(dead) == (KEPT | {"new": b"new"} if pending else KEPT)


@pytest.mark.parametrize("pending", [False, True])
async def test_an_interrupt_at_any_step(dead: Path, monkeypatch: pytest.MonkeyPatch, pending: bool) -> None:
    monkeypatch.setattr("zarrmount.compacting._SHOW_EVERY", 0)
    if pending:
        await leave_pending(dead)
    before = dead.read_bytes()
    for steps in range(1000):
        left = [steps]

        def show(progress: Progress, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt

        try:
            compact(str(dead), show)
        except KeyboardInterrupt:
            assert dead.read_bytes() == before
            assert names(dead) == (["archive.zip", "archive.zip.pending"] if pending else ["archive.zip"])
        else:
            break
    assert steps > 3
    assert content(dead) == (KEPT | {"new": b"new"} if pending else KEPT)
    assert names(dead) == ["archive.zip"]


# -- the command -----------------------------------------------------------------------------------


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["compact", *map(str, words)])


async def test_the_command(dead: Path) -> None:
    done = run(dead)
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.fullmatch(r"/.*: 3\.1 MB before, \d+ bytes after, 3\.1 MB reclaimed\n", done.stdout)
    assert run(dead).stdout.endswith("nothing to reclaim\n")


@pytest.mark.parametrize("location", ["missing.zip", "s3://bucket/a.zip", "."])
def test_its_mistakes_are_one_line(tmp_path: Path, location: str) -> None:
    command = [sys.executable, "-m", "zarrmount", "compact", location]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zarrmount: ")
    assert len(done.stderr.splitlines()) == 1
