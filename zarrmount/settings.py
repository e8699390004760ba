"""What a mounted tree is asked to be like; plain values, decided before mounting."""

from __future__ import annotations

import dataclasses
import os

__all__ = ["INDEFINITE", "TreeSettings"]

INDEFINITE = 10.0 * 365 * 86400
"""Seconds that no mount will see the end of."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TreeSettings:
    """How the tree of a store looks and behaves.

    Attributes
    ----------
    uid, gid : int or None
        Owner of everything; None: as the store says, else whoever mounts.
    dir_mode, file_mode : int or None
        Permission bits; None: as the store says, else 0755 and 0644.
    umask : int
        Bits taken from the modes of all files and directories, as they are shown.
    metadata_ttl : float
        Seconds for which what the store said of a key is told again without asking.
    read_timeout, write_timeout : float
        Seconds after which a request that reads, or the storing of one file, is an error.
    overwrite_conflicts : bool
        At close, replace what somebody else stored under the key since it was opened, instead of
        failing with ESTALE.
    rename_wait : float
        Seconds for which a new file with a temporary name waits for its rename before it is stored,
        on a store that cannot rename; 0: it is stored when it is closed, as all others.
    writeback : float or None
        Seconds for which a closed file may wait in the journal before it is stored; None: it is
        stored when it is closed.
    """

    uid: int | None = None
    gid: int | None = None
    dir_mode: int | None = None
    file_mode: int | None = None
    umask: int = 0
    metadata_ttl: float = 1.0
    read_timeout: float = 60.0
    write_timeout: float = 120.0
    overwrite_conflicts: bool = False
    rename_wait: float = 5.0
    writeback: float | None = None

    @property
    def owner(self) -> tuple[int, int]:
        """The uid and gid for a store that keeps none."""
        return (
            os.getuid() if self.uid is None else self.uid,
            os.getgid() if self.gid is None else self.gid,
        )
