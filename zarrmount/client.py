"""Talking to a running mount from another process (blocking)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from zarrmount import registry
from zarrmount.control import Message, Request
from zarrmount.progress import Progress
from zarrmount.registry import RunningMount

__all__ = ["ClientError", "NotWaitedForError", "unmount", "wait_until_it_answers"]

_EXIT_TIMEOUT = 30.0


class ClientError(Exception):
    """What a person should read.

    Attributes
    ----------
    failed : dict
        Keys that could not be stored, each with the reason or the place where its bytes are.
    """

    def __init__(self, message: str, failed: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.failed = failed or {}


class NotWaitedForError(ClientError):
    """The command was interrupted, and how the mount is without it."""


def unmount(
    mountpoint: Path,
    *,
    force: bool,
    tell: Callable[[str], None],
    show: Callable[[Progress], None],
) -> None:
    """Unmount a store; return when all is stored, the directory is free and the process is gone.

    An interrupt (Ctrl-C) ends the waiting, and leaves the mount as it is.

    Parameters
    ----------
    mountpoint : Path
        Absolute.
    force : bool
        Unmount although it is in use, or although something could not be stored.
    tell : callable
        Given lines for a person.
    show : callable
        Given how far it is, several times a second, while it stores what is not stored yet.

    Raises
    ------
    NotWaitedForError
        If it was interrupted.
    ClientError
        If it is not mounted, or something could not be stored, or it is in use.
    """
    mount = registry.find(mountpoint)
    mounted_as = registry.fuse_mounts().get(str(mountpoint))
    if mount is None or not mount.alive:
        _clear_dead(mountpoint, mount, mounted_as, tell)
        return
    try:
        with Request(mount.socket, {"do": "unmount", "force": force}) as request:
            last = _follow(request, mount, show)
    except OSError as error:
        raise ClientError(
            f"the process of the mount ({mount.pid}) does not answer ({error}); its log: {mount.log}"
        ) from error
    if "left" in last:
        raise NotWaitedForError(f"{mountpoint} stays mounted; {_files(last['left'])} not stored yet")
    if "error" in last:
        raise ClientError(f"{mountpoint}: {last['error']}", last.get("failed"))
    _wait_for_exit(mount)
    if last.get("saved"):
        raise ClientError("unmounted, but not everything could be stored", last["saved"])


def _follow(request: Request, mount: RunningMount, show: Callable[[Progress], None]) -> Message:
    """Return the last answer; an interrupt cancels the request, a second one is not caught."""
    cancelled = False

    def cancel(_number: int, _frame: object) -> None:
        nonlocal cancelled
        cancelled = True
        signal.signal(signal.SIGINT, before)
        request.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        for message in request:
            if message.get("done"):
                return message
            if "progress" in message:
                show(Progress(**message["progress"]))
    except TimeoutError as error:
        if not cancelled:
            raise
        raise NotWaitedForError(
            f"not waited for: {mount.mountpoint} goes on ending (process {mount.pid}, log {mount.log})"
        ) from error
    finally:
        signal.signal(signal.SIGINT, before)
    raise AssertionError("the answers end with one that is the last")


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"


def _clear_dead(
    mountpoint: Path, mount: RunningMount | None, mounted_as: str | None, tell: Callable[[str], None]
) -> None:
    """Take a mount off whose process has died."""
    if mounted_as != registry.FUSE_TYPE:
        if mount is not None:
            registry.withdraw(mount.pid)
        raise ClientError(f"{mountpoint}: no zarrmount is mounted there")
    command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    done = subprocess.run([*command, "--", str(mountpoint)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClientError(f"{mountpoint}: {done.stderr.strip()}")
    tell(f"the process that served {mountpoint} had died; the dead mount is cleared")
    if mount is not None:
        registry.withdraw(mount.pid)
        if mount.log:
            tell(f"its log: {mount.log}")


def _wait_for_exit(mount: RunningMount) -> None:
    """Wait until the process is gone: only then are the store and its files let go of."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(mount.pid, os.WNOHANG)
    end = time.monotonic() + _EXIT_TIMEOUT
    while mount.alive and time.monotonic() < end:
        time.sleep(0.01)


def wait_until_it_answers(mountpoint: Path, seconds: float) -> bool:
    """Return whether a mount answers a ``stat`` in time; never hangs with it."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError):
            mountpoint.stat()
            answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)
