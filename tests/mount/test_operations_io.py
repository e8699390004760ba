"""The less common calls on open files: mmap, lseek, copying within the kernel, locks, fallocate."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os

import pytest
from mount.child import fails_with
from mount.places import Place

BYTES = bytes(range(256)) * 2000


def test_reading_through_a_mapping(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view[:] == BYTES
        assert view[300_000:300_010] == BYTES[300_000:300_010]


def test_a_private_mapping_changes_nothing(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with (
        open(place / "file", "r+b") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as view,
    ):
        view[0:4] = b"mine"
    assert (place / "file").read_bytes() == BYTES


def test_writing_through_a_shared_mapping(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[10:14] = b"here"
        view[400_000:400_005] = b"there"
        view.flush()
    expected = bytearray(BYTES)
    expected[10:14] = b"here"
    expected[400_000:400_005] = b"there"
    assert (place / "file").read_bytes() == expected
    if place.site.backdoor is not None:
        assert place.stored("file") == expected


def test_a_mapping_that_outlives_its_handle_is_stored(place: Place) -> None:
    """The kernel writes such pages back after the close, when nobody is left to hear of a failure."""
    (place / "file").write_bytes(BYTES)
    file = os.open(place / "file", os.O_RDWR)
    protection, shared = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED
    libc = ctypes.CDLL(None, use_errno=True)  # Python's own mapping keeps a handle of the file
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, len(BYTES), protection, shared, file, 0)
    os.close(file)
    ctypes.memmove(address, b"late", 4)
    assert libc.munmap(address, len(BYTES)) == 0
    assert (place / "file").read_bytes() == b"late" + BYTES[4:]
    if place.site.backdoor is not None:
        _eventually(lambda: place.stored("file")[:4] == b"late")


def _eventually(condition: object) -> None:
    from mount.harness import wait_for

    wait_for(condition, 20)


def test_a_mapping_sees_what_is_written(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as view:
        assert view[0:4] == BYTES[:4]
        file.write(b"seen")
        assert view[0:4] == b"seen"


# -- lseek -----------------------------------------------------------------------------------------


def test_seeking(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    file = os.open(place / "file", os.O_RDONLY)
    assert os.lseek(file, -5, os.SEEK_END) == len(BYTES) - 5
    assert os.read(file, 10) == BYTES[-5:]
    assert os.lseek(file, 10, os.SEEK_SET) == 10
    assert os.lseek(file, 5, os.SEEK_CUR) == 15
    assert os.lseek(file, 0, os.SEEK_DATA) == 0
    assert os.lseek(file, 0, os.SEEK_HOLE) == len(BYTES)
    for how in (os.SEEK_DATA, os.SEEK_HOLE):
        with fails_with(errno.ENXIO):
            os.lseek(file, len(BYTES) + 1, how)
    with fails_with(errno.EINVAL):
        os.lseek(file, -1, os.SEEK_SET)
    os.close(file)


def test_seeking_to_the_end_of_a_growing_file(place: Place) -> None:
    with open(place / "file", "w+b", buffering=0) as file, open(place / "file", "rb", buffering=0) as reader:
        file.write(b"12345")
        assert reader.seek(0, os.SEEK_END) == 5
        file.write(b"678")
        assert reader.seek(0, os.SEEK_END) == 8


# -- copying in the kernel -------------------------------------------------------------------------


def test_copy_file_range(place: Place) -> None:
    (place / "source").write_bytes(BYTES)
    source = os.open(place / "source", os.O_RDONLY)
    target = os.open(place / "target", os.O_CREAT | os.O_WRONLY)
    copied = 0
    while copied < len(BYTES):
        copied += os.copy_file_range(source, target, len(BYTES) - copied)
    assert os.copy_file_range(source, target, 10) == 0
    os.close(source)
    os.close(target)
    assert (place / "target").read_bytes() == BYTES


def test_sendfile_both_ways(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (place / "source").write_bytes(BYTES)
    for source_path, target_path in ((place / "source", outside / "out"), (outside / "out", place / "back")):
        with open(source_path, "rb") as source, open(target_path, "wb") as target:
            sent = 0
            while sent < len(BYTES):
                sent += os.sendfile(target.fileno(), source.fileno(), sent, len(BYTES) - sent)
    assert (place / "back").read_bytes() == BYTES


def test_vectors(place: Place) -> None:
    file = os.open(place / "file", os.O_CREAT | os.O_RDWR)
    assert os.writev(file, [b"one", b"two", b"three"]) == 11
    parts = [bytearray(3), bytearray(3), bytearray(10)]
    assert os.preadv(file, parts, 0) == 11
    assert parts == [b"one", b"two", b"three" + bytes(5)]
    os.close(file)


def test_fallocate(place: Place) -> None:
    file = os.open(place / "file", os.O_CREAT | os.O_RDWR)
    os.write(file, b"abc")
    # Without FUSE's own call the C library writes zeros itself: what matters is the result.
    os.posix_fallocate(file, 0, 10_000)
    assert os.fstat(file).st_size == 10_000
    assert os.pread(file, 10, 0) == b"abc" + bytes(7)
    os.close(file)
    assert (place / "file").stat().st_size == 10_000


# -- locks -----------------------------------------------------------------------------------------


def test_flock(place: Place) -> None:
    (place / "file").write_bytes(b"1")
    with open(place / "file", "r+b") as one, open(place / "file", "r+b") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with fails_with(errno.EAGAIN):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_record_locks_between_processes(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 100, 0)
        if (pid := os.fork()) == 0:
            status = 1
            try:
                with open(place / "file", "r+b") as other:
                    with fails_with(errno.EAGAIN):
                        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50)
                    fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
