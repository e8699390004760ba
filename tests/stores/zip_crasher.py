"""Processes that crash while they change a zip archive; run by test_zipped_writing.py.

``loop PATH SEED`` changes an archive at random until it is killed.  It prints each change before it
begins (``?``) and after it was acknowledged (``!``).

``points PATH`` makes one fixed run of changes again and again, and crashes at the first system call
that changes anything on the disk, at the second, and so on; each write also half way through it.  It
looks at what each crash left, and prints how many there were.

``compaction PATH`` does the same with one compaction that also merges what is pending, and crashes
after each byte that it writes, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from contents import names

import stores.zipped.session as zip_session
from stores.zipped import ZipStore, changes


def body(seed: int) -> bytes:
    """Return the bytes that a put with `seed` stores."""
    rng = random.Random(seed)
    return rng.randbytes(rng.choice((0, 10, 1000, 60_000)))


def apply(state: dict[str, int], change: list) -> dict[str, int]:
    """Return what a map from keys to seeds becomes by a change."""
    new = dict(state)
    match change:
        case ["put", key, seed]:
            new[key] = seed
        case ["delete", key]:
            del new[key]
        case ["rename", source, target]:
            new[target] = new.pop(source)
        case ["exchange", source, target]:
            new[source], new[target] = new[target], new[source]
        case ["truncate"]:
            new.clear()
        case ["rename_dir", source, target]:
            for key in state:
                if key.startswith(source + "/"):
                    new[target + key[len(source) :]] = new.pop(key)
    return new


async def make(store: ZipStore, change: list) -> None:
    match change:
        case ["put", key, seed]:
            await store.put(key, body(seed))
        case ["delete", key]:
            await store.delete(key)
        case ["rename", source, target]:
            await store.rename(source, target)
        case ["exchange", source, target]:
            await store.rename(source, target, exchange=True)
        case ["rename_dir", source, target]:
            await store.rename_dir(source, target)
        case ["merge"]:
            await store.merge()
        case ["compact"]:
            await store.compact()
        case ["sync"]:
            await store.sync("")
        case ["reopen"]:
            await store.aclose()
            await store.open()


def choose(rng: random.Random, state: dict[str, int]) -> list:
    kind = rng.choice(
        ["put"] * 6 + ["delete", "rename", "exchange", "merge", "merge", "compact", "sync", "reopen"]
    )
    key = f"d{rng.randrange(3)}/k{rng.randrange(12)}"
    if kind == "put" or not state:
        return ["put", key, rng.randrange(1 << 30)]
    source = rng.choice(sorted(state))
    if kind == "delete":
        return [kind, source]
    if kind == "rename":
        return [kind, source, key] if source != key else ["sync"]
    if kind == "exchange":
        return [kind, source, rng.choice(sorted(state))]
    return [kind]


async def loop(path: str, seed: int, state: dict[str, int]) -> None:
    rng = random.Random(seed)
    zip_session.MERGE_BYTES = 200_000
    async with ZipStore(path, "a", create=True) as store:
        while True:
            change = choose(rng, state)
            print("?", json.dumps(change), flush=True)
            await make(store, change)
            print("!", json.dumps(change), flush=True)
            state = apply(state, change)


# -- a crash at every system call ----------------------------------------------------------------

RUN = [
    ["put", "d/x", 1],
    ["rename", "a", "e/f/a"],
    ["delete", "b"],
    ["sync"],
    ["exchange", "c", "d/x"],
    ["merge"],
    ["put", "d/y", 3],
    ["rename_dir", "d", "g/d"],
    ["compact"],
    ["put", "d/y", 5],
    ["reopen"],
    ["put", "c", 6],
    ["truncate"],
    ["put", "after", 7],
]
CALLS = (
    "open",
    "mkdir",
    "pwrite",
    "copy_file_range",
    "ftruncate",
    "fsync",
    "replace",
    "unlink",
    "rmdir",
    "chmod",
)


def crash_at(number: int, share: float) -> None:
    """End the process at the `number`-th call that changes the disk, after `share` of a write."""
    left = [number]

    def wrap(name: str) -> None:
        call = getattr(os, name)

        def counted(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                if name == "pwrite":
                    call(args[0], args[1][: int(len(args[1]) * share)], *args[2:])
                os._exit(9)
            return call(*args, **options)

        setattr(os, name, counted)

    for name in CALLS:
        wrap(name)


def crash_after(budget: int) -> None:
    """End the process when so many bytes are written, in the middle of a write if need be."""
    left = [budget]
    write, copy = os.pwrite, os.copy_file_range

    def counted_write(fd, data, offset):
        left[0] -= len(data)
        if left[0] < 0:
            write(fd, data[: left[0]], offset)
            os._exit(9)
        return write(fd, data, offset)

    def counted_copy(source, target, size, start, at):
        left[0] -= size
        if left[0] < 0:
            copy(source, target, size + left[0], start, at)
            os._exit(9)
        return copy(source, target, size, start, at)

    os.pwrite, os.copy_file_range = counted_write, counted_copy


def change_session(session, change: list) -> None:
    match change:
        case ["put", key, seed]:
            changes.put(session, key, body(seed), False, None)
        case ["delete", key]:
            changes.delete(session, key)
        case ["rename", source, target]:
            changes.rename(session, source, target, False, False)
        case ["exchange", source, target]:
            changes.rename(session, source, target, False, True)
        case ["rename_dir", source, target]:
            changes.rename_dir(session, source, target, False, False)
        case ["merge"]:
            session.merge()
        case ["compact"]:
            session.merge(compact=True)
        case ["sync"]:
            session.sync()


def run_and_crash(path: Path, number: int, share: float, acknowledged: int) -> None:
    crash_at(number, share)
    session = zip_session.Session(path, "a", create=True, compression=0)
    for change in RUN:
        if change == ["reopen"]:
            session.close()
            session = zip_session.Session(path, "a", create=True, compression=0)
        if change == ["truncate"]:
            session._lock._handle = None  # as after a crash: what is pending stays pending
            session = zip_session.Session(path, "w", create=False, compression=0)
        change_session(session, change)
        os.write(acknowledged, b"!")
    session.close()
    os._exit(0)


async def shown(path: Path, mode: str) -> dict[str, bytes]:
    async with ZipStore(path, mode) as store:
        keys = [meta.key async for page in store.list_all() for meta in page.objects]
        return {key: (await store.get(key))[0] for key in keys}


def points(directory: Path) -> int:
    start = {"a": 11, "b": 12, "c": 13, "d/y": 14}
    number = 0
    finished = {0.0: False, 0.5: False}
    while not all(finished.values()):
        for share in finished:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            path = directory / "a.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for key, seed in start.items():
                    archive.writestr(key, body(seed))
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                run_and_crash(path, number, share, writing)
            os.close(writing)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with os.fdopen(reading, "rb") as pipe:
                done = len(pipe.read())
            assert status in (0, 9), status
            finished[share] = status == 0
            examine(path, start, done, f"call {number}, {share} of it")
        number += 1
    return number


def compact(path: Path) -> None:
    session = zip_session.Session(path, "a", create=False, compression=0)
    session.merge(compact=True)
    session.close()


def compaction(directory: Path) -> int:
    """Crash at every call, and after every byte: the archive is the old one or the new one."""
    template, work = directory / "template", directory / "work"
    os.fsync = lambda fd: None  # a process that dies takes nothing with it that it has written
    template.mkdir(parents=True)
    expected = prepare(template / "a.zip")
    old = (template / "a.zip").read_bytes()
    shutil.copytree(template, work)
    compact(work / "a.zip")
    new = (work / "a.zip").read_bytes()
    assert len(new) < len(old)
    for whole in (template, work):
        check_with_unzip(whole / "a.zip")
    seen, points = set(), 0
    for crash in (lambda number: crash_at(number, 0.5), crash_after):
        number, status = 0, 9
        while status == 9:
            shutil.rmtree(work)
            shutil.copytree(template, work)
            child = os.fork()
            if not child:
                crash(number)
                compact(work / "a.zip")
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status in (0, 9), status
            found = (work / "a.zip").read_bytes()
            assert found in (old, new), number
            assert asyncio.run(shown(work / "a.zip", "r")) == expected, number
            seen.add((status, found == new))
            compact(work / "a.zip")
            assert (work / "a.zip").read_bytes() == new, number
            assert names(work) == ["a.zip"], number
            points += 1
            number += 1
    assert seen == {(9, False), (9, True), (0, True)}
    return points


def prepare(path: Path) -> dict[str, bytes]:
    """Make an archive with dead bytes in it and changes pending on it; return what it shows."""
    session = zip_session.Session(path, "a", create=True, compression=0)
    for key in ("kept", "dead", "replaced", "renamed"):
        changes.put(session, key, key.encode() * 9, False, None)
    session.merge()
    changes.delete(session, "dead")
    session.merge()
    changes.put(session, "replaced", b"other", False, None)
    changes.rename(session, "renamed", "d/new", False, False)
    session._lock._handle = None  # as after a crash
    return {"kept": b"kept" * 9, "replaced": b"other", "d/new": b"renamed" * 9}


def check_with_unzip(path: Path) -> None:
    told = subprocess.run(["unzip", "-t", path], check=False, capture_output=True, text=True)
    assert "No errors detected" in told.stdout or "zipfile is empty" in told.stdout + told.stderr, told


def examine(path: Path, state: dict[str, int], done: int, where: str) -> None:
    for change in RUN[:done]:
        state = apply(state, change)
    allowed = [state] + ([apply(state, RUN[done])] if done < len(RUN) else [])
    allowed = [{key: body(seed) for key, seed in one.items()} for one in allowed]
    check_with_unzip(path)
    seen = asyncio.run(shown(path, "r"))
    assert seen in allowed, where
    assert asyncio.run(shown(path, "a")) == seen, where
    assert names(path.parent) == ["a.zip"], where
    check_with_unzip(path)
    assert asyncio.run(shown(path, "r")) == seen, where


if __name__ == "__main__":
    if sys.argv[1] == "points":
        print(points(Path(sys.argv[2])))
    elif sys.argv[1] == "compaction":
        print(compaction(Path(sys.argv[2])))
    else:
        asyncio.run(loop(sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])))
