"""All contenders, in the order of the tables."""

from __future__ import annotations

from benchmarks.contenders.base import Contender
from benchmarks.contenders.direct import Obstore, ZarrPython
from benchmarks.contenders.floor import Floor
from benchmarks.contenders.fsspec_fuse import FsspecFuse
from benchmarks.contenders.ratarmount import Ratarmount
from benchmarks.contenders.rclone import Rclone, TunedRclone
from benchmarks.contenders.s3fs import S3fs
from benchmarks.contenders.zarrmount import Zarrmount

CONTENDERS: tuple[Contender, ...] = (
    Zarrmount(),
    Rclone(),
    TunedRclone(),
    S3fs(),
    Ratarmount(),
    FsspecFuse(),
    Floor(),
    Obstore(),
    ZarrPython(),
)

__all__ = ["CONTENDERS", "Contender"]
