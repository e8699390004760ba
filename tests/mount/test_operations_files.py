"""Files, by the kernel, on every kind of store: create, open, read, write, several handles."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from mount.child import fails_with
from mount.places import Place

PATTERN = bytes(range(256)) * 2000  # 512,000 bytes: four reads of the kernel's


def test_a_written_file_reads_back_and_is_in_the_store(place: Place) -> None:
    (place / "file").write_bytes(PATTERN)
    assert (place / "file").read_bytes() == PATTERN
    assert (place / "file").stat().st_size == len(PATTERN)
    if place.site.backdoor is not None:
        assert place.stored("file") == PATTERN


def test_an_empty_file_is_stored_at_its_close(place: Place) -> None:
    (place / "empty").touch()
    assert (place / "empty").stat().st_size == 0
    assert (place / "empty").read_bytes() == b""
    if place.site.backdoor is not None:
        assert place.stored("empty") == b""


def test_a_missing_file(place: Place) -> None:
    for call in (Path.stat, Path.unlink, Path.read_bytes):
        with fails_with(errno.ENOENT):
            call(place / "missing")
    with fails_with(errno.ENOENT):
        os.open(place / "missing/file", os.O_CREAT | os.O_WRONLY)


def test_a_missing_file_is_seen_once_it_is_made(place: Place) -> None:
    with fails_with(errno.ENOENT):
        (place / "late").stat()
    (place / "late").write_bytes(b"1")
    assert (place / "late").stat().st_size == 1
    assert os.listdir(place.dir) == ["late"]


def test_a_new_file_is_listed_before_it_is_closed(place: Place) -> None:
    with open(place / "open", "wb", buffering=0) as file:
        file.write(b"12345")
        assert os.listdir(place.dir) == ["open"]
        assert (place / "open").stat().st_size == 5


def test_mode_of_a_new_file(place: Place) -> None:
    os.umask(0o027)
    os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    assert stat.S_IMODE((place / "file").stat().st_mode) == 0o640
    os.close(os.open(place / "other", os.O_CREAT | os.O_WRONLY, 0o700))
    assert stat.S_IMODE((place / "other").stat().st_mode) == 0o700


def test_a_file_without_rights_can_be_written_by_its_maker(place: Place) -> None:
    descriptor = os.open(place / "file", os.O_CREAT | os.O_RDWR, 0)
    assert os.write(descriptor, b"abc") == 3
    os.close(descriptor)
    assert (place / "file").stat().st_size == 3


# -- O_EXCL, O_TRUNC, O_APPEND ---------------------------------------------------------------------


def test_exclusive_create_of_a_name_that_is_taken(place: Place) -> None:
    (place / "file").write_bytes(b"first")
    (place / "dir").mkdir()
    for name in ("file", "dir"):
        with fails_with(errno.EEXIST):
            os.open(place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert (place / "file").read_bytes() == b"first"


def test_exclusive_create_while_another_has_the_new_file_open(place: Place) -> None:
    first = os.open(place / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with fails_with(errno.EEXIST):
        os.open(place / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(first)


@pytest.mark.kinds("plain", "local", "s3")
def test_exclusive_create_of_what_another_mount_stored(place: Place, again: Path) -> None:
    (place / "file").write_bytes(b"first")
    with fails_with(errno.EEXIST):
        os.open(again / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert (again / "file").read_bytes() == b"first"


@pytest.mark.kinds("plain", "local", "s3")
def test_of_two_exclusive_creators_one_wins(place: Place, again: Path) -> None:
    first = os.open(place / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(first, b"first")
    if place.traits.claims:
        with fails_with(errno.EEXIST):
            os.open(again / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.close(first)
        return
    second = os.open(again / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(second, b"second")
    os.close(first)
    with fails_with(errno.EEXIST):
        os.close(second)
    assert place.stored("file") == b"first"
    # Who lost gives up its bytes, or else the mount could never be unmounted.
    os.unlink(again / "file")


def test_truncating_open(place: Place) -> None:
    (place / "file").write_bytes(PATTERN)
    descriptor = os.open(place / "file", os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(descriptor).st_size == 0
    os.write(descriptor, b"new")
    os.close(descriptor)
    assert (place / "file").read_bytes() == b"new"
    with open(place / "file", "wb"):
        pass
    assert (place / "file").read_bytes() == b""


def test_append_goes_to_the_end(place: Place) -> None:
    (place / "file").write_bytes(b"12")
    with open(place / "file", "ab", buffering=0) as file:
        file.write(b"34")
        file.seek(0)
        file.write(b"56")
    assert (place / "file").read_bytes() == b"123456"


def test_two_appending_writers_overwrite_nothing(place: Place) -> None:
    (place / "log").touch()
    writers = [os.open(place / "log", os.O_WRONLY | os.O_APPEND) for _ in range(2)]
    for number in range(50):
        for which, descriptor in enumerate(writers):
            os.write(descriptor, f"{which}:{number}\n".encode())
    for descriptor in writers:
        os.close(descriptor)
    lines = (place / "log").read_text().splitlines()
    assert lines == [f"{which}:{number}" for number in range(50) for which in range(2)]


def test_two_appending_processes_overwrite_nothing(place: Place) -> None:
    (place / "log").touch()
    children = []
    for which in range(2):
        if (pid := os.fork()) == 0:
            try:
                descriptor = os.open(place / "log", os.O_WRONLY | os.O_APPEND)
                for number in range(100):
                    os.write(descriptor, f"{which}:{number}\n".encode())
                os.close(descriptor)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
    lines = (place / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{which}:{number}" for number in range(100) for which in range(2))
    for which in range(2):
        mine = [line for line in lines if line.startswith(f"{which}:")]
        assert mine == [f"{which}:{number}" for number in range(100)]


# -- reading and writing anywhere ------------------------------------------------------------------


def test_reads_at_any_offset(place: Place) -> None:
    (place / "file").write_bytes(PATTERN)
    descriptor = os.open(place / "file", os.O_RDONLY)
    for offset, size in ((0, 1), (1, 255), (131_071, 2), (131_072, 131_072), (len(PATTERN) - 3, 3)):
        assert os.pread(descriptor, size, offset) == PATTERN[offset : offset + size]
    assert os.pread(descriptor, 10, len(PATTERN) - 3) == PATTERN[-3:]
    assert os.pread(descriptor, 10, len(PATTERN)) == b""
    assert os.pread(descriptor, 10, len(PATTERN) + 1_000_000) == b""
    assert os.pread(descriptor, len(PATTERN) + 5, 0) == PATTERN
    with fails_with(errno.EBADF):
        os.write(descriptor, b"x")
    os.close(descriptor)


def test_direct_reads(place: Place) -> None:
    (place / "file").write_bytes(PATTERN)
    try:
        descriptor = os.open(place / "file", os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        assert error.errno == errno.EINVAL, error
        assert place.kind == "plain", "tmpfs of old kernels has no O_DIRECT; a mount must"
        return
    import mmap

    with mmap.mmap(-1, 1 << 20) as page:
        assert os.preadv(descriptor, [page], 0) == len(PATTERN)
        assert page[: len(PATTERN)] == PATTERN
    os.close(descriptor)


def test_writes_at_any_offset_keep_the_rest(place: Place) -> None:
    (place / "file").write_bytes(PATTERN)
    expected = bytearray(PATTERN)
    descriptor = os.open(place / "file", os.O_RDWR)
    for offset, data in ((0, b"head"), (70_000, b"middle" * 3000), (len(PATTERN) - 2, b"tail"), (255, b"-")):
        assert os.pwrite(descriptor, data, offset) == len(data)
        expected[offset : offset + len(data)] = data
        assert os.pread(descriptor, 40_000, offset) == expected[offset : offset + 40_000]
    os.close(descriptor)
    assert (place / "file").read_bytes() == expected
    if place.site.backdoor is not None:
        assert place.stored("file") == expected


def test_writing_past_the_end_leaves_a_hole_of_zeros(place: Place) -> None:
    descriptor = os.open(place / "file", os.O_CREAT | os.O_RDWR)
    os.pwrite(descriptor, b"start", 0)
    os.pwrite(descriptor, b"end", 300_000)
    assert os.fstat(descriptor).st_size == 300_003
    assert os.pread(descriptor, 300_003, 0) == b"start" + bytes(299_995) + b"end"
    os.close(descriptor)
    assert (place / "file").read_bytes() == b"start" + bytes(299_995) + b"end"


def test_writing_through_a_read_only_handle_or_reading_through_a_write_only_one(place: Place) -> None:
    (place / "file").write_bytes(b"abc")
    descriptor = os.open(place / "file", os.O_WRONLY)
    with fails_with(errno.EBADF):
        os.read(descriptor, 1)
    os.pwrite(descriptor, b"B", 1)
    os.close(descriptor)
    assert (place / "file").read_bytes() == b"aBc"


def test_an_untouched_file_that_was_open_for_writing_is_not_stored_again(place: Place) -> None:
    (place / "file").write_bytes(b"abc")
    before = (place / "file").stat()
    os.close(os.open(place / "file", os.O_RDWR))
    after = (place / "file").stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


def test_fsync_stores(place: Place) -> None:
    descriptor = os.open(place / "file", os.O_CREAT | os.O_WRONLY)
    for text, sync in ((b"one", os.fsync), (b"two", os.fdatasync)):
        os.write(descriptor, text)
        sync(descriptor)
        if place.site.backdoor is not None:
            assert place.stored("file").endswith(text)
    os.close(descriptor)
    directory = os.open(place.dir, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    assert (place / "file").read_bytes() == b"onetwo"


# -- several handles -------------------------------------------------------------------------------


def test_handles_on_one_file_see_each_others_writes(place: Place) -> None:
    (place / "file").write_bytes(b"0" * 10)
    one = os.open(place / "file", os.O_RDWR)
    two = os.open(place / "file", os.O_RDWR)
    reader = os.open(place / "file", os.O_RDONLY)
    assert os.pread(reader, 10, 0) == b"0" * 10
    os.pwrite(one, b"1", 0)
    assert os.pread(two, 1, 0) == b"1"
    os.pwrite(two, b"2", 1)
    assert os.pread(reader, 3, 0) == b"120"
    os.close(two)
    os.pwrite(one, b"3", 2)
    assert os.pread(reader, 4, 0) == b"1230"
    os.close(one)
    assert os.pread(reader, 4, 0) == b"1230"
    os.close(reader)
    assert (place / "file").read_bytes() == b"1230000000"


def test_a_reader_sees_what_is_written_after_the_writer_closed(place: Place) -> None:
    (place / "file").write_bytes(b"old")
    reader = os.open(place / "file", os.O_RDONLY)
    assert os.pread(reader, 10, 0) == b"old"
    (place / "file").write_bytes(b"newer")
    assert os.pread(reader, 10, 0) == b"newer"
    (place / "file").write_bytes(b"newest")
    assert os.pread(reader, 10, 0) == b"newest"
    os.close(reader)


def test_dup_shares_the_offset_and_each_close_stores(place: Place) -> None:
    descriptor = os.open(place / "file", os.O_CREAT | os.O_WRONLY)
    twin = os.dup(descriptor)
    os.write(descriptor, b"one")
    os.close(descriptor)
    if place.site.backdoor is not None:
        assert place.stored("file") == b"one"
    os.write(twin, b"two")
    os.close(twin)
    assert (place / "file").read_bytes() == b"onetwo"
    if place.site.backdoor is not None:
        assert place.stored("file") == b"onetwo"


def test_a_file_written_by_a_child_process_through_an_inherited_handle(place: Place) -> None:
    descriptor = os.open(place / "file", os.O_CREAT | os.O_RDWR)
    if (pid := os.fork()) == 0:
        os.write(descriptor, b"child")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    os.write(descriptor, b"parent")
    os.close(descriptor)
    assert (place / "file").read_bytes() == b"childparent"


def test_a_writer_that_is_killed_leaves_what_it_wrote(place: Place) -> None:
    if (pid := os.fork()) == 0:
        descriptor = os.open(place / "file", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"written")
        os.kill(os.getpid(), 9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert (place / "file").read_bytes() == b"written"


def test_overwriting_again_and_again(place: Place) -> None:
    for number in range(30):
        text = f"{number} " * (number + 1)
        (place / "file").write_text(text)
        assert (place / "file").read_text() == text
        assert (place / "file").stat().st_size == len(text)
