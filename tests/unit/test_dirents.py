"""Entries that are only names, made of the FUSE library's own."""

from __future__ import annotations

import stat

from pyfuse3 import EntryAttributes

from zarrmount.dirents import NameEntries


class OtherwiseMade:
    st_ino = 0
    st_mode = 0


def test_the_kernel_is_not_given_a_node() -> None:
    entry = NameEntries(EntryAttributes).entry(stat.S_IFDIR)
    assert entry is not None
    assert entry.st_ino == 0  # the node number: the one that programs see is beside it
    assert stat.S_ISDIR(entry.st_mode)


def test_where_entries_are_made_differently_there_are_none() -> None:
    assert NameEntries(OtherwiseMade).entry(stat.S_IFREG) is None
