"""The inode table: what is held, what is dropped, what hangs where."""

from __future__ import annotations

from pathlib import Path

import pytest

from zarrmount.inode_table import ROOT_INODE, InodeTable
from zarrmount.inodes import Inode, Kind
from zarrmount.objects.staging import Staging


def held(table: InodeTable, parent: Inode, name: str, kind: Kind = Kind.FILE) -> Inode:
    inode = table.add(parent, name, kind)
    inode.lookups = 1
    return inode


def test_an_inode_lives_as_long_as_the_kernel_counts_it() -> None:
    table = InodeTable()
    inode = held(table, table.root, "a")
    inode.lookups = 3
    table.forget(inode, 2)
    assert table.find(inode.number) is inode
    table.forget(inode, 1)
    assert table.find(inode.number) is None
    assert table.root.children == {}
    table.check_invariants()


def test_the_count_is_never_negative() -> None:
    table = InodeTable()
    inode = held(table, table.root, "a")
    with pytest.raises(ValueError, match="2 references taken back of 1"):
        table.forget(inode, 2)
    assert inode.lookups == 1


def test_numbers_are_never_used_again() -> None:
    table = InodeTable()
    numbers = set()
    for _ in range(10):
        inode = held(table, table.root, "a")
        numbers.add(inode.number)
        table.forget(inode, 1)
    assert len(numbers) == 10
    assert ROOT_INODE not in numbers


def test_directories_live_as_long_as_what_is_below(tmp_path: Path) -> None:
    table = InodeTable()
    dropped: list[int] = []
    table.on_drop = dropped.append
    top = held(table, table.root, "d", Kind.DIRECTORY)
    inner = held(table, top, "e", Kind.DIRECTORY)
    leaf = held(table, inner, "f")
    table.forget(top, 1)
    table.forget(inner, 1)
    assert leaf.key == "d/e/f"
    table.check_invariants()
    table.forget(leaf, 1)
    assert len(table) == 1
    assert dropped == [leaf.number, inner.number, top.number]


def test_the_dirty_and_the_kept_live_on_and_the_root_always(tmp_path: Path) -> None:
    table = InodeTable()
    staging = Staging(tmp_path)
    directory = table.add(table.root, "d", Kind.DIRECTORY)
    directory.kept = True
    inode = table.add(table.root, "a", Kind.FILE)
    inode.staged = staging.new()
    inode.staged.modified = True
    for one in (directory, inode, table.root):
        table.collect(one)
    table.check_invariants()
    assert len(table) == 3
    assert table.dirty() == [inode]
    inode.staged.modified = False
    table.collect(inode)
    assert inode.staged is None
    assert len(table) == 2


def test_what_takes_a_name_detaches_what_had_it() -> None:
    table = InodeTable()
    old = held(table, table.root, "d", Kind.DIRECTORY)
    below = held(table, old, "x")
    new = held(table, table.root, "d")
    assert table.root.children == {"d": new}
    assert old.unlinked
    assert below.unlinked
    assert (old.parent, below.parent) == (None, None)
    table.check_invariants()
    table.forget(below, 1)
    table.forget(old, 1)
    table.check_invariants()
    assert len(table) == 2


def test_moving_a_directory_changes_the_keys_below() -> None:
    table = InodeTable()
    one = held(table, table.root, "one", Kind.DIRECTORY)
    two = held(table, table.root, "two", Kind.DIRECTORY)
    leaf = held(table, one, "x")
    table.move(one, two, "moved")
    assert leaf.key == "two/moved/x"
    assert leaf.depth == 3
    assert leaf.is_below(two)
    assert not two.is_below(leaf)
    table.move(one, two, "moved")
    table.check_invariants()


def test_exchange() -> None:
    table = InodeTable()
    directory = held(table, table.root, "d", Kind.DIRECTORY)
    one, two = held(table, directory, "x"), held(table, table.root, "y")
    table.exchange(one, two)
    assert (one.key, two.key) == ("y", "d/x")
    table.check_invariants()


def test_what_lives_here_is_found_at_any_depth(tmp_path: Path) -> None:
    table = InodeTable()
    top = held(table, table.root, "d", Kind.DIRECTORY)
    inner = held(table, top, "e", Kind.DIRECTORY)
    leaf = held(table, inner, "f")
    assert not top.lives_here
    leaf.staged = Staging(tmp_path).new()
    leaf.staged.modified = True
    assert top.lives_here


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (0o100644, Kind.FILE),
        (0o040755, Kind.DIRECTORY),
        (0o120777, Kind.SYMLINK),
        (0o010644, Kind.SPECIAL),
        (0o140644, Kind.SPECIAL),
    ],
)
def test_kinds(mode: int, kind: Kind) -> None:
    assert Kind.of_mode(mode) is kind
