"""Staged bytes: memory, spool files, full disks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies

from stores.meta import read_body
from zarrmount.objects.staging import StagedObject, Staging

BIG = 200_000


def fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def content(staged: StagedObject) -> bytes:
    body = await staged.body()
    try:
        return bytes(read_body(body))
    finally:
        if not isinstance(body, (bytes, bytearray, memoryview)):
            body.close()


def is_spooled(staged: StagedObject) -> bool:
    return staged._spool is not None


async def test_memory_is_left_when_the_budget_is_spent_and_given_back(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "spool", 300_000)
    one, two = staging.new(), staging.new()
    before = fds()
    await one.write(0, b"1" * BIG)
    assert staging.in_memory == BIG
    await two.write(0, b"2" * BIG)
    assert not is_spooled(one)
    assert is_spooled(two)
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "spool").iterdir()) == []
    assert await content(two) == await two.read(0, 1 << 30) == b"2" * BIG
    one.close()
    two.close()
    two.close()
    assert staging.in_memory == 0
    assert fds() == before


async def test_an_object_that_grows_moves_with_its_bytes(tmp_path: Path) -> None:
    staging = Staging(tmp_path, 100_000)
    staged = staging.new()
    await staged.write(0, b"a" * 90_000)
    assert not is_spooled(staged)
    await staged.write(90_000, b"b" * 20_000)
    assert is_spooled(staged)
    assert staging.in_memory == 0
    assert await content(staged) == b"a" * 90_000 + b"b" * 20_000
    staged.close()


STEPS = strategies.lists(
    strategies.one_of(
        strategies.tuples(
            strategies.just("write"), strategies.integers(0, 3 * 70_000), strategies.binary(max_size=50)
        ),
        strategies.tuples(
            strategies.just("truncate"), strategies.integers(0, 3 * 70_000), strategies.just(b"")
        ),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(STEPS, strategies.sampled_from([0, 100_000, 1 << 30]))
async def test_it_is_a_file(steps: list[tuple[str, int, bytes]], limit: int) -> None:
    staging = Staging(Path(tempfile.gettempdir()), limit)
    staged, model = staging.new(), bytearray()
    for what, at, data in steps:
        if what == "write":
            await staged.write(at, data)
            if data:
                model.extend(bytes(max(0, at - len(model))))
                model[at : at + len(data)] = data
        else:
            await staged.truncate(at)
            del model[at:]
            model.extend(bytes(at - len(model)))
        assert staged.size == len(model)
    assert await content(staged) == model
    assert await staged.read(3, 100) == model[3:103]
    staged.close()
    assert staging.in_memory == 0


async def test_writes_at_once_do_not_overshoot_or_get_lost(tmp_path: Path) -> None:
    staged = Staging(tmp_path, 100_000).new()
    async with trio.open_nursery() as nursery:
        for i in range(20):
            nursery.start_soon(staged.write, i * 10_000, bytes([i]) * 10_000)
    assert await content(staged) == b"".join(bytes([i]) * 10_000 for i in range(20))
    staged.close()


@pytest.mark.parametrize("spooled", [False, True])
async def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spooled: bool
) -> None:
    """Half a write that failed is no content: neither in the body nor after an extension."""
    staged = Staging(tmp_path, 0 if spooled else BIG).new()
    before = fds() + spooled
    await staged.write(0, b"x" * BIG)
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if len(data) < 50_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, bytes(data)[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            await staged.write(BIG, b"y" * BIG)
    monkeypatch.setattr(os, "pwrite", real)
    assert staged.size == BIG
    assert await content(staged) == b"x" * BIG
    await staged.truncate(BIG + 1000)
    assert await content(staged) == b"x" * BIG + bytes(1000)
    assert fds() == before + (not spooled)
    staged.close()


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """What the kernel itself does when there is no room."""
    code = """
import resource, signal, sys, trio
from pathlib import Path
from zarrmount.objects.staging import Staging
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
async def main():
    staged = Staging(Path(sys.argv[1]), 0).new()
    await staged.write(0, b"x" * 200_000)
    try:
        await staged.write(200_000, b"y" * 200_000)
    except OSError as error:
        print(error.errno, staged.size, (await staged.read(0, 1 << 20)) == b"x" * 200_000)
    body = await staged.body()
    print(len(body.read()))
trio.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(errno.EFBIG), "200000", "True", "200000"]


async def test_saving_never_overwrites_and_leaks_nothing(tmp_path: Path) -> None:
    for limit in (0, 1 << 30):
        staged = Staging(tmp_path / "spool", limit).new()
        await staged.write(0, b"x" * BIG)
        target = tmp_path / f"saved-{limit}"
        before = fds()
        await staged.save(target)
        assert target.read_bytes() == b"x" * BIG
        assert target.stat().st_mode & 0o777 == 0o600
        with pytest.raises(FileExistsError):
            await staged.save(target)
        assert fds() == before
        staged.close()


async def test_writing_nothing_changes_nothing(tmp_path: Path) -> None:
    staged = Staging(tmp_path).new()
    await staged.write(100, b"")
    assert (staged.size, staged.modified) == (0, False)


async def test_closing_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that reads must not find another file under its descriptor."""
    staged = Staging(tmp_path, 0).new()
    before = fds()
    await staged.write(0, b"x" * BIG)
    may_read, got = threading.Event(), []
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        may_read.wait(30)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)

    async def read() -> None:
        got.append(await staged.read(0, BIG))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        staged.close()
        strangers = [os.open("/dev/zero", os.O_RDONLY) for _ in range(5)]
        may_read.set()
    assert got == [b"x" * BIG] * 5
    for fd in strangers:
        os.close(fd)
    assert fds() == before
    with pytest.raises(RuntimeError):
        await staged.write(0, b"x" * BIG)
