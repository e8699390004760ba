"""Small files of a local store, whose pages the kernel is given when they are opened."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mount.harness import mounted


def content(number: int, size: int) -> bytes:
    return bytes((number * 7 + at) % 251 for at in range(size))


def seen(path: Path) -> bytes | None:
    """Return what is read; None if the file is found to be another than it was known to be."""
    try:
        return path.read_bytes()
    except OSError as error:
        assert error.errno == errno.ESTALE
        return None


SIZES = (0, 1, 4095, 4096, 4097, 32 << 10, 256 << 10, (256 << 10) + 1)


@pytest.mark.parametrize("options", [(), ("--read-only",)], ids=str)
def test_every_reader_gets_the_bytes(tmp_path: Path, options: tuple[str, ...]) -> None:
    store = tmp_path / "store"
    store.mkdir()
    files = {f"{number}": content(number, SIZES[number % len(SIZES)]) for number in range(200)}
    for name, data in files.items():
        (store / name).write_bytes(data)
    with mounted(store, tmp_path, *options) as mount, ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            names = [name for name in files for _ in range(4)]
            read = list(pool.map(lambda name: (mount.path / name).read_bytes(), names))
            assert all(data == files[name] for name, data in zip(names, read, strict=True))


def test_what_was_pushed_is_not_shown_of_a_file_that_was_replaced(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "file").write_bytes(b"long first bytes")
    with mounted(store, tmp_path, "--metadata-ttl", "0.1") as mount:
        path = mount.path / "file"
        assert path.read_bytes() == b"long first bytes"
        for data in (b"short", b"longer again", b"other bytes."):
            (store / "new").write_bytes(data)
            (store / "new").rename(store / "file")
            until = time.monotonic() + 10
            while seen(path) != data:
                assert time.monotonic() < until
        with open(path, "r+b", buffering=0) as file:
            file.write(b"OTHER")
            assert path.read_bytes() == b"OTHER bytes."
        assert path.read_bytes() == b"OTHER bytes."
        file = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.read(file, 4096) == b"OTHER bytes."
        finally:
            os.close(file)
