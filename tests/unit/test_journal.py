"""The write-back journal: what was acknowledged is there after a crash at any byte."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.errors import Corrupt, Denied
from stores.journal import encode_line
from stores.meta import AttributeChange, ObjectMeta
from zarrmount.objects.journal import Contents, Entry, Journal, journal_directory, journals
from zarrmount.objects.journal_log import Change

LOCATION = "s3://bucket/data.zarr"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "writeback" / "one"


def put(journal: Journal, key: str, content: bytes = b"x", *, instead_of: str | None = None, **more) -> Entry:
    """Write a data file and record it, as a mount does."""
    path = journal.new_data()
    path.write_bytes(content)
    entry = Entry(
        key=key, size=len(content), data=path.name, closed_ns=time.time_ns(), **{"base": None} | more
    )
    journal.record(entry, instead_of=instead_of)
    return entry


def move(journal: Journal, old: str, new: str) -> Entry:
    was = journal.entries[old]
    entry = Entry(key=new, size=was.size, data=was.data, base=None, anyway=True, closed_ns=was.closed_ns)
    journal.record(entry, instead_of=old)
    return entry


def names(directory: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in directory.iterdir())


# -- what it keeps ---------------------------------------------------------------------------------


def test_an_entry_survives_with_all_its_fields(directory: Path) -> None:
    journal = Journal.open(directory, LOCATION)
    entry = put(
        journal,
        "a/c/0.0 'ö\n\udcff",
        b"content",
        base=ObjectMeta("a/c/0.0", 3, 17, '"etag"'),
        anyway=True,
        sent=("00ff", "?"),
        attributes=AttributeChange(0o640, 1, 2, 3, 4),
    )
    journal.close()

    assert Journal.peek(directory) == [entry]
    again = Journal.open(directory, LOCATION)
    assert list(again.entries.values()) == [entry]
    assert (directory / entry.data).read_bytes() == b"content"
    again.close()


def test_the_order_is_that_of_closing(directory: Path) -> None:
    journal = Journal.open(directory, LOCATION)
    for key in ("b", "a", "c", "b"):
        put(journal, key)
    assert list(journal.entries) == ["a", "c", "b"]
    assert [entry.key for entry in Journal.peek(directory)] == ["a", "c", "b"]
    journal.close()


def test_data_files_no_longer_needed_are_removed(directory: Path) -> None:
    journal = Journal.open(directory, LOCATION)
    put(journal, "a", b"1")
    second = put(journal, "a", b"2")
    assert {path.name for path in directory.glob("data-*")} == {second.data}
    moved = move(journal, "a", "b")
    assert moved.data == second.data
    assert (directory / moved.data).read_bytes() == b"2"
    put(journal, "c", b"3")
    move(journal, "c", "b")
    assert len(list(directory.glob("data-*"))) == 1
    journal.record(journal.entries["b"])  # the same again, as after a chmod
    assert len(list(directory.glob("data-*"))) == 1
    journal.drop("b")
    assert not list(directory.glob("data-*"))
    journal.close()


def test_dropping_what_does_not_wait_changes_nothing(directory: Path) -> None:
    journal = Journal.open(directory, LOCATION)
    before = (directory / "log").read_bytes()
    journal.drop("a")
    assert (directory / "log").read_bytes() == before
    journal.close()


def test_the_directory_goes_when_nothing_waits_and_stays_otherwise(directory: Path) -> None:
    journal = Journal.open(directory, LOCATION)
    assert directory.stat().st_mode & 0o777 == 0o700
    put(journal, "a")
    journal.close()
    journal.close()
    assert names(directory) == ["data", "lock", "log"]
    journal = Journal.open(directory, LOCATION)
    journal.new_data().write_bytes(b"never recorded")
    journal.drop("a")
    journal.close()
    assert not directory.exists()
    assert Journal.peek(directory) == []
    with pytest.raises(RuntimeError):
        journal.drop("a")


def test_a_data_file_must_be_written_before_it_is_recorded(directory: Path) -> None:
    journal = Journal.open(directory, LOCATION)
    path = journal.new_data()
    entry = Entry(key="a", size=2, data=path.name, base=None, closed_ns=0)
    with pytest.raises(FileNotFoundError):
        journal.record(entry)
    path.write_bytes(b"1")
    with pytest.raises(ValueError, match="shorter"):
        journal.record(entry)
    assert not journal.entries
    journal.close()


def test_the_log_stays_bounded_over_10000_entries(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # its length is looked at here, not its lasting
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    journal = Journal.open(directory, LOCATION)
    stays = put(journal, "stays")
    for number in range(10_000):  # all with the same bytes, to be quick
        journal.record(dataclasses.replace(stays, key=f"array/c/{number}"))
    journal.close()
    journal = Journal.open(directory, LOCATION)
    assert list(journal.entries) == ["stays", *(f"array/c/{number}" for number in range(10_000))]
    for number in range(10_000):
        journal.drop(f"array/c/{number}")
    longest = 0
    for _ in range(3000):
        journal.record(dataclasses.replace(stays, key="again"))
        longest = max(longest, (directory / "log").stat().st_size)
    line = len(encode_line(Change(entry=journal.entries["again"]).line()))
    assert longest < 1100 * line
    assert [entry.key for entry in Journal.peek(directory)] == ["stays", "again"]
    journal.close()


# -- crashes ---------------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "dir/c", "dir/d"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=3)),
        st.tuples(st.just("move"), KEYS, KEYS),
        st.tuples(st.just("drop"), KEYS),
    ),
    max_size=12,
)


def act(journal: Journal, step: tuple) -> None:
    match step:
        case "put", key, content:
            put(journal, key, content)
        case "move", old, new if old in journal.entries:
            move(journal, old, new)
        case "drop", key:
            journal.drop(key)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.data())
def test_a_crash_at_any_byte_leaves_all_that_was_acknowledged(
    steps: list[tuple], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as scratch, keeping_data(Path(scratch)) as journal:
        acknowledged = [((journal.directory / "log").stat().st_size, dict(journal.entries))]
        for step in steps:
            act(journal, step)
            acknowledged.append(((journal.directory / "log").stat().st_size, dict(journal.entries)))
        log = (journal.directory / "log").read_bytes()
        cut = data.draw(st.integers(acknowledged[0][0], len(log)))

        crashed = Path(scratch) / "crashed"
        shutil.copytree(Path(scratch) / "kept", crashed)
        (crashed / "log").write_bytes(log[:cut])
        whole, expected = [each for each in acknowledged if each[0] <= cut][-1]

        assert Journal.peek(crashed) == list(expected.values())
        again = Journal.open(crashed, LOCATION)
        assert list(again.entries.items()) == list(expected.items())
        assert (crashed / "log").stat().st_size == whole
        assert {path.name for path in crashed.glob("data-*")} == {entry.data for entry in expected.values()}
        new = put(again, "new")  # and it goes on from there
        again.close()
        assert Journal.peek(crashed) == [*expected.values(), new]


@contextmanager
def keeping_data(scratch: Path):
    kept = scratch / "kept"
    kept.mkdir()
    journal = Journal.open(scratch / "journal", LOCATION)
    made = journal.new_data

    def new_data() -> Path:
        path = made()
        path.touch()
        (kept / path.name).hardlink_to(path)
        return path

    journal.new_data = new_data  # type: ignore[method-assign]
    yield journal
    journal.close()


CRASHER = """
import sys, threading
from pathlib import Path
from zarrmount.objects.journal import Entry, Journal
journal = Journal.open(Path(sys.argv[1]), "memory://x")
said = threading.Lock()
def work(name):
    for number in range(10**6):
        path = journal.new_data()
        path.write_bytes(b"%d" % number)
        key = f"{name}/{number}"
        journal.record(Entry(key=key, size=len(str(number)), data=path.name, base=None, closed_ns=0),
                       instead_of=f"{name}/{number - 2}" if number % 3 == 2 else None)
        with said:
            print(name, number, flush=True)
