"""The adapter to pyfuse3: complete, and proof against whatever a handler raises."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pyfuse3
import pytest
import trio

from stores.errors import Denied, NotFound, Unavailable
from stores.memory import MemoryStore
from zarrmount import fuse
from zarrmount.fuse import FuseOperations
from zarrmount.settings import TreeSettings
from zarrmount.vfs import Vfs

HANDLERS = [
    name
    for name, function in vars(pyfuse3.Operations).items()
    if not name.startswith("_") and callable(function)
]


@pytest.fixture
def operations(tmp_path: Path) -> FuseOperations:
    store = MemoryStore({"a": b"123"})
    return FuseOperations(Vfs(store, TreeSettings(metadata_ttl=7), staging_dir=tmp_path))


@pytest.mark.parametrize("name", HANDLERS)
def test_no_handler_is_inherited(name: str) -> None:
    assert name in vars(FuseOperations)


def test_there_are_handlers() -> None:
    assert {"lookup", "flush", "rename", "release", "forget"} <= set(HANDLERS)


@pytest.mark.parametrize(
    "name", [name for name in HANDLERS if inspect.iscoroutinefunction(vars(FuseOperations).get(name))]
)
async def test_no_handler_lets_anything_but_fuse_errors_out(name: str) -> None:
    """With a file system of which nothing works."""
    vfs = mock.MagicMock()
    broken = mock.Mock(side_effect=RuntimeError("broken"))
    for attribute in dir(Vfs):
        if not attribute.startswith("__"):
            setattr(vfs, attribute, broken)
    for group in ("files", "tree", "xattrs"):
        setattr(vfs, group, broken)
    handler = getattr(FuseOperations(vfs), name)
    arguments = [mock.MagicMock() for _ in inspect.signature(handler).parameters]
    try:
        await handler(*arguments)
    except pyfuse3.FUSEError:
        pass
    else:
        assert name in ("access", "forget")


@pytest.mark.parametrize(
    ("error", "number", "level"),
    [
        (NotFound("no"), errno.ENOENT, logging.DEBUG),
        (Denied("no"), errno.EACCES, logging.DEBUG),
        (Unavailable("no"), errno.EIO, logging.ERROR),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC, logging.ERROR),
        (KeyError("x"), errno.EIO, logging.ERROR),
        (ExceptionGroup("several", [ValueError("x")]), errno.EIO, logging.ERROR),
        (pyfuse3.FUSEError(errno.EBUSY), errno.EBUSY, None),
    ],
)
async def test_the_decorator(
    operations: FuseOperations,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    number: int,
    level: int | None,
) -> None:
    @fuse._handler
    async def failing(operations: FuseOperations) -> None:
        assert operations.in_progress == 1
        raise error

    with caplog.at_level(logging.DEBUG), pytest.raises(pyfuse3.FUSEError) as caught:
        await failing(operations)
    assert operations.in_progress == 0
    assert caught.value.errno == number
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])


async def test_lookups_tell_the_kernel_what_remains(operations: FuseOperations) -> None:
    there = await operations.lookup(1, b"a", None)
    assert there.st_size == 3
    assert 6 < there.attr_timeout <= 7
    absent = await operations.lookup(1, b"none", None)
    assert absent.st_ino == 0
    assert 6 < absent.entry_timeout <= 7
    operations._vfs._c.namespace._negative[1, "none"] -= 5
    assert (await operations.lookup(1, b"none", None)).entry_timeout < 2
    await operations.forget([(there.st_ino, 1)])
    assert len(operations._vfs._c.table) == 1


async def test_an_absence_that_does_not_hold_is_enoent(operations: FuseOperations) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.lookup(1, b"\xff", None)
    assert caught.value.errno == errno.ENOENT


async def test_unknown_handles_are_ebadf(operations: FuseOperations) -> None:
    for call in (operations.read(99, 0, 1), operations.flush(99), operations.fsyncdir(99, False)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await call
        assert caught.value.errno == errno.EBADF


async def test_a_read_only_mount_spares_the_kernel_the_question_at_close(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.put("a", b"1")
    vfs = Vfs(store.with_read_only(), TreeSettings(), staging_dir=tmp_path)
    operations = FuseOperations(vfs)
    entry = await operations.lookup(1, b"a", None)
    opened = await operations.open(entry.st_ino, os.O_RDONLY, None)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.flush(opened.fh)
    assert caught.value.errno == errno.ENOSYS
    await operations.release(opened.fh)


async def test_connected_is_called_once_the_answer_to_the_kernel_is_sent(operations: FuseOperations) -> None:
    called = trio.Event()
    operations = FuseOperations(operations._vfs, connected=called.set)
    operations.init()
    assert not called.is_set()
    await called.wait()


async def test_forgetting_what_is_not_there_ends_nothing(
    operations: FuseOperations, caplog: pytest.LogCaptureFixture
) -> None:
    entry = await operations.lookup(1, b"a", None)
    await operations.forget([(99, 1), (entry.st_ino, 5)])
    assert "taken back" in caplog.text


def test_importing_needs_no_fuse_device() -> None:
    code = """
import builtins, os, sys
def refuse(event, arguments):
    if event == "open" and arguments[0] == "/dev/fuse":
        os._exit(7)
sys.addaudithook(refuse)
import zarrmount.fuse
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
