"""What the store said of a file, packed: it comes out as it went in, and takes little room."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.meta import ObjectMeta, PosixAttributes
from zarrmount.inode_table import InodeTable
from zarrmount.inodes import Inode, Kind
from zarrmount.packed import pack, unpack

COUNT = st.integers(0, 2**40)
TIME = st.integers(-(2**63), 2**63 - 1)
POSIX = st.builds(PosixAttributes, *[st.integers(0, 2**32 - 1)] * 4, TIME, TIME, COUNT, st.integers(0, 1))
METAS = st.builds(ObjectMeta, st.text(), COUNT, TIME, st.text(), st.none() | POSIX)


@given(METAS)
def test_it_comes_out_as_it_went_in(meta: ObjectMeta) -> None:
    packed = pack(meta)
    assert (unpack(packed, meta.key) if isinstance(packed, bytes) else packed) == meta


@pytest.mark.parametrize(
    "meta",
    [
        ObjectMeta("a", 5, 9),
        ObjectMeta("a", 5, None, "v"),
        ObjectMeta("a", 5, 2**63, "v"),
        ObjectMeta("a", 5, 9, "\udc80"),
    ],
)
def test_what_cannot_be_packed_stays_as_it_is(meta: ObjectMeta) -> None:
    assert pack(meta) is meta


def test_its_key_is_where_it_hangs_and_it_moves_with_what_was_said() -> None:
    table = InodeTable()
    directory = table.add(table.root, "d", Kind.DIRECTORY)
    inode = table.add(directory, "a", Kind.FILE)
    said = inode.meta = ObjectMeta("d/a", 5, 9, "v")
    inode.pack()
    assert inode.meta == said
    assert inode.meta is not said
    table.move(inode, table.root, "b")
    assert inode.meta == said  # until somebody says what the store has under its new name
    inode.pack()
    assert inode.meta == said
    table.detach(inode)
    assert inode.meta == said


def test_what_few_have_is_dropped_again() -> None:
    inode = Inode(2, None, "a", Kind.FILE)
    assert inode._rare is None
    inode.mode, inode.exclusive = 0o600, True
    assert (inode.mode, inode.exclusive, inode.uid) == (0o600, True, None)
    inode.mode, inode.exclusive = None, False
    assert inode._rare is None


@pytest.mark.parametrize("posix", [None, PosixAttributes(0o100644, 1000, 1000, 1, 10**18, 10**18, 8)])
def test_many_take_little_room(posix: PosixAttributes | None) -> None:
    table = InodeTable()
    directory = table.add(table.root, "array", Kind.DIRECTORY)

    def add(number: int) -> None:
        inode = table.add(directory, f"{number // 1000}.{number % 1000}", Kind.FILE)
        inode.lookups = 1
        name, time = inode.name, 10**18 + number
        inode.meta = ObjectMeta(f"array/{name}", 10_000 + number, time, f'"{number:032x}"', posix)
        if table.is_large:
            inode.pack()

    for number in range(30_000):
        add(number)
    assert table.is_large
    tracemalloc.start()
    try:
        for number in range(30_000, 50_000):
            add(number)
        each = tracemalloc.get_traced_memory()[0] / 20_000
    finally:
        tracemalloc.stop()
    assert each < 500
    for inode in list(directory.children.values()):
        table.forget(inode, 1)
    assert len(table) == 1
    assert len(table._by_number._pages) == 1
    table.check_invariants()
