"""The life of a mount: start, ready, serve, drain, unmount.

1. Nothing is mounted before the store has answered; nothing stays mounted when
   the start fails.
2. Services (signals, the control socket) live in a nursery around
   ``pyfuse3.main()``, so that they outlive the requests.
3. The end is the same for ``zarrmount umount``, a signal and ``fusermount3
   -u``: store what is dirty, take the mount off, store again (shielded, with a
   deadline of its own), save what could not be stored where a person finds
   it, close the store, and say so in the exit status.
4. A second signal stops all waiting for the store.  Whoever cancels
   ``zarrmount umount`` stops nothing: what is being stored goes on, and the
   mount stays.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyfuse3
import trio

from stores.base import Store
from stores.errors import Denied, StoreError
from zarrmount import registry
from zarrmount.cache.directory import CacheDirectory
from zarrmount.cache.disk import DiskCache, why_useless
from zarrmount.config import MountConfig
from zarrmount.control import Conversation, serve_control
from zarrmount.errors import deadline
from zarrmount.fuse import FuseOperations
from zarrmount.identity import identity
from zarrmount.kernel import raise_readahead
from zarrmount.objects.journal import Journal, journal_directory
from zarrmount.progress import Progress, StoringMeter, in_words
from zarrmount.unmounting import detach, users_of
from zarrmount.vfs import Vfs
from zarrmount.zarr.hinted import HintedStore

__all__ = ["Mount", "run_mount"]

log = logging.getLogger(__name__)

_OPEN_TIMEOUT = 60.0
_MOST_REQUESTS = 1000
_RETRY_DRAIN = 1.0
_TELL_EVERY = 0.25
_FIRST_LOG_LINE = 1.0
_LOG_EVERY = 5.0


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
    # Each open file may hold one of ours: the soft limit is meant for programs that use select(2).
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
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
        self._journal: Journal | None = None
        self._finished = trio.Event()
        self._conversations = 0
        self._told = trio.Event()
        self._told.set()
        self._failed: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._one_at_a_time = trio.Lock()
        self._forced = False
        self._off = trio.Event()
        self._impatient = trio.Event()
        self._serving = trio.CancelScope()

    async def run(self) -> int:
        """Do all of it; see `run_mount`."""
        with deadline(_OPEN_TIMEOUT, self._store.location):
            await self._store.open()
            if not self._store.capabilities.listable:
                self._store = HintedStore(self._store)
                await self._store.open()
        try:
            self._journal = self._open_journal()
            await self._serve()
        finally:
            with trio.CancelScope(shield=True):
                await self._close_store()
            if self._vfs is not None:
                self._vfs.close()
            if self._journal is not None:
                self._journal.close()
        return 1 if self._failed else 0

    def _open_journal(self) -> Journal | None:
        """Open the journal of the store, if this mount writes back or an earlier one left something."""
        config = self._config
        directory = journal_directory(config.staging_dir, identity(config.location, config.storage_options))
        waiting = Journal.peek(directory)
        writes_back = config.tree.writeback is not None
        if self._store.read_only:
            if waiting:
                log.warning("%d files wait to be stored; zarrmount recover %s", len(waiting), config.location)
            return None
        if not (writes_back or waiting):
            return None
        try:
            journal = Journal.open(directory, self._store.location)
        except Denied as error:
            if writes_back:
                raise
            log.info("what waits in the journal is left alone: %s", error)
            return None
        if waiting:
            log.warning("storing %d files that an earlier mount left in %s", len(waiting), directory)
        return journal

    def _disk_cache(self) -> DiskCache | None:
        """Return the disk cache, if one is asked for and is of use."""
        config = self._config
        if config.cache_dir is None:
            return None
        useless = why_useless(config.location, self._store)
        if useless is not None:
            log.warning("--cache is not used: %s", useless)
            return None
        directory = CacheDirectory(config.cache_dir, config.max_cache_size, config.min_free_space)
        store = identity(config.location, config.storage_options)
        return DiskCache(directory, store, immutable=config.immutable)

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
            max_dirty=config.max_dirty,
            journal=self._journal,
            disk=self._disk_cache(),
        )
        self._vfs.resume()
        operations = FuseOperations(self._vfs, connected=lambda: raise_readahead(self._mountpoint))
        pyfuse3.init(operations, self._mountpoint, self._fuse_options())
        try:
            async with trio.open_nursery() as services:
                await services.start(self._watch_signals)
                await services.start(self._vfs.run)
                await services.start(serve_control, self._socket_path(), self._answer)
                registry.announce(self._word())
                log.info("mounted %s on %s", self._store.location, self._mountpoint)
                self._ready()
                with self._serving:
                    await operations.serve(_MOST_REQUESTS)
                self._off.set()
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

    async def _drain(self, seconds: float) -> None:
        """Try to store what is dirty until it is stored, or time or patience is over."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._log_progress)
            with trio.move_on_after(seconds):
                while not self._impatient.is_set():
                    failed = await self._store_everything()
                    self._refused = {key: error.message for key, error in failed.items()}
                    if not failed or self._forced:
                        break
                    with trio.move_on_after(_RETRY_DRAIN):
                        await self._impatient.wait()
            nursery.cancel_scope.cancel()

    async def _store_everything(self) -> dict[str, StoreError]:
        """Try to store what is dirty, once; do not wait for it after a second signal."""
        failed: dict[str, StoreError] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_impatient, nursery.cancel_scope)
            failed = await self.vfs.store_everything()
            nursery.cancel_scope.cancel()
        return failed

    async def _cancel_when_impatient(self, scope: trio.CancelScope) -> None:
        await self._impatient.wait()
        scope.cancel()

    def _measure(self, meter: StoringMeter) -> Progress:
        return meter.measure(self.vfs.dirty(), {**self._refused, **self.vfs.retrying()})

    async def _log_progress(self) -> None:
        """Say now and then how far it is."""
        meter, pause = StoringMeter(), _FIRST_LOG_LINE
        self._measure(meter)
        while True:
            await trio.sleep(pause)
            log.info("%s", in_words("storing", self._measure(meter)))
            pause = _LOG_EVERY

    async def _rescue(self) -> None:
        """Save what could not be stored as plain files, and name them in the log."""
        if not self.vfs.dirty():
            return
        for key in self.vfs.kept():
            self._failed[key] = f"waits in the journal; zarrmount recover {self._config.location}"
            log.error("%r could not be stored; it waits in the journal", key)
        stamp = time.strftime("%Y%m%dT%H%M%S")
        directory = self._config.staging_dir / "unsaved" / f"{stamp}-{os.getpid()}"
        for key, path in (await self.vfs.rescue(directory)).items():
            self._failed[key] = str(path)
            log.error("%r could not be stored; its bytes are in %s", key, path)
        for key, _ in self.vfs.dirty():  # whatever is neither in the journal nor saved
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
                    if stopping and not self._impatient.is_set():
                        log.warning("not waiting any more for what is not stored yet")
                        self._impatient.set()
                    elif not stopping:
                        stopping = True
                        nursery.start_soon(self._stop)

    async def _stop(self) -> None:
        """End because a signal said so: the mount goes, whoever uses it."""
        await self._drain(self._config.drain_timeout)
        if self._off.is_set():
            return
        if dirty := self.vfs.dirty():
            log.error("%d files could not be stored before the end", len(dirty))
        problem = await detach(self._mountpoint)
        if problem is not None:
            log.warning("%s: %s; in use by %s", self._mountpoint, problem, self._users())
            await detach(self._mountpoint, lazy=True)
            pyfuse3.terminate()
        await self._impatient.wait()
        self._serving.cancel()  # calls that wait for a store that does not answer

    def _users(self) -> str:
        return ", ".join(users_of(self._mountpoint, os.getpid())) or "nobody that can be seen"

    # -- the control socket --------------------------------------------------------------------

    async def _answer(self, talk: Conversation) -> None:
        if not self._conversations:
            self._told = trio.Event()
        self._conversations += 1
        try:
            match talk.request.get("do"):
                case "unmount":
                    await self._unmount(talk, force=bool(talk.request.get("force")))
                case "ping":
                    await talk.tell({"done": True, "dirty": self.vfs.dirty()})
                case other:
                    await talk.tell({"done": True, "error": f"unknown request {other!r}"})
        finally:
            self._conversations -= 1
            if not self._conversations:
                self._told.set()

    async def _unmount(self, talk: Conversation, *, force: bool) -> None:
        """Store everything, take the mount off, and tell how it went; stays mounted on failure."""
        failed = await self._store_and_tell(talk)
        if talk.cancelled.is_set():
            return
        if failed and not force:
            reasons = {key: error.message for key, error in failed.items()}
            error = "not everything could be stored; the mount stays"
            await talk.tell({"done": True, "error": error, "failed": reasons})
            return
        self._forced = self._forced or force  # who forces it does not wait for a store to recover
        ends_already = self._off.is_set() or self._impatient.is_set()
        problem = None if ends_already else await detach(self._mountpoint)
        if problem is not None and not force:
            users = await trio.to_thread.run_sync(self._users)
            await talk.tell({"done": True, "error": f"{problem}; in use by {users}"})
            return
        if problem is not None:
            await detach(self._mountpoint, lazy=True)
            pyfuse3.terminate()
        await self._finished.wait()
        await talk.tell({"done": True, "saved": self._failed})

    async def _store_and_tell(self, talk: Conversation) -> dict[str, StoreError]:
        """Try to store what is dirty, once, and tell how far it is to whoever waits for it."""
        failed: dict[str, StoreError] = {}
        stored = trio.Event()

        async def store() -> None:
            async with self._one_at_a_time:  # one that nobody waits for any more may be at it
                if not talk.cancelled.is_set():
                    failed.update(await self._store_everything())
            stored.set()

        meter, pause = StoringMeter(), _TELL_EVERY
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store)
            while not talk.cancelled.is_set():
                began = trio.current_time()
                progress = self._measure(meter)
                pause = max(_TELL_EVERY, 10 * (trio.current_time() - began))  # of a million inodes
                with trio.move_on_after(pause):
                    await stored.wait()
                    break
                await talk.tell({"progress": dataclasses.asdict(progress)})
            if talk.cancelled.is_set():
                await talk.tell({"done": True, "left": len(self.vfs.dirty())})
        return failed
