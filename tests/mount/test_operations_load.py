"""Many files, large files and many threads, by the kernel, on every kind of store."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from mount.places import Place

THREADS = 64
MIB = 1 << 20


@pytest.mark.seconds(120)
def test_a_large_file_comes_back_byte_for_byte(place: Place) -> None:
    source = random.Random(0)
    written, read = hashlib.md5(), hashlib.md5()
    with open(place / "large", "wb", buffering=0) as file:
        for _ in range(64):
            block = source.randbytes(MIB)
            written.update(block)
            assert file.write(block) == MIB
    assert (place / "large").stat().st_size == 64 * MIB
    with open(place / "large", "rb", buffering=0) as file:
        while block := file.read(MIB + 13):
            read.update(block)
    assert read.hexdigest() == written.hexdigest()
    with open(place / "large", "r+b", buffering=0) as file:
        file.seek(40 * MIB + 7)
        file.write(b"changed")
    with open(place / "large", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 9, 40 * MIB + 6)[1:8] == b"changed"
        assert os.pread(file.fileno(), 5, 64 * MIB - 5) == block[-5:] or len(block) == 0


@pytest.mark.seconds(120)
def test_many_small_files(place: Place) -> None:
    many = 100 if place.traits.slow else 500
    for number in range(many):
        (place / f"file-{number}").write_bytes(b"%d" % number * 10)
    assert len(os.listdir(place.dir)) == many
    for number in range(many):
        assert (place / f"file-{number}").read_bytes() == b"%d" % number * 10


@pytest.mark.seconds(120)
def test_many_threads_make_and_read_files_of_their_own(place: Place) -> None:
    def work(number: int) -> None:
        directory = place / f"thread-{number}"
        directory.mkdir()
        for turn in range(3):
            data = f"{number}:{turn};".encode() * 3000
            (directory / f"file-{turn}").write_bytes(data)
            assert (directory / f"file-{turn}").read_bytes() == data
        (directory / "file-0").rename(directory / "moved")
        (directory / "file-1").unlink()
        assert sorted(os.listdir(directory)) == ["file-2", "moved"]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert len(os.listdir(place.dir)) == THREADS


@pytest.mark.seconds(120)
def test_many_threads_write_regions_of_one_file(place: Place) -> None:
    """As parallel writers of one shard do."""
    region = 10_007
    (place / "file").write_bytes(bytes(region * THREADS))

    def work(number: int) -> None:
        file = os.open(place / "file", os.O_RDWR)
        os.pwrite(file, bytes([number]) * region, number * region)
        os.close(file)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert (place / "file").read_bytes() == b"".join(bytes([n]) * region for n in range(THREADS))


@pytest.mark.seconds(120)
def test_threads_that_fight_for_the_same_names(place: Place) -> None:
    """Whoever wins, each step succeeds or says that another was first, and no file is half of two."""

    def work(number: int) -> None:
        source = random.Random(number)
        mine = place / f"own-{number}"
        for _ in range(8):
            name = place / f"shared-{source.randrange(3)}"
            mine.write_bytes(bytes([number]) * 5000)
            mine.rename(name)
            try:
                file = open(name, "rb", buffering=0)
            except OSError as error:
                # As on NFS: it was replaced again while the kernel looked it up anew.
                assert error.errno in (errno.ENOENT, errno.ESTALE), error
                continue
            with file:
                data = file.read()
            assert len(data) == 5000
            assert len(set(data)) == 1, "the bytes of two writers"
            try:
                if source.random() < 0.3:
                    name.unlink()
            except FileNotFoundError:
                pass

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert set(os.listdir(place.dir)) <= {"shared-0", "shared-1", "shared-2"}
