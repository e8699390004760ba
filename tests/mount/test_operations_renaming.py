"""Renaming files and directories, by the kernel, on every kind of store."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest
from mount.child import fails_with
from mount.places import Place

NOREPLACE = 1
EXCHANGE = 2
WHITEOUT = 4

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100


def renameat2(source: Path, target: Path, flags: int) -> None:
    """``renameat2(2)``, which Python does not have."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def tree(top: Path) -> dict[str, bytes | None]:
    """Return all that is below a directory: bytes of files, None for directories."""
    found: dict[str, bytes | None] = {}
    for directory, dirs, files in os.walk(top):
        where = Path(directory)
        found |= {str((where / name).relative_to(top)): None for name in dirs}
        found |= {str((where / name).relative_to(top)): (where / name).read_bytes() for name in files}
    return found


def expect(place: Place, expected: dict[str, bytes | None]) -> None:
    """Assert what is in a place, as the mount shows it and as the store has it."""
    assert tree(place.dir) == expected
    if place.site.backdoor is not None:
        names = {name for name, data in expected.items() if data is not None}
        assert place.stored_names() == names
        for name in names:
            assert place.stored(name) == expected[name]


# -- files -----------------------------------------------------------------------------------------


def test_a_file_gets_another_name(place: Place) -> None:
    (place / "old").write_bytes(b"bytes")
    (place / "old").rename(place / "new")
    expect(place, {"new": b"bytes"})
    with fails_with(errno.ENOENT):
        (place / "old").stat()
    with fails_with(errno.ENOENT):
        (place / "old").rename(place / "new")


def test_onto_an_existing_file(place: Place) -> None:
    (place / "a").write_bytes(b"aaa")
    (place / "b").write_bytes(b"b")
    (place / "a").rename(place / "b")
    expect(place, {"b": b"aaa"})


def test_onto_itself(place: Place) -> None:
    (place / "a").write_bytes(b"aaa")
    (place / "a").rename(place / "a")
    expect(place, {"a": b"aaa"})


def test_onto_another_link_of_the_same_file(place: Place) -> None:
    (place / "a").write_bytes(b"aaa")
    os.link(place / "a", place / "b")
    (place / "a").rename(place / "b")
    if place.traits.posix:
        expect(place, {"a": b"aaa", "b": b"aaa"})  # POSIX: nothing is done
    else:
        expect(place, {"b": b"aaa"})  # two keys with the same bytes are two files


def test_into_another_directory(place: Place) -> None:
    (place / "x/y").mkdir(parents=True)
    (place / "file").write_bytes(b"1")
    (place / "file").rename(place / "x/y/file")
    expect(place, {"x": None, "x/y": None, "x/y/file": b"1"})
    (place / "x/y/file").rename(place / "back")
    expect(place, {"x": None, "x/y": None, "back": b"1"})


def test_between_kinds(place: Place) -> None:
    (place / "dir").mkdir()
    (place / "file").write_bytes(b"1")
    with fails_with(errno.EISDIR):
        (place / "file").rename(place / "dir")
    with fails_with(errno.ENOTDIR):
        (place / "dir").rename(place / "file")
    with fails_with(errno.ENOENT):
        (place / "file").rename(place / "missing/file")
    expect(place, {"dir": None, "file": b"1"})


def test_an_open_file_goes_on_being_read_and_written(place: Place) -> None:
    (place / "file").write_bytes(b"0123456789")
    with open(place / "file", "r+b", buffering=0) as file:
        assert file.read(2) == b"01"
        (place / "file").rename(place / "moved")
        assert file.read(2) == b"23"
        file.write(b"XY")
        assert os.fstat(file.fileno()).st_size == 10
    expect(place, {"moved": b"0123XY6789"})


def test_an_open_reader_goes_on_when_its_name_is_taken_by_another(place: Place) -> None:
    (place / "file").write_bytes(b"old" * 100_000)
    (place / "new").write_bytes(b"new" * 100_000)
    with open(place / "file", "rb", buffering=0) as reader:
        assert reader.read(3) == b"old"
        (place / "new").rename(place / "file")
        assert os.pread(reader.fileno(), 3, 299_997) == b"old"
        assert (place / "file").read_bytes()[:3] == b"new"
    expect(place, {"file": b"new" * 100_000})


