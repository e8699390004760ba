"""Unlinking and linking, by the kernel, on every kind of store."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from mount.child import fails_with
from mount.places import Place

BYTES = b"0123456789" * 50_000


def gone(place: Place, name: str) -> None:
    assert name not in os.listdir(place.dir)
    with fails_with(errno.ENOENT):
        (place / name).stat()
    if place.site.backdoor is not None:
        assert name not in place.stored_names()


def test_unlink(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    (place / "file").unlink()
    gone(place, "file")
    (place / "file").write_bytes(b"another")
    assert (place / "file").read_bytes() == b"another"


def test_an_unlinked_file_can_still_be_read(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "rb", buffering=0) as reader:
        (place / "file").unlink()
        gone(place, "file")
        assert os.pread(reader.fileno(), len(BYTES), 0) == BYTES
        assert os.fstat(reader.fileno()).st_size == len(BYTES)
        assert os.fstat(reader.fileno()).st_nlink == 0


def test_a_file_that_was_read_before_it_was_unlinked(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "rb", buffering=0) as reader:
        assert reader.read(5) == BYTES[:5]
        (place / "file").unlink()
        assert os.pread(reader.fileno(), 10, len(BYTES) - 10) == BYTES[-10:]


@pytest.mark.kinds("plain", "local", "s3")
def test_a_file_that_was_never_written_here_can_be_read_after_its_unlink(place: Place) -> None:
    place.store("file", BYTES)
    with open(place / "file", "rb", buffering=0) as reader:
        (place / "file").unlink()
        gone(place, "file")
        assert os.pread(reader.fileno(), len(BYTES), 0) == BYTES


def test_an_unlinked_file_can_still_be_written(place: Place) -> None:
    (place / "file").write_bytes(BYTES)
    with open(place / "file", "r+b", buffering=0) as file:
        (place / "file").unlink()
        os.pwrite(file.fileno(), b"X", 3)
        os.pwrite(file.fileno(), b"end", len(BYTES))
        expected = BYTES[:3] + b"X" + BYTES[4:] + b"end"
        assert os.pread(file.fileno(), 600_000, 0) == expected
        os.ftruncate(file.fileno(), 5)
        assert os.pread(file.fileno(), 10, 0) == expected[:5]
        os.fsync(file.fileno())
    gone(place, "file")


def test_an_unlinked_temporary_file_that_was_never_stored(place: Place) -> None:
    with open(place / "temporary", "w+b", buffering=0) as file:
        (place / "temporary").unlink()
        file.write(b"12345")
        file.seek(0)
        assert file.read() == b"12345"
    gone(place, "temporary")


def test_a_new_file_under_the_name_of_an_unlinked_open_one(place: Place) -> None:
    (place / "file").write_bytes(b"old")
    with open(place / "file", "r+b", buffering=0) as old:
        (place / "file").unlink()
        (place / "file").write_bytes(b"new one")
        old.write(b"OLD!")
        assert os.pread(old.fileno(), 10, 0) == b"OLD!"
        assert (place / "file").read_bytes() == b"new one"
    assert (place / "file").read_bytes() == b"new one"
    if place.site.backdoor is not None:
        assert place.stored("file") == b"new one"


def test_unlinking_a_file_with_unstored_bytes(place: Place) -> None:
    with open(place / "file", "wb", buffering=0) as file:
        file.write(BYTES)
        (place / "file").unlink()
    gone(place, "file")


def test_a_whole_tree_goes(place: Place) -> None:
    import shutil

    for number in range(5):
        (place / f"tree/{number}/deep").mkdir(parents=True)
        (place / f"tree/{number}/deep/file").write_bytes(b"x")
    shutil.rmtree(place / "tree")
    assert os.listdir(place.dir) == []


# -- link ------------------------------------------------------------------------------------------


def test_link_makes_a_second_name_with_the_same_bytes(place: Place) -> None:
    (place / "a").write_bytes(BYTES)
    os.link(place / "a", place / "b")
    assert (place / "b").read_bytes() == BYTES
    if place.traits.posix:
        assert (place / "a").stat().st_nlink == 2
    (place / "a").unlink()
    assert (place / "b").read_bytes() == BYTES
    if place.site.backdoor is not None:
        assert place.stored("b") == BYTES


def test_link_refuses_a_name_that_is_taken(place: Place) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    with fails_with(errno.EEXIST):
        os.link(place / "a", place / "b")
    assert (place / "b").read_bytes() == b"b"


def test_link_of_directories_and_of_what_is_missing(place: Place) -> None:
    (place / "dir").mkdir()
    with fails_with(errno.EPERM):
        os.link(place / "dir", place / "other")
    with fails_with(errno.ENOENT):
        os.link(place / "missing", place / "other")


def test_link_of_an_open_file_with_unstored_bytes(place: Place) -> None:
    with open(place / "a", "wb", buffering=0) as file:
        file.write(b"12345")
        os.link(place / "a", place / "b")
        assert (place / "b").read_bytes() == b"12345"
    assert (place / "a").read_bytes() == b"12345"


def test_create_if_absent_by_link_and_unlink(place: Place) -> None:
    """What zarr-python's ``LocalStore.set_if_not_exists`` does."""
    for number in range(2):
        (place / f"temporary-{number}").write_bytes(b"%d" % number)
        try:
            os.link(place / f"temporary-{number}", place / "target")
        except FileExistsError:
            assert number == 1
        (place / f"temporary-{number}").unlink()
    assert (place / "target").read_bytes() == b"0"
    assert os.listdir(place.dir) == ["target"]


