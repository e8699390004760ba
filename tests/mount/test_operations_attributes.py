"""Attributes, by the kernel, on every kind of store: modes, owners, times, statfs, extended ones."""

from __future__ import annotations

import errno
import os
import stat
import time

import pytest
from mount.child import fails_with
from mount.places import Place

SECOND = 1_000_000_000
LONG_AGO = (1_000_000_000 * SECOND, 1_100_000_000 * SECOND + 123_456_789)
RIGHTS = 0o7777


def behind(place: Place, name: str) -> os.stat_result:
    """Return what the directory that is mounted says of a file."""
    return os.stat(place.site.backdoor.root / place.prefix / name)


@pytest.mark.parametrize("what", ["file", "dir"])
def test_chmod(place: Place, what: str) -> None:
    _make(place, what)
    (place / what).chmod(0o641)
    assert stat.S_IMODE((place / what).stat().st_mode) == 0o641
    if place.traits.posix:
        assert stat.S_IMODE(behind(place, what).st_mode) == 0o641


@pytest.mark.parametrize("what", ["file", "dir"])
def test_chown(place: Place, what: str) -> None:
    _make(place, what)
    os.chown(place / what, 1234, 5678)
    found = (place / what).stat()
    assert (found.st_uid, found.st_gid) == (1234, 5678)
    if place.traits.posix:
        assert (behind(place, what).st_uid, behind(place, what).st_gid) == (1234, 5678)
    os.chown(place / what, -1, 42)
    found = (place / what).stat()
    assert (found.st_uid, found.st_gid) == (1234, 42)


@pytest.mark.parametrize("what", ["file", "dir"])
def test_utimens(place: Place, what: str) -> None:
    _make(place, what)
    os.utime(place / what, ns=LONG_AGO)
    found = (place / what).stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == LONG_AGO
    if place.traits.posix:
        assert behind(place, what).st_mtime_ns == LONG_AGO[1]
    os.utime(place / what)
    assert abs((place / what).stat().st_mtime - time.time()) < 60


def test_attributes_of_an_open_unstored_file_outlive_its_close(place: Place) -> None:
    with open(place / "file", "wb", buffering=0) as file:
        file.write(b"12")
        os.fchmod(file.fileno(), 0o604)
        os.fchown(file.fileno(), 11, 12)
        os.utime(file.fileno(), ns=LONG_AGO)
    found = (place / "file").stat()
    assert stat.S_IMODE(found.st_mode) == 0o604
    assert (found.st_uid, found.st_gid) == (11, 12)
    assert (found.st_atime_ns, found.st_mtime_ns) == LONG_AGO
    if place.traits.posix:
        assert behind(place, "file").st_mtime_ns == LONG_AGO[1]
        assert behind(place, "file").st_uid == 11


def test_attributes_are_remembered_after_the_time_to_live(place: Place) -> None:
    (place / "file").write_bytes(b"1")
    (place / "file").chmod(0o604)
    os.utime(place / "file", ns=LONG_AGO)
    time.sleep(1.2)  # longer than what is known holds: it is asked for again
    found = (place / "file").stat()
    assert stat.S_IMODE(found.st_mode) == 0o604
    assert found.st_mtime_ns == LONG_AGO[1]


def test_attributes_move_with_a_rename(place: Place) -> None:
    (place / "file").write_bytes(b"1")
    (place / "file").chmod(0o604)
    os.utime(place / "file", ns=LONG_AGO)
    (place / "file").rename(place / "moved")
    found = (place / "moved").stat()
    assert stat.S_IMODE(found.st_mode) == 0o604
    assert found.st_mtime_ns == LONG_AGO[1]


def test_writing_sets_the_time_of_modification(place: Place) -> None:
    (place / "file").write_bytes(b"1")
    os.utime(place / "file", ns=LONG_AGO)
    with open(place / "file", "ab", buffering=0) as file:
        file.write(b"2")
        assert abs(os.fstat(file.fileno()).st_mtime - time.time()) < 60
    assert abs((place / "file").stat().st_mtime - time.time()) < 60


def test_making_a_file_touches_its_directory(place: Place) -> None:
    (place / "dir").mkdir()
    os.utime(place / "dir", ns=LONG_AGO)
    (place / "dir/file").write_bytes(b"1")
    assert abs((place / "dir").stat().st_mtime - time.time()) < 60


