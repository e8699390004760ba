"""What every journal on this machine's disk has: lines that tell when they are whole, and one writer."""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stores.errors import Denied
from stores.files import FileHandle

__all__ = ["WriterLock", "decode_lines", "encode_line"]

_LOCK = "lock"


def encode_line(record: dict[str, Any]) -> bytes:
    """Return a line of a log that holds `record` and its checksum."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode_lines(log: bytes) -> Iterator[tuple[int, int, Any]]:
    """Iterate over the lines of a log: where each starts and ends, and its record.

    The record is None for a line that is not what was written.  A last line without its end is
    none: a crash cut it short.
    """
    at = 0
    while (end := log.find(b"\n", at) + 1) > 0:
        text = log[at + 9 : end - 1]
        whole = log[at : at + 9] == b"%08x " % zlib.crc32(text)
        yield at, end, json.loads(text) if whole else None
        at = end


class WriterLock:
    """The right to change what a directory holds, for one process at a time; it ends with the process.

    It is the file ``lock`` in the directory, locked (flock), which holds the number of the process.

    Parameters
    ----------
    directory : Path
        Made when the lock is taken.
    refusal : str
        What to say if another has it.
    """

    def __init__(self, directory: Path, refusal: str) -> None:
        self._path = directory / _LOCK
        self._refusal = refusal
        self._handle: FileHandle | None = None

    def acquire(self) -> None:
        """Make the directory and take the lock.

        Raises
        ------
        Denied
            If another has it.
        OSError
            If the directory cannot be made.
        """
        while self._handle is None:
            self._path.parent.mkdir(0o700, exist_ok=True)
            try:
                handle = FileHandle.open(self._path, os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:
                continue  # the one before us has just removed the directory
            if not _try_lock(handle, fcntl.LOCK_EX):
                if _try_lock(handle, fcntl.LOCK_SH):
                    continue  # it was only being looked at, for an instant: see `holder`
                raise Denied(f"{self._refusal} (pid {_process_in(handle)})")
            if self._is_named(handle):
                os.ftruncate(handle.fd, 0)
                handle.write(0, b"%d\n" % os.getpid())
                self._handle = handle

    def _is_named(self, handle: FileHandle) -> bool:
        """Whether the file locked is still the one that others would lock."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(handle.fd))

    def release(self) -> None:
        """Let go of it, and remove the directory if nothing waits in it."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        if list(self._path.parent.iterdir()) == [self._path]:
            self._path.unlink()
            self._path.parent.rmdir()
        del handle

    @staticmethod
    def holder(directory: Path) -> str | None:
        """Return the number of the process that has the lock of a directory, None if nobody has."""
        try:
            handle = FileHandle.open(directory / _LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return None
        return None if _try_lock(handle, fcntl.LOCK_SH) else _process_in(handle)


def _try_lock(handle: FileHandle, kind: int) -> bool:
    try:
        fcntl.flock(handle.fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _process_in(handle: FileHandle) -> str:
    return handle.read(0, 32).decode("ascii", "replace").strip() or "unknown"