def test_an_open_writer_of_a_replaced_file_harms_nothing(place: Place) -> None:
    (place / "file").write_bytes(b"old")
    (place / "new").write_bytes(b"new")
    with open(place / "file", "r+b", buffering=0) as writer:
        writer.write(b"OLD")
        (place / "new").rename(place / "file")
        writer.write(b"more")
        assert os.pread(writer.fileno(), 10, 0) == b"OLDmore"
    expect(place, {"file": b"new"})


def test_a_file_that_was_not_stored_yet(place: Place) -> None:
    with open(place / "draft", "wb", buffering=0) as file:
        file.write(b"12")
        (place / "draft").rename(place / "final")
        file.write(b"34")
    expect(place, {"final": b"1234"})


def test_an_unstored_file_onto_an_existing_one(place: Place) -> None:
    (place / "final").write_bytes(b"before")
    with open(place / "draft", "wb", buffering=0) as file:
        file.write(b"12")
        (place / "draft").rename(place / "final")
        assert (place / "final").read_bytes() == b"12"
        file.write(b"34")
    expect(place, {"final": b"1234"})


def test_a_stored_file_onto_an_unstored_one(place: Place) -> None:
    (place / "ready").write_bytes(b"ready")
    with open(place / "draft", "wb", buffering=0) as file:
        file.write(b"12")
        (place / "ready").rename(place / "draft")
        file.write(b"34")
        assert os.pread(os.open(place / "draft", os.O_RDONLY), 10, 0) == b"ready"
    expect(place, {"draft": b"ready"})


def test_written_beside_and_renamed_as_careful_programs_do(place: Place) -> None:
    for number in range(10):
        temporary = place / f".file.{number}.tmp"
        with open(temporary, "xb") as file:
            file.write(b"%d" % number * 1000)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place / "file")
        assert (place / "file").read_bytes() == b"%d" % number * 1000
    expect(place, {"file": b"9" * 1000})


def test_swapping_by_three_renames(place: Place) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"bb")
    (place / "a").rename(place / "t")
    (place / "b").rename(place / "a")
    (place / "t").rename(place / "b")
    expect(place, {"a": b"bb", "b": b"a"})


# -- directories -----------------------------------------------------------------------------------


def make_tree(top: Path) -> None:
    (top / "one/two").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "file").write_bytes(b"f")
    (top / "one/file").write_bytes(b"1f")
    (top / "one/two/file").write_bytes(b"12f")


TREE: dict[str, bytes | None] = {
    "empty": None,
    "file": b"f",
    "one": None,
    "one/file": b"1f",
    "one/two": None,
    "one/two/file": b"12f",
}


def below(name: str) -> dict[str, bytes | None]:
    return {name: None, **{f"{name}/{path}": data for path, data in TREE.items()}}


def test_a_directory_with_all_that_is_in_it(place: Place) -> None:
    make_tree(place / "old")
    (place / "old").rename(place / "new")
    expect(place, below("new"))
    assert not (place / "old").exists()
    (place / "new/one/two/file").write_bytes(b"again")
    assert (place / "new/one/two/file").read_bytes() == b"again"


def test_a_directory_into_another(place: Place) -> None:
    make_tree(place / "old")
    (place / "into/deep").mkdir(parents=True)
    (place / "old").rename(place / "into/deep/new")
    expect(place, {"into": None, "into/deep": None, **below("into/deep/new")})
    (place / "into").rename(place / "x")
    expect(place, {"x": None, "x/deep": None, **below("x/deep/new")})


def test_a_directory_onto_an_empty_one(place: Place) -> None:
    make_tree(place / "old")
    (place / "new").mkdir()
    (place / "old").rename(place / "new")
    expect(place, below("new"))


def test_a_directory_onto_one_that_is_not_empty(place: Place) -> None:
    make_tree(place / "old")
    (place / "new").mkdir()
    (place / "new/file").write_bytes(b"1")
    with fails_with(errno.ENOTEMPTY):
        (place / "old").rename(place / "new")
    expect(place, {**below("old"), "new": None, "new/file": b"1"})


def test_a_directory_onto_one_that_holds_an_unstored_file_or_an_empty_directory(place: Place) -> None:
    (place / "old").mkdir()
    (place / "new/inner").mkdir(parents=True)
    with fails_with(errno.ENOTEMPTY):
        (place / "old").rename(place / "new")
    (place / "other").mkdir()
    with open(place / "other/draft", "wb", buffering=0) as file:
        file.write(b"1")
        with fails_with(errno.ENOTEMPTY):
            (place / "old").rename(place / "other")
    expect(place, {"old": None, "new": None, "new/inner": None, "other": None, "other/draft": b"1"})


