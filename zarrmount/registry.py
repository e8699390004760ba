"""Word that running mounts leave of themselves, for ``zarrmount umount`` to find them."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

from zarrmount.config import runtime_directory

__all__ = ["RunningMount", "all_running", "announce", "find", "fuse_mounts", "withdraw"]

FUSE_TYPE = "fuse.zarrmount"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunningMount:
    """One mount of ours.

    Attributes
    ----------
    pid : int
        Of the process that serves it.
    mountpoint, location : str
        Where it is, and what is mounted (without secrets).
    socket : str
        Path of its control socket.
    log : str or None
        Path of its log file.
    """

    pid: int
    mountpoint: str
    location: str
    socket: str
    log: str | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is still there; one that has ended and is not buried yet is not."""
        try:
            after_name = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return after_name.split()[0] not in ("Z", "X")


def own_directory() -> Path:
    """Return the runtime directory, made safely.

    Raises
    ------
    PermissionError
        If somebody else made it: nothing in it could be trusted.
    """
    directory = runtime_directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{directory} belongs to somebody else; remove it, or set XDG_RUNTIME_DIR")
    return directory


def announce(mount: RunningMount) -> None:
    """Leave word of a mount."""
    target = own_directory() / f"{mount.pid}.json"
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(dataclasses.asdict(mount)))
    temporary.replace(target)


def withdraw(pid: int) -> None:
    """Take back the word of a mount."""
    (runtime_directory() / f"{pid}.json").unlink(missing_ok=True)
    (runtime_directory() / f"{pid}.sock").unlink(missing_ok=True)


def all_running() -> list[RunningMount]:
    """Return the mounts that left word, including those whose process died."""
    found = []
    for path in sorted(runtime_directory().glob("*.json")):
        try:
            found.append(RunningMount(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue  # half written, or of another version: not a mount that can be talked to
    return found


def find(mountpoint: Path) -> RunningMount | None:
    """Return the mount on a directory: a living one before dead ones."""
    matching = [mount for mount in all_running() if mount.mountpoint == str(mountpoint)]
    return max(matching, key=lambda mount: mount.alive, default=None)


def fuse_mounts() -> dict[str, str]:
    """Return what the kernel has mounted: file system type by mount point."""
    mounts = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mounts[_unescape(before.split()[4])] = after.split()[0]
    return mounts


def _unescape(path: str) -> str:
    """Undo the kernel's octal escapes of blanks and backslashes."""
    for code in ("040", "011", "012", "134"):
        path = path.replace("\\" + code, chr(int(code, 8)))
    return path
