"""The handle table."""

from __future__ import annotations

import pytest

from zarrmount.handles import HandleTable
from zarrmount.inode_table import InodeTable
from zarrmount.inodes import Kind


def test_a_handle_holds_its_inode_until_it_is_closed() -> None:
    inodes, handles = InodeTable(), HandleTable()
    inode = inodes.add(inodes.root, "a", Kind.FILE)
    one = handles.add_file(inode, readable=True, writable=False, append=False)
    two = handles.add_file(inode, readable=False, writable=True, append=True)
    inodes.collect(inode)
    assert inodes.find(inode.number) is inode
    assert list(handles) == [one, two]
    assert handles.file(one.number) is one
    handles.check_invariants()
    handles.remove_file(one.number)
    handles.remove_file(two.number)
    assert len(handles) == 0
    assert inode.handles == set()
    inodes.collect(inode)
    assert inodes.find(inode.number) is None


def test_numbers_are_never_used_again_and_closed_ones_are_none() -> None:
    inodes, handles = InodeTable(), HandleTable()
    first = handles.add_dir(inodes.root)
    assert handles.dir(first.number) is first
    handles.remove_dir(first.number)
    second = handles.add_file(inodes.root, readable=True, writable=False, append=False)
    assert second.number != first.number
    with pytest.raises(KeyError):
        handles.dir(second.number)
    with pytest.raises(KeyError):
        handles.file(first.number)
    with pytest.raises(KeyError):
        handles.remove_dir(first.number)
    assert len(handles) == 1
