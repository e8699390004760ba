"""Changing the size of files, by the kernel, on every kind of store."""

from __future__ import annotations

import errno
import os

import pytest
from mount.child import fails_with
from mount.places import Place

BYTES = b"0123456789" * 20_000


@pytest.mark.parametrize("size", [0, 1, 131_072, len(BYTES) - 1, len(BYTES), len(BYTES) + 1, 400_000])
def test_truncate_of_a_closed_file(place: Place, size: int) -> None:
    (place / "file").write_bytes(BYTES)
    os.truncate(place / "file", size)
    expected = BYTES[:size].ljust(size, b"\0")
    assert (place / "file").stat().st_size == size
    assert (place / "file").read_bytes() == expected
    if place.site.backdoor is not None:
        assert place.stored("file") == expected


@pytest.mark.parametrize("size", [0, 100_000, 400_000])
def test_ftruncate_of_an_open_file(place: Place, size: int) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "r+b", buffering=0) as file:
        assert file.read(10) == BYTES[:10]
        file.truncate(size)
        assert os.fstat(file.fileno()).st_size == size
        assert os.pread(file.fileno(), 500_000, 0) == BYTES[:size].ljust(size, b"\0")
    assert (place / "file").read_bytes() == BYTES[:size].ljust(size, b"\0")


def test_truncate_by_name_while_it_is_open(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with (
        open(place / "file", "r+b", buffering=0) as writer,
        open(place / "file", "rb", buffering=0) as reader,
    ):
        assert reader.read(10) == BYTES[:10]
        os.truncate(place / "file", 20)
        assert os.fstat(reader.fileno()).st_size == 20
        assert reader.read() == BYTES[10:20]
        os.pwrite(writer.fileno(), b"X", 30)
        assert os.pread(reader.fileno(), 100, 0) == BYTES[:20] + bytes(10) + b"X"
    assert (place / "file").read_bytes() == BYTES[:20] + bytes(10) + b"X"


def test_truncate_by_name_while_it_is_open_for_reading_only(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "rb", buffering=0) as reader:
        assert reader.read(10) == BYTES[:10]
        os.truncate(place / "file", 20)
        assert reader.read() == BYTES[10:20]
    assert (place / "file").read_bytes() == BYTES[:20]


def test_shrinking_and_growing_again_shows_no_old_bytes(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "r+b", buffering=0) as file:
        file.truncate(10)
        file.truncate(30)
        assert file.read() == BYTES[:10] + bytes(20)
    assert (place / "file").read_bytes() == BYTES[:10] + bytes(20)
    os.truncate(place / "file", 5)
    os.truncate(place / "file", 8)
    assert (place / "file").read_bytes() == BYTES[:5] + bytes(3)


def test_truncate_of_what_is_no_file(place: Place) -> None:
    (place / "dir").mkdir()
    with fails_with(errno.EISDIR):
        os.truncate(place / "dir", 0)
    with fails_with(errno.ENOENT):
        os.truncate(place / "missing", 0)
    (place / "file").write_bytes(b"abc")
    with fails_with(errno.EINVAL):
        os.truncate(place / "file", -1)
    with open(place / "file", "rb") as file, fails_with(errno.EINVAL):
        os.ftruncate(file.fileno(), 0)


def test_blocks_are_not_fewer_than_the_size_needs(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    assert (place / "file").stat().st_blocks * 512 >= len(BYTES)
