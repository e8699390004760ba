"""What stat(2) shows, and which of several sources wins."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies

from stores.meta import ObjectMeta, PosixAttributes, PrefixMeta
from zarrmount.attributes import attributes_of
from zarrmount.inodes import Inode, Kind
from zarrmount.objects.staging import Staging
from zarrmount.settings import TreeSettings

POSIX = PosixAttributes(stat.S_IFREG | 0o640, 7, 8, 3, 11, 13, 64)


def file(meta: ObjectMeta | None = None, kind: Kind = Kind.FILE) -> Inode:
    inode = Inode(5, None, "a", kind)
    inode.meta = meta
    return inode


def show(inode: Inode, **settings: Any) -> Any:
    return attributes_of(inode, TreeSettings(**settings), 1000)


def test_defaults() -> None:
    shown = show(file(ObjectMeta("a", 513)), umask=0o077)
    assert shown.mode == stat.S_IFREG | 0o600
    assert (shown.size, shown.blocks, shown.nlink) == (513, 2, 1)
    assert (shown.mtime_ns, shown.atime_ns) == (1000, 1000)
    directory = Inode(6, None, "d", Kind.DIRECTORY)
    assert show(directory).mode == stat.S_IFDIR | 0o755
    directory.prefix = PrefixMeta("d", 77)
    assert show(directory, dir_mode=0o700).mtime_ns == 77
    assert show(directory, dir_mode=0o700).mode == stat.S_IFDIR | 0o700


def test_what_the_store_says_comes_before_defaults() -> None:
    shown = show(file(ObjectMeta("a", 5, 9, "v", POSIX)))
    assert (shown.mode, shown.uid, shown.gid, shown.nlink) == (POSIX.mode, 7, 8, 3)
    assert (shown.mtime_ns, shown.atime_ns, shown.ctime_ns, shown.blocks) == (9, 11, 13, 64)


def test_what_was_asked_for_comes_before_the_store() -> None:
    shown = show(file(ObjectMeta("a", 5, 9, "v", POSIX)), uid=1, gid=2, file_mode=0o444)
    assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFREG | 0o444, 1, 2)


def test_what_was_set_here_comes_first(tmp_path: Path) -> None:
    inode = file(ObjectMeta("a", 5, 9, "v", POSIX))
    inode.mode, inode.uid, inode.gid, inode.mtime_ns, inode.atime_ns = 0o777, 3, 4, 21, 22
    shown = show(inode, file_mode=0o444)
    assert (shown.mode, shown.uid, shown.gid) == (stat.S_IFREG | 0o777, 3, 4)
    assert (shown.mtime_ns, shown.atime_ns) == (21, 22)


async def test_the_staged_size_counts(tmp_path: Path) -> None:
    inode = file(ObjectMeta("a", 5, 9, "v", POSIX))
    inode.staged = Staging(tmp_path).new()
    await inode.staged.write(0, b"x" * 1000)
    inode.ctime_ns = 23
    shown = show(inode)
    assert (shown.size, shown.blocks) == (1000, 2)
    assert shown.ctime_ns == 23


def test_without_a_time_of_change_it_is_that_of_the_bytes() -> None:
    assert show(file(ObjectMeta("a", 5, 9, "v"))).ctime_ns == 9


def test_an_unlinked_file_has_no_links() -> None:
    inode = file(ObjectMeta("a", 5, 9, "v", POSIX))
    inode.unlinked = True
    assert show(inode).nlink == 0


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_other_kinds_keep_theirs_and_their_bits(kind: int) -> None:
    posix = PosixAttributes(kind | 0o777, 7, 8, 1, 0, 0, 0, rdev=42)
    shown = show(file(ObjectMeta("a", 0, 0, "v", posix), Kind.of_mode(kind)), file_mode=0o600)
    assert shown.mode == kind | 0o777
    assert shown.rdev == 42


@given(strategies.integers(0, 1 << 50))
def test_blocks_are_enough_for_the_size(size: int) -> None:
    """With fewer, ``tar -S`` takes the rest for holes."""
    assert show(file(ObjectMeta("a", size))).blocks * 512 >= size


def test_a_umask_masks_whatever_the_mode_comes_from() -> None:
    stored, changed = file(ObjectMeta("a", 5, 9, "v", POSIX)), file()
    changed.mode = 0o666
    assert show(stored, umask=0o027).mode == stat.S_IFREG | 0o640
    assert show(stored, umask=0o077).mode == stat.S_IFREG | 0o600
    assert show(changed, umask=0o027).mode == stat.S_IFREG | 0o640
    assert show(file(), umask=0o022, file_mode=0o777).mode == stat.S_IFREG | 0o755