for name in "abcd":
    threading.Thread(target=work, args=(name,)).start()
"""


def test_a_killed_process_leaves_all_that_was_acknowledged(directory: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CRASHER, directory], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(300)]
    process.kill()
    said += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    last = {name: int(number) for name, number in map(str.split, said)}

    journal = Journal.open(directory, LOCATION)
    for name, number in last.items():
        # A number that is 0 modulo 3 went with the one two above it; that one may be on its way.
        expected = {n for n in range(number + 1) if n % 3 != 0 or n + 2 > number}
        found = {int(key.split("/")[1]) for key in journal.entries if key.startswith(name)}
        assert found - expected <= {number + 1}
        assert expected - found <= ({number - 1} if number % 3 == 1 else set())
    for entry in journal.entries.values():
        assert (directory / entry.data).read_bytes().decode() == entry.key.split("/")[1]
    assert len(list(directory.glob("data-*"))) == len(journal.entries)
    journal.close()


def test_leftovers_of_a_crash_are_removed(directory: Path) -> None:
    journal = Journal.open(directory, LOCATION)
    put(journal, "a")
    journal.new_data().write_bytes(b"the crash came before it was recorded")
    (directory / "log.new").write_bytes(b"and before this was a log")
    journal.close()
    again = Journal.open(directory, LOCATION)
    assert {path.name for path in directory.glob("data-*")} == {again.entries["a"].data}
    again.drop("a")
    again.close()
    assert not directory.exists()


def test_missing_and_short_data_is_named_and_does_not_hide_the_rest(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal.open(directory, LOCATION)
    missing, short, whole = put(journal, "missing"), put(journal, "short", b"12"), put(journal, "whole")
    journal.close()
    (directory / missing.data).unlink()
    (directory / short.data).write_bytes(b"1")

    assert Journal.peek(directory) == [whole]
    again = Journal.open(directory, LOCATION)
    assert list(again.entries.values()) == [whole]
    assert again.damaged == {"missing": missing, "short": short}
    assert "'missing' waits" in caplog.text
    assert "'short' waits" in caplog.text
    again.drop("whole")
    again.close()
    assert (directory / short.data).read_bytes() == b"1"  # of use to a person, perhaps

    again = Journal.open(directory, LOCATION)
    assert set(again.damaged) == {"missing", "short"}
    put(again, "missing", b"new")
    again.drop("short")
    assert not again.damaged
    assert list(again.entries) == ["missing"]
    again.drop("missing")
    again.close()
    assert not directory.exists()


def test_a_line_that_rotted_hides_no_other_and_its_bytes_are_set_aside(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal.open(directory, LOCATION)
    put(journal, "first")
    put(journal, "rotted", b"bytes")
    last = put(journal, "last")
    journal.close()
    text = (directory / "log").read_bytes()
    (directory / "log").write_bytes(text.replace(b'"rotted"', b'"rotten"'))

    again = Journal.open(directory, LOCATION)
    assert list(again.entries) == ["first", "last"]
    assert again.entries["last"] == last
    assert "is damaged; 1 data files set aside" in caplog.text
    again.drop("first")
    again.drop("last")
    again.close()
    contents = Contents.of(directory)
    assert contents is not None
    assert [path.read_bytes() for path in contents.lost] == [b"bytes"]


@pytest.mark.parametrize("text", [b"", b"what is this\n", b'00000000 {"format":"zarrmount-writeback-1"}\n'])
def test_what_is_no_journal_is_left_as_it_is(directory: Path, text: bytes) -> None:
    directory.mkdir(parents=True)
    (directory / "log").write_bytes(text)
    (directory / "data-1").write_bytes(b"1")
    with pytest.raises(Corrupt, match="cannot be understood"):
        Journal.open(directory, LOCATION)
    assert (directory / "log").read_bytes() == text
    assert (directory / "data-1").exists()
    (directory / "log").unlink()
    Journal.open(directory, LOCATION).close()  # the lock was given back


def test_peeking_while_a_file_goes_does_not_call_it_damaged(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(directory, LOCATION)
    entry = put(journal, "a")
    stat = Path.stat

    def drop_first(path: Path, **more):
        if path.name == entry.data and "a" in journal.entries:
            journal.drop("a")
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", drop_first)
    contents = Contents.of(directory)
    assert contents is not None
    assert (contents.entries, contents.damaged) == ({}, {})
    journal.close()


# -- failing disks ---------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_the_journal_remains_usable(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(directory, LOCATION)
    first = put(journal, "first")
    before = (directory / "log").read_bytes()
    pwrite, room = os.pwrite, [20]

    def fill(fd: int, data: bytes, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written, room[0] = pwrite(fd, bytes(data)[: room[0]], offset), 0
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fill)
        with pytest.raises(OSError, match="No space left") as raised:
            put(journal, "second")
        assert raised.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="No space left"):
            journal.drop("first")
    assert (directory / "log").read_bytes() == before
    assert list(journal.entries.values()) == [first]
    assert (directory / first.data).exists()
    third = put(journal, "third")
    journal.close()
    assert Journal.peek(directory) == [first, third]


def test_a_limit_of_the_system_leaves_no_half_line(directory: Path) -> None:
    journal = Journal.open(directory, LOCATION)
    first = put(journal, "first")
    size = (directory / "log").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(OSError) as raised:
            put(journal, "second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert (directory / "log").stat().st_size == size
    second = put(journal, "second")
    journal.close()
    assert Journal.peek(directory) == [first, second]


def test_after_a_failed_sync_nothing_is_built_on_what_may_not_be_there(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(directory, LOCATION)
    first = put(journal, "first")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="Input/output error"):
            put(journal, "second")
        assert list(journal.entries) == ["first"]
    inode = (directory / "log").stat().st_ino
    third = put(journal, "third")
    assert (directory / "log").stat().st_ino != inode  # written anew
    journal.close()
    assert Journal.peek(directory) == [first, third]


def test_a_log_that_cannot_be_shortened_fails_nobody(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zarrmount.objects.journal._SPARE_LINES", 3)
    journal = Journal.open(directory, LOCATION)
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "replace", fail)
    for _ in range(6):
        entry = put(journal, "a")
    assert "cannot be shortened" in caplog.text
    assert names(directory) == ["data", "lock", "log"]
    monkeypatch.setattr(Path, "replace", replace)
    size = (directory / "log").stat().st_size
    for _ in range(10):
        entry = put(journal, "a")
    assert (directory / "log").stat().st_size < size
    journal.close()
    assert Journal.peek(directory) == [entry]


# -- many at once ----------------------------------------------------------------------------------


def test_who_waits_for_the_disk_at_the_same_time_shares_one_write(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(directory, LOCATION)
    started, go_on, syncs = threading.Event(), threading.Event(), []
    fdatasync = os.fdatasync

    def slow(fd: int) -> None:
        syncs.append(fd)
        started.set()
        assert go_on.wait(20)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    with ThreadPoolExecutor(9) as pool:
        jobs = [pool.submit(put, journal, "first")]
        assert started.wait(20)
        jobs += [pool.submit(put, journal, f"key{number}") for number in range(8)]
        deadline = time.monotonic() + 20
        while len(journal._queue) < 8 and time.monotonic() < deadline:
            time.sleep(0.001)
        go_on.set()
        entries = {job.result() for job in jobs}
    assert len(syncs) == 2
    assert set(journal.entries.values()) == entries
    journal.close()
    assert set(Journal.peek(directory)) == entries


def test_one_line_that_does_not_fit_fails_alone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(directory, LOCATION)
    put(journal, "small")
    pwrite = os.pwrite

    def fill(fd: int, data: bytes, offset: int) -> int:
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", fill)
    with ThreadPoolExecutor(8) as pool:
        jobs = {
            key: pool.submit(put, journal, key)
            for number in range(20)
            for key in (f"{number}", f"{number}" * 2000)
        }
        failed = {key for key, job in jobs.items() if job.exception() is not None}
    assert failed == {key for key in jobs if len(key) > 1000}
    assert set(journal.entries) == {"small", *(str(number) for number in range(20))}
    journal.close()
    assert {entry.key for entry in Journal.peek(directory)} == {
        "small",
        *(str(number) for number in range(20)),
    }


def test_threads_that_change_different_keys_do_not_meet(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zarrmount.objects.journal._SPARE_LINES", 20)
    journal = Journal.open(directory, LOCATION)

    def work(name: str) -> None:
        for number in range(60):
            put(journal, f"{name}.tmp", b"%d" % number)
            move(journal, f"{name}.tmp", name)
            if number % 4 == 0:
                journal.drop(name)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, "abcdef"))
    journal.close()
    again = Journal.open(directory, LOCATION)
    assert {
        key: (directory / entry.data).read_bytes() for key, entry in again.entries.items()
    } == dict.fromkeys("abcdef", b"59")
    assert len(list(directory.glob("data-*"))) == 6
    again.close()


HOLDER = """
import sys
from pathlib import Path
from zarrmount.objects.journal import Journal
journal = Journal.open(Path(sys.argv[1]), "memory://x")
print("has it", flush=True)
sys.stdin.read()
"""


def test_two_processes_cannot_have_one_journal(directory: Path) -> None:
    command = [sys.executable, "-c", HOLDER, directory]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"has it\n"
    with pytest.raises(Denied, match=rf"used by another mount \(pid {process.pid}\)"):
        Journal.open(directory, LOCATION)
    assert Journal.peek(directory) == []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    Journal.open(directory, LOCATION).close()


# -- places ----------------------------------------------------------------------------------------


def test_journals_are_found_with_their_stores(tmp_path: Path) -> None:
    assert journals(tmp_path) == []
    one, two = journal_directory(tmp_path, "s3://bucket/a.zarr"), journal_directory(tmp_path, "/data/b.zarr")
    assert one.parent == two.parent == tmp_path / "writeback"
    assert "bucket-a.zarr" in one.name
    for path, location in ((one, "s3://user:secret@bucket/a.zarr"), (two, "/data/b.zarr")):
        journal = Journal.open(path, location)
        put(journal, "key")
        journal.close()
    (tmp_path / "writeback" / "empty").mkdir()
    assert dict(journals(tmp_path)) == {one: "s3://bucket/a.zarr", two: "/data/b.zarr"}
    (two / "log").write_bytes(b"rotted")
    assert "cannot be understood" in dict(journals(tmp_path))[two]


def test_stores_that_differ_have_journals_that_differ(tmp_path: Path) -> None:
    same_name = {
        journal_directory(tmp_path, identity).name
        for identity in (
            "s3://b/x",
            "s3://b/x\nendpoint=http://one",
            "s3://b/x\nendpoint=http://two",
            "s3://b-x",
        )
    }
    assert len(same_name) == 4
    assert len(journal_directory(tmp_path, "/" + "long/" * 1000).name) < 100
