"""What waits in the write-back journals of this machine: told, stored, saved elsewhere or discarded.

It is for a person, after a crash or when a mount could not store everything.  Whatever is done to
a file, it leaves the journal only when it is safe elsewhere, or was given up by that person.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal

from stores.errors import BadLocation, Corrupt, NotFound, StoreError
from stores.files import make_directory, sync_directory
from stores.journal import WriterLock
from stores.keys import check_key
from zarrmount.identity import identity
from zarrmount.objects.journal import Contents, Entry, Journal, journal_directory, journals

if TYPE_CHECKING:
    from stores.base import Store
    from zarrmount.progress import Progress
    from zarrmount.vfs import Vfs

__all__ = ["Waiting", "discard", "find", "in_words", "overview", "printable", "save", "taken", "upload"]

_TELL_EVERY = 0.25
_DAMAGED = "its bytes in the journal are missing or cut short"
_NOT_NOTED = "it was stored, but the journal could not take note of it"


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one store.

    Attributes
    ----------
    directory : Path
        Of the journal.
    contents : Contents
        What is in it.
    """

    directory: Path
    contents: Contents

    @property
    def holder(self) -> str | None:
        """The number of the process that has the journal, None if none has."""
        return WriterLock.holder(self.directory)

    def chosen(self, keys: Iterable[str]) -> dict[str, Entry]:
        """Return what is to be dealt with: some keys, what is below them, or everything.

        Raises
        ------
        NotFound
            If nothing waits for one of `keys`.
        """
        everything = self.contents.entries | self.contents.damaged
        wanted = [key.strip("/") for key in keys]
        found: dict[str, Entry] = {} if wanted else everything
        for want in wanted:
            matching = [key for key in everything if key == want or key.startswith(f"{want}/")]
            if not matching:
                raise NotFound("nothing of that name waits to be stored", key=want)
            found |= {key: everything[key] for key in matching}
        return found

    def lines(self, chosen: Mapping[str, Entry]) -> Iterator[str]:
        """Tell of each file that waits: its size, when it was closed, its key and what it replaces."""
        for entry in chosen.values():
            said = f"{decimal(entry.size):>12}  {_when(entry.closed_ns)}  {printable(entry.key)}"
            yield f"{said}  ({_DAMAGED if entry.key in self.contents.damaged else _replaced(entry)})"
        for path in self.contents.lost:
            yield f"{decimal(path.stat().st_size):>12}  of a file whose name is lost, in {path}"

    def in_words(self) -> str:
        """Tell how much there is, and who works on it."""
        said = in_words(self.chosen([]))
        lost = f", and {_counted(len(self.contents.lost))} without a name" if self.contents.lost else ""
        holder = self.holder
        return f"{said}{lost}" + (f"; a mount is at work on it (pid {holder})" if holder is not None else "")


def overview(staging_dir: Path) -> Iterator[str]:
    """Tell of each journal on this machine."""
    for directory, location in journals(staging_dir):
        try:
            contents = Contents.of(directory)
        except Corrupt as error:
            yield f"{directory}: {error.message}"
            continue
        if contents is not None:
            yield f"{location}: {Waiting(directory, contents).in_words()}"
            yield f"    {directory}"


def find(staging_dir: Path, store: str, storage_options: Mapping[str, object]) -> Waiting | None:
    """Return what waits for a store; None if nothing does.

    Parameters
    ----------
    staging_dir : Path
        Of the mounts.
    store : str
        The location, as it was mounted, or the directory of a journal.
    storage_options : mapping
        As it was mounted.

    Raises
    ------
    BadLocation
        If nothing waits for this store, but something does for one of that name on another server.
    """
    directory = journal_directory(staging_dir, identity(store, storage_options))
    if Path(store).parent.absolute() == directory.parent.absolute():
        directory = Path(store)
    contents = Contents.of(directory)
    if contents is not None:
        return Waiting(directory, contents)
    place = identity(store, storage_options).partition("\n")[0]
    for other, location in journals(staging_dir):
        if location.rstrip("/") == place:
            raise BadLocation(
                "nothing waits for it with these options, but with others: give those that it was mounted "
                f"with (--endpoint-url, ...), or, to list, save or discard, '{other}'",
                key=store,
            )
    return None


@contextlib.contextmanager
def taken(waiting: Waiting) -> Iterator[tuple[Journal, Waiting]]:
    """Take a journal, and give it back in the end.

    Yields
    ------
    Journal, Waiting
        The journal, and what waits in it now that nobody else changes it.

    Raises
    ------
    Denied
        If a mount has it.
    """
    with contextlib.closing(Journal.open(waiting.directory, waiting.contents.location)) as journal:
        contents = Contents.of(waiting.directory)
        yield journal, waiting if contents is None else Waiting(waiting.directory, contents)


