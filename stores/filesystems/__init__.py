"""Everything that fsspec reaches."""

from stores.filesystems.store import FsspecStore

__all__ = ["FsspecStore"]