def test_a_directory_into_itself(place: Place) -> None:
    make_tree(place / "dir")
    for target in ("dir/x", "dir/one/two/x", "dir/one"):
        with fails_with(errno.EINVAL):
            (place / "dir").rename(place / target)
    with fails_with(errno.ENOTEMPTY):
        (place / "dir/one").rename(place / "dir")
    (place / "dir").rename(place / "dir")
    expect(place, below("dir"))


def test_a_directory_with_open_and_unstored_files(place: Place) -> None:
    (place / "old").mkdir()
    (place / "old/stored").write_bytes(b"0123456789")
    with (
        open(place / "old/stored", "rb", buffering=0) as reader,
        open(place / "old/draft", "wb", buffering=0) as writer,
    ):
        assert reader.read(3) == b"012"
        writer.write(b"12")
        (place / "old").rename(place / "new")
        assert reader.read(3) == b"345"
        writer.write(b"34")
    expect(place, {"new": None, "new/stored": b"0123456789", "new/draft": b"1234"})


def test_the_working_directory_follows_its_rename(place: Place) -> None:
    (place / "old").mkdir()
    os.chdir(place / "old")
    Path("a").write_bytes(b"a")
    (place / "old").rename(place / "new")
    Path("b").write_bytes(b"b")
    assert sorted(os.listdir()) == ["a", "b"]
    os.chdir("/")
    expect(place, {"new": None, "new/a": b"a", "new/b": b"b"})


def test_a_directory_of_many_files(place: Place) -> None:
    (place / "old").mkdir()
    for number in range(100):
        (place / f"old/{number}").write_bytes(b"%d" % number)
    (place / "old").rename(place / "new")
    expect(place, {"new": None, **{f"new/{number}": b"%d" % number for number in range(100)}})


# -- flags -----------------------------------------------------------------------------------------


def test_noreplace(place: Place) -> None:
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    (place / "dir").mkdir()
    for target in ("b", "dir"):
        with fails_with(errno.EEXIST):
            renameat2(place / "a", place / target, NOREPLACE)
    with fails_with(errno.EEXIST):
        renameat2(place / "dir", place / "b", NOREPLACE)
    renameat2(place / "a", place / "c", NOREPLACE)
    renameat2(place / "dir", place / "other", NOREPLACE)
    expect(place, {"b": b"b", "c": b"a", "other": None})


def test_noreplace_of_an_unstored_file(place: Place) -> None:
    (place / "b").write_bytes(b"b")
    with open(place / "a", "wb", buffering=0) as file:
        file.write(b"a")
        with fails_with(errno.EEXIST):
            renameat2(place / "a", place / "b", NOREPLACE)
        renameat2(place / "a", place / "c", NOREPLACE)
    expect(place, {"b": b"b", "c": b"a"})


def test_exchange(place: Place) -> None:
    make_tree(place / "dir")
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"bb")
    if not place.traits.exchange:
        with fails_with(errno.EINVAL):
            renameat2(place / "a", place / "b", EXCHANGE)
        expect(place, {**below("dir"), "a": b"a", "b": b"bb"})
        return
    renameat2(place / "a", place / "b", EXCHANGE)
    expect(place, {**below("dir"), "a": b"bb", "b": b"a"})
    renameat2(place / "a", place / "dir", EXCHANGE)
    expect(place, {**below("a"), "dir": b"bb", "b": b"a"})
    renameat2(place / "a/one", place / "b", EXCHANGE)
    assert (place / "b/two/file").read_bytes() == b"12f"
    assert (place / "a/one").read_bytes() == b"a"
    with fails_with(errno.ENOENT):
        renameat2(place / "a", place / "missing", EXCHANGE)


@pytest.mark.kinds("local", "zip", "memory", "s3")
def test_flags_that_nobody_knows_are_refused(place: Place) -> None:
    (place / "a").write_bytes(b"a")
    for flags in (WHITEOUT, NOREPLACE | EXCHANGE, 1 << 20):
        with fails_with(errno.EINVAL):
            renameat2(place / "a", place / "b", flags)
    expect(place, {"a": b"a"})
