"""Everything that one ``zarrmount mount`` was told, checked and frozen before anything is done."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from stores.opening import Backend
from zarrmount.settings import TreeSettings

__all__ = ["MountConfig", "runtime_directory", "state_directory"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MountConfig:
    """One mount.

    Attributes
    ----------
    location : str
        The store, as it was typed.
    mountpoint : Path
        Absolute.
    storage_options : mapping
        For the store's backend; may hold secrets: never print it.
    backend : str
        ``auto``, ``obstore`` or ``fsspec``.
    max_connections : int
        Requests to the store that may be under way at once.
    read_only, create : bool
        Whether to refuse changes; whether to make a missing local store.
    nonempty : bool
        Mount over a directory that holds something.
    kernel_options : frozenset of str
        Handed to the kernel or libfuse as they are (``noatime``, ``allow_other``, ...).
    tree : TreeSettings
        How the tree looks and behaves.
    cache_bytes, staging_bytes : int
        Memory for blocks that were read, and for bytes that were written.
    staging_dir : Path
        For written bytes beyond that, for the journal, and for what could not be stored.
    max_dirty : int
        Written bytes that may wait to be stored.
    cache_dir : Path or None
        Where to keep what was read, for this mount and the next ones.
    max_cache_size, min_free_space : int
        Bytes that may be kept there, and that are left free on that disk.
    immutable : bool
        Whether the store is promised not to change.
    drain_timeout : float
        Seconds to go on storing at the end of the mount.
    """

    location: str
    mountpoint: Path
    storage_options: Mapping[str, object] = dataclasses.field(default_factory=dict, repr=False)
    backend: Backend = "auto"
    max_connections: int = 64
    read_only: bool = False
    create: bool = False
    nonempty: bool = False
    kernel_options: frozenset[str] = frozenset()
    tree: TreeSettings = dataclasses.field(default_factory=TreeSettings)
    cache_bytes: int = 128 << 20
    staging_bytes: int = 64 << 20
    staging_dir: Path = dataclasses.field(default_factory=lambda: state_directory() / "staging")
    max_dirty: int = 16 << 30
    cache_dir: Path | None = None
    max_cache_size: int = 10 << 30
    min_free_space: int = 1 << 30
    immutable: bool = False
    drain_timeout: float = 300.0


def state_directory() -> Path:
    """Return where logs and staged bytes are kept (``XDG_STATE_HOME``; ``/var/lib`` for root)."""
    if "XDG_STATE_HOME" in os.environ:
        return Path(os.environ["XDG_STATE_HOME"]) / "zarrmount"
    if os.geteuid() == 0:
        return Path("/var/lib/zarrmount")
    return Path.home() / ".local" / "state" / "zarrmount"


def runtime_directory() -> Path:
    """Return where running mounts leave word of themselves (``XDG_RUNTIME_DIR``; ``/run`` for root)."""
    if os.geteuid() == 0:
        return Path("/run/zarrmount")
    if "XDG_RUNTIME_DIR" in os.environ:
        return Path(os.environ["XDG_RUNTIME_DIR"]) / "zarrmount"
    return Path(f"/tmp/zarrmount-{os.geteuid()}")  # noqa: S108 (made 0700 and checked for its owner)
