"""Which directories a store can be mounted on."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from stores.errors import BadLocation
from zarrmount import registry
from zarrmount.config import MountConfig

__all__ = ["check_mountpoint"]


def check_mountpoint(config: MountConfig) -> None:
    """Raise BadLocation, in a person's words, where a directory cannot be mounted on."""
    path = config.mountpoint
    root = _local_root(config.location)
    if root is not None and (path == root or root in path.parents):
        raise BadLocation("the mount point is inside the store; choose a directory elsewhere", key=str(path))
    mounted_as = registry.fuse_mounts().get(str(path))
    if mounted_as == registry.FUSE_TYPE:
        raise BadLocation(f"something is mounted there already; zarrmount umount {path}", key=str(path))
    try:
        entries = any(path.iterdir())
    except FileNotFoundError:
        raise BadLocation(f"there is no such directory to mount on; mkdir -p {path}", key=str(path)) from None
    except NotADirectoryError:
        raise BadLocation("the mount point is not a directory", key=str(path)) from None
    except PermissionError:
        raise BadLocation("the mount point may not be read by you", key=str(path)) from None
    except OSError as error:
        raise BadLocation(
            f"the mount point does not answer ({error.strerror}); fusermount3 -u {path}", key=str(path)
        ) from None
    if entries and not config.nonempty:
        raise BadLocation(
            "the mount point is not empty; choose another, or add --nonempty to hide what is in it",
            key=str(path),
        )


def _local_root(location: str) -> Path | None:
    """Return the directory that a location names, if it names one."""
    if location.startswith("file://"):
        return Path(unquote(urlsplit(location).path)).resolve()
    path = Path(location).expanduser()
    return path.resolve() if path.exists() else None