def test_writing_to_one_link(place: Place) -> None:
    """On a store with hard links a put makes a new file: the other name keeps the old bytes."""
    (place / "a").write_bytes(b"old")
    os.link(place / "a", place / "b")
    (place / "a").write_bytes(b"new")
    assert (place / "a").read_bytes() == b"new"
    assert (place / "b").read_bytes() == (b"new" if place.kind == "plain" else b"old")


# -- symbolic links and nodes ----------------------------------------------------------------------


def test_symbolic_links(place: Place) -> None:
    (place / "file").write_bytes(b"1")
    if not place.traits.posix:
        with fails_with(errno.EPERM):
            os.symlink("file", place / "link")
        assert os.listdir(place.dir) == ["file"]
        return
    os.symlink("file", place / "link")
    os.symlink("../nowhere/at all", place / "dangling")
    assert os.readlink(place / "link") == "file"
    assert (place / "link").read_bytes() == b"1"
    assert stat.S_ISLNK((place / "link").lstat().st_mode)
    assert os.readlink(place / "dangling") == "../nowhere/at all"
    with fails_with(errno.ENOENT):
        (place / "dangling").stat()
    with fails_with(errno.EEXIST):
        os.symlink("file", place / "link")
    with fails_with(errno.EINVAL):
        os.readlink(place / "file")
    (place / "link").rename(place / "moved")
    assert os.readlink(place / "moved") == "file"
    (place / "moved").unlink()
    assert sorted(os.listdir(place.dir)) == ["dangling", "file"]


def test_nodes(place: Place) -> None:
    kinds = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
    for name, kind in kinds.items():
        device = os.makedev(1, 3) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        if not place.traits.posix:
            with fails_with(errno.EPERM):
                os.mknod(place / name, kind | 0o600, device)
            continue
        os.mknod(place / name, kind | 0o600, device)
        found = (place / name).stat()
        assert stat.S_IFMT(found.st_mode) == kind
        assert found.st_rdev == device
    assert sorted(os.listdir(place.dir)) == (sorted(kinds) if place.traits.posix else [])


def test_a_pipe_works_where_it_can_be_made(place: Place) -> None:
    if not place.traits.posix:
        with fails_with(errno.EPERM):
            os.mkfifo(place / "pipe")
        return
    os.mkfifo(place / "pipe")
    if (pid := os.fork()) == 0:
        (place / "pipe").write_bytes(b"through the pipe")
        os._exit(0)
    assert (place / "pipe").read_bytes() == b"through the pipe"
    assert os.waitpid(pid, 0)[1] == 0


def test_mknod_of_a_regular_file(place: Place) -> None:
    os.mknod(place / "file", stat.S_IFREG | 0o640)
    assert (place / "file").stat().st_size == 0
    assert stat.S_IMODE((place / "file").stat().st_mode) == 0o640
    with fails_with(errno.EEXIST):
        os.mknod(place / "file", stat.S_IFREG | 0o640)
    if place.site.backdoor is not None:
        assert place.stored("file") == b""
