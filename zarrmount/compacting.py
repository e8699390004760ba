"""What ``zarrmount compact`` does: rewrite a zip archive without the bytes that nothing in it needs.

It works in the main thread, so that an interrupt ends it anywhere; until its last step, one rename,
the archive is untouched.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

from rich.filesize import decimal

from stores.errors import BadLocation, Denied, NoSpace, StoreError
from stores.opening import open_store
from stores.urls import redact
from stores.zipped import ZipStore
from stores.zipped.inflate import STORED
from stores.zipped.session import Session
from zarrmount import registry
from zarrmount.progress import Progress, RateMeter

__all__ = ["Compacted", "compact"]

_SHOW_EVERY = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What came of it.

    Attributes
    ----------
    path : Path
        The archive.
    before, pending, after : int
        Bytes of the archive before; of the changes that waited beside it; of the archive now.
    """

    path: Path
    before: int
    pending: int
    after: int

    def in_words(self) -> str:
        """Tell it in one line."""
        before = f"{self.path}: {decimal(self.before)}"
        if self.pending:
            before += f" and {decimal(self.pending)} pending"
        elif self.before == self.after:
            return f"{before}, nothing to reclaim"
        reclaimed = decimal(max(0, self.before + self.pending - self.after))
        return f"{before} before, {decimal(self.after)} after, {reclaimed} reclaimed"


def compact(archive: str, show: Callable[[Progress], None]) -> Compacted:
    """Bring what is pending into an archive, and leave out what was deleted or replaced.

    Parameters
    ----------
    archive : str
        As it was typed: a path, or a ``file:`` URL.
    show : callable
        Given how far it is, several times a second.

    Raises
    ------
    BadLocation
        If it is no zip archive, or on another machine.
    NotFound
        If it is not there.
    Denied
        If another process, such as a mount, is writing it.
    NoSpace
        If there is no room for the new archive beside the old one, which is untouched.
    StoreError
        As it says; the archive is untouched, and what was pending still is.
    """
    path = _local_path(archive)
    try:
        session = Session(path, "a", create=False, compression=STORED)
    except Denied as error:
        raise _who_writes(error) from error
    try:
        before, pending = path.stat().st_size, session.pending_bytes
        if not session.is_compact():
            session.merge(compact=True, tell=_telling(show))
    except NoSpace as error:
        session.close(merge=False)
        raise NoSpace(
            f"there is no room beside it for the new archive; it is as it was ({error.message})",
            key=str(path),
        ) from error
    except BaseException:
        session.close(merge=False)
        raise
    session.close()
    return Compacted(path=path, before=before, pending=pending, after=path.stat().st_size)


def _local_path(archive: str) -> Path:
    is_url = "://" in archive and not archive.lower().startswith("file:")
    if is_url or archive.startswith("python:"):
        raise BadLocation(
            f"only an archive on this machine can be compacted, not {redact(archive)!r}: copy it here first"
        )
    store = open_store(archive)
    if not isinstance(store, ZipStore):
        raise BadLocation(f"{archive!r} is no zip archive")
    return Path(os.path.realpath(store.location))


def _who_writes(error: Denied) -> StoreError:
    """Say how to unmount it, if it is a mount that is writing."""
    for mount in registry.all_running():
        if mount.alive and f"(pid {mount.pid})" in error.message:
            remedy = f"unmount it first: zarrmount umount {mount.mountpoint}"
            return Denied(f"{error.message}; {remedy}", key=error.key)
    return error


def _telling(show: Callable[[Progress], None]) -> Callable[[int, int], None]:
    """Return what shows the progress of a merge, though not every step of it."""
    meter, following = RateMeter(), 0.0

    def tell(done: int, total: int) -> None:
        nonlocal following
        now = time.monotonic()
        if now >= following:
            following = now + _SHOW_EVERY
            show(Progress(done_bytes=done, total_bytes=total, rate=meter.rate(done)))

    return tell
