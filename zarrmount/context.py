"""What all parts of one mounted tree share."""

from __future__ import annotations

import dataclasses

from stores.base import Store
from zarrmount.background import Background
from zarrmount.handles import HandleTable
from zarrmount.inode_table import InodeTable
from zarrmount.locks import SharedLock
from zarrmount.lookups import Lookups
from zarrmount.namespace import Namespace
from zarrmount.objects.reader import ReaderPool
from zarrmount.objects.staging import Staging
from zarrmount.settings import TreeSettings

__all__ = ["Context"]


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """The parts of one mounted tree.

    Attributes
    ----------
    shape : SharedLock
        Shared by everything that acts on a key; held alone while a directory is renamed, because
        that changes the keys of all that is below it.  Taken before any inode's own lock.
    """

    store: Store
    settings: TreeSettings
    table: InodeTable
    handles: HandleTable
    namespace: Namespace
    staging: Staging
    readers: ReaderPool
    lookups: Lookups
    background: Background
    shape: SharedLock