def test_what_stat_says_of_a_file(place: Place) -> None:
    (place / "file").write_bytes(b"12345")
    found = (place / "file").stat()
    assert stat.S_ISREG(found.st_mode)
    assert found.st_size == 5
    assert found.st_nlink == 1
    assert found.st_uid == os.getuid()
    assert found.st_gid == os.getgid()
    assert found.st_blocks >= 1
    assert abs(found.st_mtime - time.time()) < 60
    assert found.st_ino == os.stat(place / "file").st_ino
    assert os.access(place / "file", os.R_OK | os.W_OK)


def test_statfs(place: Place) -> None:
    found = os.statvfs(place.dir)
    assert found.f_namemax == 255
    assert found.f_blocks >= found.f_bfree >= found.f_bavail > 0
    room = found.f_frsize * found.f_blocks
    if place.traits.sized:
        disk = os.statvfs("/tmp")
        assert room == pytest.approx(disk.f_frsize * disk.f_blocks, rel=0.01)
    else:
        assert room == 1 << 50


# -- extended attributes ---------------------------------------------------------------------------


@pytest.mark.kinds("local", "zip", "memory", "s3")
def test_extended_attributes_tell_where_a_file_is(place: Place) -> None:
    (place / "file").write_bytes(b"1")
    names = os.listxattr(place / "file")
    assert set(names) == {"user.zarrmount.key", "user.zarrmount.store", "user.zarrmount.etag"}
    values = {name: os.getxattr(place / "file", name).decode() for name in names}
    assert values["user.zarrmount.key"] == f"{place.prefix}/file"
    assert values["user.zarrmount.etag"]
    (place / "file").write_bytes(b"2")
    assert os.getxattr(place / "file", "user.zarrmount.etag").decode() != values["user.zarrmount.etag"]
    with fails_with(errno.ENODATA):
        os.getxattr(place / "file", "user.other")
    with fails_with(errno.ENODATA):
        os.getxattr(place / "file", "user.zarrmount.other")


@pytest.mark.kinds("local", "zip", "memory", "s3")
def test_the_etag_is_the_stores_own(place: Place) -> None:
    (place / "file").write_bytes(b"1")
    etag = os.getxattr(place / "file", "user.zarrmount.etag").decode()
    assert (etag.strip('"') == "c4ca4238a0b923820dcc509a6f75849b") == (place.kind == "s3")
    store = os.getxattr(place / "file", "user.zarrmount.store").decode()
    beginning = {"s3": "s3://", "memory": "memory://store", "local": "/", "zip": "/"}[place.kind]
    assert store.startswith((beginning, f"file://{beginning}"))
    assert "testtest" not in store


@pytest.mark.kinds("local", "zip", "memory", "s3")
def test_extended_attributes_cannot_be_set(place: Place) -> None:
    (place / "file").write_bytes(b"1")
    with fails_with(errno.ENOTSUP):
        os.setxattr(place / "file", "user.mine", b"1")
    with fails_with(errno.ENOTSUP):
        os.removexattr(place / "file", "user.zarrmount.key")


@pytest.mark.kinds("local", "zip", "memory", "s3")
def test_an_array_tells_what_it_is(place: Place) -> None:
    import json

    (place / "array").mkdir()
    (place / "array/zarr.json").write_text(
        json.dumps(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": [10, 20],
                "data_type": "float32",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [5, 10]}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": 0.0,
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                "attributes": {},
            }
        )
    )
    names = set(os.listxattr(place / "array"))
    assert {"user.zarr.shape", "user.zarr.dtype", "user.zarr.chunks", "user.zarr.zarr_format"} <= names
    values = {name: os.getxattr(place / "array", name).decode() for name in names}
    assert json.loads(values["user.zarr.shape"]) == [10, 20]
    assert json.loads(values["user.zarr.chunks"]) == [5, 10]
    assert values["user.zarr.dtype"] == "float32"
    assert values["user.zarr.zarr_format"] == "3"


def _make(place: Place, what: str) -> None:
    if what == "dir":
        (place / what).mkdir()
    else:
        (place / what).write_bytes(b"1")