# -- what can be done ------------------------------------------------------------------------------


def upload(
    store: Store,
    journal: Journal,
    keys: Iterable[str],
    *,
    overwrite: bool,
    staging_dir: Path,
    show: Callable[[Progress], None],
) -> dict[str, str]:
    """Store files that wait.

    Parameters
    ----------
    store : Store
        Where to.
    journal : Journal
        Where from.
    keys : iterable of str
        Which.
    overwrite : bool
        Replace what somebody else has stored meanwhile.
    staging_dir : Path
        For temporary files.
    show : callable
        Is told how far it is.

    Returns
    -------
    dict
        Why, for each key that is left in the journal.
    """
    import trio

    from zarrmount.progress import StoringMeter
    from zarrmount.settings import TreeSettings
    from zarrmount.vfs import Vfs

    wanted = list(keys)
    taken_up: set[str] = set()
    failed: dict[str, StoreError] = {}

    async def store_all() -> None:
        async with store:
            settings = TreeSettings(overwrite_conflicts=overwrite)
            vfs = Vfs(store, settings, staging_dir=staging_dir, journal=journal)
            with contextlib.closing(vfs):
                vfs.resume(set(wanted))
                taken_up.update(key for key, _ in vfs.dirty())
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(tell, vfs)
                    failed.update(await vfs.store_everything())
                    nursery.cancel_scope.cancel()

    async def tell(vfs: Vfs) -> None:
        meter = StoringMeter()
        while True:
            show(meter.measure(vfs.dirty(), vfs.retrying()))
            await trio.sleep(_TELL_EVERY)

    logging.getLogger("zarrmount").addHandler(logging.NullHandler())  # the caller is told all of it
    interrupted = False
    try:
        trio.run(store_all)
    except* KeyboardInterrupt:
        interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    left = {key: _DAMAGED for key in wanted if key not in taken_up}
    left |= {key: _NOT_NOTED for key in taken_up if key in journal.entries}
    return left | {key: error.message for key, error in failed.items()}


def save(journal: Journal, keys: Iterable[str], directory: Path) -> dict[str, str]:
    """Write files that wait as plain files below a directory, and take them off the journal.

    No file that exists is touched.

    Returns
    -------
    dict
        Why, for each key that is left in the journal.
    """
    failed: dict[str, str] = {}
    make_directory(directory)
    for key in keys:
        if key in journal.damaged:
            failed[key] = _DAMAGED
            continue
        try:
            _save(journal.directory / journal.entries[key].data, journal.entries[key], directory)
            journal.drop(key)
        except FileExistsError as error:
            failed[key] = f"there is '{error.filename}' already"
        except StoreError as error:
            failed[key] = error.message
        except OSError as error:
            failed[key] = str(error)
    return failed


def discard(journal: Journal, keys: Iterable[str], lost: Sequence[Path]) -> None:
    """Delete files that wait, and bytes whose names are lost."""
    for key in keys:
        journal.drop(key)
    for path in lost:
        path.unlink(missing_ok=True)


def _save(data: Path, entry: Entry, directory: Path) -> None:
    path = directory / check_key(entry.key)
    if not path.parent.resolve().is_relative_to(directory.resolve()):
        raise BadLocation(f"a symbolic link leads out of '{directory}'", key=entry.key)
    make_directory(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target, data.open("rb") as source:
        try:
            shutil.copyfileobj(source, target, 1 << 20)
            target.truncate(entry.size)
            target.flush()
            if entry.attributes.mtime_ns is not None:
                os.utime(target.fileno(), ns=(entry.attributes.mtime_ns, entry.attributes.mtime_ns))
            os.fsync(target.fileno())
        except BaseException:
            path.unlink()
            raise
    sync_directory(path.parent)


# -- in words --------------------------------------------------------------------------------------


def in_words(entries: Mapping[str, Entry]) -> str:
    """Tell how many files there are, and of what size together."""
    return f"{_counted(len(entries))}, {decimal(sum(entry.size for entry in entries.values()))}"


def printable(key: str) -> str:
    """Return a key as it can be shown on a terminal, in one line."""
    return key if key.isprintable() else ascii(key)


def _replaced(entry: Entry) -> str:
    if entry.anyway:
        return "replaces whatever is there"
    if entry.base is None:
        return "a new file"
    when = f" of {_when(entry.base.mtime_ns)}" if entry.base.mtime_ns is not None else ""
    return f"replaces {decimal(entry.base.size)}{when}"


def _when(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9))


def _counted(files: int) -> str:
    return f"{files} file{'' if files == 1 else 's'}"
