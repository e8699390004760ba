"""Directories, by the kernel, on every kind of store: mkdir, rmdir, readdir and its cookies."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

import pytest
from mount.child import fails_with
from mount.places import Place

MANY = 3000


def fill(place: Place, names: list[str]) -> None:
    """Make files, past the mount where that can be done (it is not what is tested)."""
    for name in names:
        if place.site.backdoor is not None:
            place.store(name, b"")
        else:
            (place / name).touch()


def test_an_empty_directory_lists_nothing(place: Place) -> None:
    assert os.listdir(place.dir) == []


def test_made_directories_and_files_are_listed_with_their_types(place: Place) -> None:
    (place / "dir").mkdir()
    (place / "file").write_bytes(b"x")
    with os.scandir(place.dir) as found:
        kinds = {entry.name: (entry.is_dir(), entry.is_file(), entry.stat().st_size) for entry in found}
    assert kinds["file"] == (False, True, 1)
    assert kinds["dir"][:2] == (True, False)
    assert len(kinds) == 2


def test_a_made_directory_is_a_directory_with_the_mode_asked_for(place: Place) -> None:
    os.umask(0)
    (place / "dir").mkdir(0o750)
    found = (place / "dir").stat()
    assert stat.S_ISDIR(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o750


def test_mkdir_of_a_name_that_is_taken(place: Place) -> None:
    (place / "dir").mkdir()
    (place / "file").touch()
    for name in ("dir", "file"):
        with fails_with(errno.EEXIST):
            (place / name).mkdir()


def test_mkdir_below_what_is_missing_or_a_file(place: Place) -> None:
    (place / "file").touch()
    with fails_with(errno.ENOENT):
        (place / "missing/dir").mkdir()
    with fails_with(errno.ENOTDIR):
        (place / "file/dir").mkdir()


def test_empty_directories_stay(place: Place) -> None:
    (place / "a/b/c").mkdir(parents=True)
    assert [names for _, names, _ in os.walk(place.dir)] == [["a"], ["b"], ["c"], []]


def test_a_directory_stays_when_its_last_file_goes(place: Place) -> None:
    (place / "dir").mkdir()
    (place / "dir/file").write_bytes(b"x")
    (place / "dir/file").unlink()
    assert os.listdir(place.dir) == ["dir"]
    assert os.listdir(place / "dir") == []


def test_rmdir(place: Place) -> None:
    (place / "dir").mkdir()
    (place / "dir").rmdir()
    assert os.listdir(place.dir) == []
    with fails_with(errno.ENOENT):
        (place / "dir").rmdir()
    (place / "dir").mkdir()


def test_rmdir_refuses_what_is_not_empty_or_no_directory(place: Place) -> None:
    (place / "dir/inner").mkdir(parents=True)
    with fails_with(errno.ENOTEMPTY):
        (place / "dir").rmdir()
    (place / "dir/inner").rmdir()
    (place / "dir/file").touch()
    with fails_with(errno.ENOTEMPTY):
        (place / "dir").rmdir()
    with fails_with(errno.ENOTDIR):
        (place / "dir/file").rmdir()


def test_a_directory_with_an_open_unstored_file_is_not_empty(place: Place) -> None:
    (place / "dir").mkdir()
    with open(place / "dir/file", "wb") as file:
        file.write(b"x")
        file.flush()
        with fails_with(errno.ENOTEMPTY):
            (place / "dir").rmdir()


def test_unlink_of_a_directory(place: Place) -> None:
    (place / "dir").mkdir()
    with fails_with(errno.EISDIR):
        (place / "dir").unlink()


def test_nothing_can_be_made_in_a_removed_directory(place: Place) -> None:
    (place / "dir").mkdir()
    descriptor = os.open(place / "dir", os.O_RDONLY | os.O_DIRECTORY)
    (place / "dir").rmdir()
    try:
        assert os.listdir(descriptor) == []
        with fails_with(errno.ENOENT):
            os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
        with fails_with(errno.ENOENT):
            os.mkdir("dir", dir_fd=descriptor)
    finally:
        os.close(descriptor)


def test_directories_are_not_files(place: Place) -> None:
    (place / "dir").mkdir()
    (place / "file").touch()
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT):
        with fails_with(errno.EISDIR):
            os.open(place / "dir", flags)
    with fails_with(errno.ENOTDIR):
        os.open(place / "file", os.O_RDONLY | os.O_DIRECTORY)
    with fails_with(errno.ENOTDIR):
        os.listdir(place / "file")
    with fails_with(errno.ENOTDIR):
        (place / "file/below").stat()
    descriptor = os.open(place / "dir", os.O_RDONLY)
    with fails_with(errno.EISDIR):
        os.read(descriptor, 1)
    os.close(descriptor)


def test_dot_and_dot_dot(place: Place) -> None:
    (place / "a/b").mkdir(parents=True)
    here = (place / "a/b").stat().st_ino
    assert (place / "a/b/.").stat().st_ino == here
    assert (place / "a/b/../b").stat().st_ino == here
    assert os.stat(str(place / "a/b") + "/..").st_ino == (place / "a").stat().st_ino


@pytest.mark.seconds(120)
def test_three_thousand_entries(place: Place) -> None:
    many = 1200 if place.traits.slow else MANY  # the server's pages hold a thousand
    names = [f"entry-{number}" for number in range(many)]
    fill(place, names)
    assert sorted(os.listdir(place.dir)) == sorted(names)
    with os.scandir(place.dir) as found:
        assert sum(entry.is_file() and entry.stat().st_size == 0 for entry in found) == many
    with fails_with(errno.ENOTEMPTY):
        place.dir.rmdir()


# -- the C library's directory streams -------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.opendir.argtypes = [ctypes.c_char_p]
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for function in (libc.readdir, libc.closedir, libc.rewinddir, libc.telldir):
    function.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]

_NAME_OFFSET = 19  # of d_name in struct dirent (glibc, 64 bit)


class Stream:
    """A ``DIR *``."""

    def __init__(self, path: Path) -> None:
        self._dir = libc.opendir(os.fsencode(path))
        assert self._dir

    def next(self) -> str | None:
        entry = libc.readdir(self._dir)
        return os.fsdecode(ctypes.string_at(entry + _NAME_OFFSET)) if entry else None

    def rest(self) -> list[str]:
        names = []
        while (name := self.next()) is not None:
            names.append(name)
        return names

    def tell(self) -> int:
        return int(libc.telldir(self._dir))

    def seek(self, position: int) -> None:
        libc.seekdir(self._dir, position)

    def rewind(self) -> None:
        libc.rewinddir(self._dir)

    def close(self) -> None:
        libc.closedir(self._dir)


def test_a_stream_gives_dot_dot_dot_and_each_name_once(place: Place) -> None:
    fill(place, ["a", "b", "c"])
    stream = Stream(place.dir)
    assert sorted(stream.rest()) == [".", "..", "a", "b", "c"]
    assert stream.next() is None
    stream.close()


def test_seekdir_returns_to_where_telldir_was(place: Place) -> None:
    fill(place, [f"entry-{number:03}" for number in range(150)])
    stream = Stream(place.dir)
    for _ in range(67):
        assert stream.next() is not None
    position = stream.tell()
    expected = stream.rest()
    assert len(expected) == 152 - 67
    for _ in range(2):
        stream.seek(position)
        assert stream.rest() == expected
    stream.close()


def test_rewinddir_sees_what_was_made_since(place: Place) -> None:
    fill(place, ["a"])
    stream = Stream(place.dir)
    assert sorted(stream.rest()) == [".", "..", "a"]
    (place / "b").touch()
    (place / "a").unlink()
    stream.rewind()
    assert sorted(stream.rest()) == [".", "..", "b"]
    stream.close()


def test_reading_while_the_directory_changes(place: Place) -> None:
    stays = [f"stays-{number:03}" for number in range(60)]
    goes = [f"goes-{number:03}" for number in range(60)]
    fill(place, stays + goes)
    stream = Stream(place.dir)
    seen = [stream.next() for _ in range(20)]
    for name in goes:
        (place / name).unlink()
    for number in range(20):
        (place / f"new-{number}").touch()
    seen += stream.rest()
    stream.close()
    assert len(set(seen)) == len(seen), "an entry was given twice"
    assert set(stays) <= set(seen), "an entry that stayed was left out"
    assert set(os.listdir(place.dir)) == {*stays, *(f"new-{number}" for number in range(20))}


def test_removing_all_entries_while_walking_them(place: Place) -> None:
    fill(place, [f"entry-{number}" for number in range(100)])
    with os.scandir(place.dir) as found:
        for entry in found:
            os.unlink(entry.path)
    assert os.listdir(place.dir) == []


def test_deep_paths(place: Place) -> None:
    names = [f"level-{number}" for number in range(60)]
    deep = place / "/".join(names)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    assert (deep / "file").read_bytes() == b"deep"
    if place.site.backdoor is not None:
        assert place.stored("/".join([*names, "file"])) == b"deep"


def test_what_another_program_stores_appears(place: Place) -> None:
    if place.site.backdoor is None:
        assert place.kind in ("zip", "memory"), "only these cannot be looked into while mounted"
        return
    place.store("dir/file", b"from elsewhere")
    assert os.listdir(place / "dir") == ["file"]
    assert (place / "dir/file").read_bytes() == b"from elsewhere"
