"""The life of a mount: start, ready, serve, drain, unmount.

1. Nothing is mounted before the store has answered; nothing stays mounted when
   the start fails.
2. Services (signals, the control socket) live in a nursery around
   ``pyfuse3.main()``, so that they outlive the requests.
3. The end is the same for ``zarrmount umount``, a signal and ``fusermount3
   -u``: store what is dirty, take the mount off, store again (shielded, with a
   deadline of its own), save what could not be stored where a person finds
   it, close the store, and say so in the exit status.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pyfuse3
import trio

from stores.base import Store
from stores.errors import StoreError
from zarrmount import registry
from zarrmount.config import MountConfig
from zarrmount.control import Message, serve_control
from zarrmount.errors import deadline
from zarrmount.fuse import FuseOperations
from zarrmount.unmounting import detach, users_of
from zarrmount.vfs import Vfs
from zarrmount.zarr.hinted import HintedStore

__all__ = ["Mount", "run_mount"]

log = logging.getLogger(__name__)

_OPEN_TIMEOUT = 60.0
_MOST_REQUESTS = 1000
_RETRY_DRAIN = 1.0


def run_mount(config: MountConfig, store: Store, *, ready: Callable[[], None], log_file: Path | None) -> int:
    """Mount a store and serve it until it is unmounted.

    Parameters
    ----------
    config : MountConfig
        What to mount where.
    store : Store
        The store, not opened yet.
    ready : callable
        Called once the mount is there.
    log_file : Path or None
        Told to whoever asks for the mount's log.

    Returns
    -------
    int
        Exit status: 0, or 1 if something could not be stored.

    Raises
    ------
    StoreError, OSError
        If it could not be mounted; nothing is mounted then.
    """
    return trio.run(Mount(config, store, ready, log_file).run)


class Mount:
    """One mount, from its start to its end."""

    def __init__(
        self, config: MountConfig, store: Store, ready: Callable[[], None], log_file: Path | None
    ) -> None:
        self._config = config
        self._store = store
        self._ready = ready
        self._log_file = log_file
        self._mountpoint = str(config.mountpoint)
        self._vfs: Vfs | None = None
        self._finished = trio.Event()
        self._conversations = 0
        self._told = trio.Event()
        self._told.set()
        self._failed: dict[str, str] = {}
        self._impatient = trio.Event()

    async def run(self) -> int:
        """Do all of it; see `run_mount`."""
        with deadline(_OPEN_TIMEOUT, self._store.location):
            await self._store.open()
            if not self._store.capabilities.listable:
                self._store = HintedStore(self._store)
                await self._store.open()
        try:
            await self._serve()
        finally:
            with trio.CancelScope(shield=True):
                await self._close_store()
        return 1 if self._failed else 0

    @property
    def vfs(self) -> Vfs:
        """The file system, once it is mounted."""
        if self._vfs is None:
            raise RuntimeError("not mounted yet")
        return self._vfs

    async def _serve(self) -> None:
        config = self._config
        self._vfs = Vfs(
            self._store,
            config.tree,
            staging_dir=config.staging_dir,
            cache_bytes=config.cache_bytes,
            staging_bytes=config.staging_bytes,
        )
        pyfuse3.init(FuseOperations(self._vfs), self._mountpoint, self._fuse_options())
        try:
            async with trio.open_nursery() as services:
                await services.start(self._watch_signals)
                await services.start(serve_control, self._socket_path(), self._answer)
                registry.announce(self._word())
                log.info("mounted %s on %s", self._store.location, self._mountpoint)
                self._ready()
                await pyfuse3.main(min_tasks=1, max_tasks=_MOST_REQUESTS)
                log.info("%s is unmounted", self._mountpoint)
                await self._end()
                services.cancel_scope.cancel()
        finally:
            registry.withdraw(os.getpid())
            pyfuse3.close(unmount=True)

    def _fuse_options(self) -> set[str]:
        options = {"default_permissions", "subtype=zarrmount", *self._config.kernel_options}
        options.add("fsname=" + self._store.location.replace(",", "\\,"))
        if self._store.read_only:
            options.add("ro")
        return options

    def _word(self) -> registry.RunningMount:
        return registry.RunningMount(
            pid=os.getpid(),
            mountpoint=self._mountpoint,
            location=self._store.location,
            socket=str(self._socket_path()),
            log=str(self._log_file) if self._log_file else None,
        )

    def _socket_path(self) -> Path:
        return registry.own_directory() / f"{os.getpid()}.sock"

    # -- the end -------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Store what is left, save what cannot be stored, and let the control socket tell."""
        with trio.CancelScope(shield=True):
            await self._drain(self._config.drain_timeout)
            await self._rescue()
            await self._close_store()
            self._finished.set()
            with trio.move_on_after(5):
                await self._told.wait()

    async def _drain(self, seconds: float) -> dict[str, StoreError]:
        """Try to store what is dirty until it is stored, or time or patience is over."""
        failed: dict[str, StoreError] = {}
        with trio.move_on_after(seconds):
            while True:
                failed = await self.vfs.store_everything()
                if not failed or self._impatient.is_set():
                    break
                with trio.move_on_after(_RETRY_DRAIN):
                    await self._impatient.wait()
        return failed

    async def _rescue(self) -> None:
        """Save what could not be stored as plain files, and name them in the log."""
        if not self.vfs.dirty():
            return
        stamp = time.strftime("%Y%m%dT%H%M%S")
        directory = self._config.staging_dir / "unsaved" / f"{stamp}-{os.getpid()}"
        for key, path in (await self.vfs.rescue(directory)).items():
            self._failed[key] = str(path)
            log.error("%r could not be stored; its bytes are in %s", key, path)
        for key, _ in self.vfs.dirty():
            self._failed.setdefault(key, "lost: it could be neither stored nor saved")

    async def _close_store(self) -> None:
        try:
            await self._store.aclose()
        except StoreError as error:
            log.error("closing the store failed: %s", error)
            self._failed.setdefault(error.key or self._store.location, str(error))

    # -- signals -------------------------------------------------------------------------------

    async def _watch_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async with trio.open_nursery() as nursery:
                stopping = False
                async for number in signals:
                    log.info("received %s", signal.Signals(number).name)
                    if stopping:
                        self._impatient.set()
                    else:
                        stopping = True
                        nursery.start_soon(self._stop)

    async def _stop(self) -> None:
        """End because a signal said so: the mount goes, whoever uses it."""
        failed = await self._drain(self._config.drain_timeout)
        if failed:
            log.error("%d files could not be stored before the end", len(failed))
        problem = await detach(self._mountpoint)
        if problem is not None:
            log.warning("%s: %s; in use by %s", self._mountpoint, problem, self._users())
            await detach(self._mountpoint, lazy=True)
            pyfuse3.terminate()

    def _users(self) -> str:
        return ", ".join(users_of(self._mountpoint, os.getpid())) or "nobody that can be seen"

    # -- the control socket --------------------------------------------------------------------

    async def _answer(self, message: Message) -> AsyncIterator[Message]:
        if not self._conversations:
            self._told = trio.Event()
        self._conversations += 1
        try:
            if message.get("do") == "unmount":
                async for answer in self._unmount(force=bool(message.get("force"))):
                    yield answer
            elif message.get("do") == "ping":
                yield {"done": True, "dirty": self.vfs.dirty()}
            else:
                yield {"done": True, "error": f"unknown request {message.get('do')!r}"}
        finally:
            self._conversations -= 1
            if not self._conversations:
                self._told.set()

    async def _unmount(self, *, force: bool) -> AsyncIterator[Message]:
        """Store everything, take the mount off, and tell how it went; stays mounted on failure."""
        dirty = self.vfs.dirty()
        if dirty:
            yield {"storing": len(dirty), "bytes": sum(size for _, size in dirty)}
        failed = await self.vfs.store_everything()
        if failed and not force:
            yield {
                "done": True,
                "error": "not everything could be stored; the mount stays",
                "failed": {key: error.message for key, error in failed.items()},
            }
            return
        if force:
            self._impatient.set()  # whoever forces it does not wait for a store that fails to recover
        problem = await detach(self._mountpoint)
        if problem is not None and not force:
            yield {
                "done": True,
                "error": f"{problem}; in use by {await trio.to_thread.run_sync(self._users)}",
            }
            return
        if problem is not None:
            await detach(self._mountpoint, lazy=True)
            pyfuse3.terminate()
        await self._finished.wait()
        yield {"done": True, "saved": self._failed}
