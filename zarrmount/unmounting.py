"""Taking a FUSE mount off its directory, and who keeps it busy."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import trio

__all__ = ["detach", "users_of"]


async def detach(mountpoint: str, *, lazy: bool = False) -> str | None:
    """Unmount a directory.

    Parameters
    ----------
    mountpoint : str
        The directory.
    lazy : bool
        Take it out of sight at once, and off when its last user has gone.

    Returns
    -------
    str or None
        What went wrong, in the words of ``fusermount3``; None when it is unmounted.
    """
    command = ["umount"] if os.geteuid() == 0 and shutil.which("umount") else ["fusermount3", "-u"]
    if lazy:
        command.append("-l" if command[0] == "umount" else "-z")
    done = await trio.run_process(
        [*command, "--", mountpoint], capture_stdout=True, capture_stderr=True, check=False
    )
    if done.returncode == 0:
        return None
    return done.stderr.decode(errors="replace").strip() or f"{command[0]} ended with {done.returncode}"


def users_of(mountpoint: str, own_pid: int) -> list[str]:
    """Return the processes that have something open below a mount point, as ``name (pid)``."""
    prefix = mountpoint.rstrip("/") + "/"
    users = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == own_pid:
            continue
        if any(path == mountpoint or path.startswith(prefix) for path in _open_paths(process)):
            users.append(f"{_name_of(process)} ({process.name})")
    return users


def _open_paths(process: Path) -> list[str]:
    links = [process / "cwd", process / "root", process / "exe"]
    paths = []
    with suppress(OSError):  # another user's process: what can be seen of it must do
        links += list((process / "fd").iterdir())
    for link in links:
        with suppress(OSError):
            paths.append(str(link.readlink()))
    return paths


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"
