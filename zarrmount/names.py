"""What all calls on names have in common: what may be changed, and within which time."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from stores.errors import NotFound, ReadOnly
from stores.keys import MAX_NAME_BYTES, unusable_name
from zarrmount.context import Context
from zarrmount.errors import deadline, os_error
from zarrmount.files import Files
from zarrmount.inodes import Inode
from zarrmount.storing import Storing

__all__ = ["NameCalls", "going"]

Result = TypeVar("Result")


class NameCalls:
    """Base of the calls on names of one mounted tree."""

    def __init__(self, context: Context, files: Files, storing: Storing) -> None:
        self._c = context
        self._files = files
        self._storing = storing

    async def _existing(self, parent: Inode, name: str) -> Inode | None:
        try:
            return await self._c.namespace.child(parent, name)
        except NotFound:
            return None

    def _check_name(self, name: str) -> None:
        if unusable_name(name) is not None:
            raise os_error(
                errno.ENAMETOOLONG
                if len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES
                else errno.EINVAL
            )

    def _check_writable(self, key: str) -> None:
        if self._c.store.read_only:
            raise ReadOnly("the store is read-only", key=key)

    def _soon(self) -> float:
        return trio.current_time() + self._c.settings.metadata_ttl

    async def _within_deadline(self, key: str, call: Awaitable[Result]) -> Result:
        with deadline(self._c.settings.write_timeout, key):
            return await call

    def _doubt(self, inode: Inode | None) -> None:
        """Believe nothing any more that the store said of an inode and what is below it."""
        if inode is None:
            return
        self._c.namespace.doubt(inode)
        if inode.is_dir:
            self._c.namespace.moved(inode)
        for child in inode.children.values():
            self._doubt(child)

    def _keep_dir(self, directory: Inode) -> None:
        """Let a directory live on after its last key went, where the store would drop it."""
        node: Inode | None = directory
        while node is not None and not self._c.store.capabilities.directories:
            node.kept = True
            node = node.parent


@contextmanager
def going(inode: Inode) -> Iterator[None]:
    """Let nobody open a file while it is being removed: what opens it too late would read nothing."""
    inode.going = trio.Event()
    try:
        yield
    finally:
        inode.going.set()
        inode.going = None
