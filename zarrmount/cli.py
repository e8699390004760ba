"""The ``zarrmount`` command: reads what was typed, calls what does it, prints what came of it.

Heavy modules (pyfuse3, trio, the backends) are imported by the command that
needs them, so that ``zarrmount --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from stores.errors import StoreError
from zarrmount import __version__
from zarrmount.command_options import log_file_of, mount_config, storage_options, store_options
from zarrmount.command_types import Octal, OptionalValueCommand, Seconds, Size
from zarrmount.config import state_directory
from zarrmount.mount_options import parse_mount_options
from zarrmount.places import check_mountpoint
from zarrmount.zarr.errors import MetadataError

if TYPE_CHECKING:
    from zarrmount.recovery import Waiting

__all__ = ["main"]

_ANSWER_TIMEOUT = 30.0


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command; every mistake of the user's is one line on standard error."""
    try:
        cli.main(args=arguments, prog_name="zarrmount", standalone_mode=False)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        if not isinstance(error, click.UsageError):
            _fail(error.format_message(), 1)
        hint = f" ({error.ctx.command_path} --help)" if error.ctx is not None else ""
        _fail(error.format_message() + hint, 2)
    except (StoreError, OSError, MetadataError) as error:
        _fail(str(error), 1)
    sys.exit(0)


def _fail(message: str, status: int) -> NoReturn:
    click.echo("zarrmount: " + " ".join(message.split()), err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="zarrmount")
def cli() -> None:
    """Show any Zarr store as a directory, to read and to write."""


@cli.command(cls=OptionalValueCommand)
@click.argument("store")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, log to standard error.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--create", is_flag=True, help="Make a missing local directory or zip.")
@click.option("--nonempty", is_flag=True, help="Mount over a directory that is not empty.")
@store_options
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Requests to a remote store that may be under way at once.",
)
@click.option("--uid", type=int, help="Owner of all files.")
@click.option("--gid", type=int, help="Group of all files.")
@click.option("--umask", type=Octal(), help="Bits taken from all modes that are shown.")
@click.option("--dir-mode", type=Octal(), help="Mode of all directories.")
@click.option("--file-mode", type=Octal(), help="Mode of all files.")
@click.option("--allow-other", is_flag=True, help="Let other users in.")
@click.option("--allow-root", is_flag=True, help="Let root in.")
@click.option(
    "--metadata-ttl",
    type=Seconds(),
    default="1",
    show_default=True,
    help="How long answers about keys hold: seconds, 'indefinite' or 'minimal'.",
)
@click.option(
    "--immutable",
    is_flag=True,
    help="Promise that the store does not change: answers hold for ever; implies --read-only.",
)
@click.option("--read-timeout", type=Seconds(), default="60", show_default=True, help="Longest wait to read.")
@click.option(
    "--write-timeout",
    type=Seconds(),
    default="120",
    show_default=True,
    help="Longest wait to store a file; one second more for each MiB.",
)
@click.option(
    "--on-conflict",
    type=click.Choice(["fail", "overwrite"]),
    default="fail",
    show_default=True,
    help="When somebody else stored a file since it was opened: fail its close (ESTALE), or overwrite.",
)
@click.option(
    "--staging-dir",
    type=click.Path(path_type=Path),
    help="Where written bytes wait that memory has no room for.",
)
@click.option(
    "--max-dirty",
    type=Size(),
    default="16G",
    show_default=True,
    help="Written bytes that may wait to be stored; past it writers wait.",
)
@click.option(
    "--rename-wait",
    type=Seconds(),
    default="5",
    show_default=True,
    help="How long a closed file with a temporary name waits for its rename; 0: not at all.",
)
@click.option(
    "--writeback",
    type=Seconds(),
    metavar="[=SECONDS]",
    is_flag=False,
    flag_value="5",
    help="Store closed files later (5 seconds, if not said); until then they are safe on the local disk.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep what was read in a local directory, for later mounts, too.",
)
@click.option(
    "--max-cache-size",
    type=Size(),
    default="10G",
    show_default=True,
    help="Bytes that may be kept there; what was not used for long goes.",
)
@click.option(
    "--min-free-space",
    type=Size(),
    default="1G",
    show_default=True,
    help="Bytes that the cache leaves free on its disk.",
)
@click.option("--log-file", type=click.Path(path_type=Path), help="Where the log goes.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Log lines."
)
@click.option("-v", "--verbose", count=True, help="Log every refused call, too.")
@click.option("-o", "options", multiple=True, metavar="OPTION[,...]", help="Options as for mount(8).")
def mount(store: str, mountpoint: Path, options: tuple[str, ...], foreground: bool, **given: Any) -> None:
    """Mount STORE on the directory MOUNTPOINT.

    STORE is a path, a zip, or a URL: data/foo.zarr, foo.zarr.zip, s3://bucket/foo.zarr, gs://...,
    az://..., https://..., memory://name, any fsspec URL, or python:module:factory.

    Returns when the mount answers; unmount it with `zarrmount umount MOUNTPOINT`.
    """
    from stores import open_store
    from zarrmount.daemon import StartFailedError, run_in_background

    parsed = parse_mount_options(options)
    config = mount_config(store, mountpoint, given, parsed)
    check_mountpoint(config)
    log_file = log_file_of(config, given, parsed, foreground=foreground)

    def work(ready: Callable[[], None]) -> int:
        from zarrmount.logs import configure_logging
        from zarrmount.mount import run_mount

        configure_logging(log_file, parsed.values.get("log_format", given["log_format"]), given["verbose"])
        opened = open_store(
            config.location,
            read_only=config.read_only,
            create=config.create,
            backend=config.backend,
            max_connections=config.max_connections,
            storage_options=dict(config.storage_options),
        )
        return run_mount(config, opened, ready=ready, log_file=log_file)

    if foreground:
        sys.exit(work(lambda: None))
    try:
        run_in_background(work)
    except StartFailedError as error:
        raise click.ClickException(str(error)) from None
    _wait(config.mountpoint, log_file)


def _wait(mountpoint: Path, log_file: Path | None) -> None:
    from zarrmount.client import wait_until_it_answers

    if not wait_until_it_answers(mountpoint, _ANSWER_TIMEOUT):
        raise click.ClickException(f"{mountpoint} was mounted but does not answer; see {log_file}")


@cli.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Unmount even if it is in use or something cannot be stored.")
def umount(mountpoint: Path, force: bool) -> None:
    """Unmount MOUNTPOINT, when everything written is in the store."""
    from zarrmount.client import ClientError, NotWaitedForError, unmount
    from zarrmount.progress import drawn

    try:
        with drawn("storing") as show:
            unmount(
                _resolve(mountpoint), force=force, tell=lambda line: click.echo(line, err=True), show=show
            )
    except NotWaitedForError as error:
        _fail(str(error), 130)
    except ClientError as error:
        for key, reason in error.failed.items():
            click.echo(f"{key}\t{reason}")
        raise click.ClickException(str(error)) from None


def _resolve(mountpoint: Path) -> Path:
    """Resolve a mount point without asking it: it may be dead."""
    absolute = mountpoint.absolute()
    return Path(os.path.realpath(absolute.parent)) / absolute.name if absolute.name else absolute


@cli.command()
@click.argument("store")
@click.argument("path", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--tree", is_flag=True, help="Print the hierarchy below PATH.")
@store_options
def info(store: str, path: str, as_json: bool, tree: bool, **given: Any) -> None:
    """Tell what the array or group PATH in STORE is (default: its root)."""
    import anyio

    from stores import open_store
    from zarrmount import info as report

    opened = open_store(
        store, read_only=True, backend=given["backend"], storage_options=storage_options(given)
    )

    async def collect() -> dict[str, Any]:
        async with opened:
            return await report.collect(opened, path.strip("/"))

    found = anyio.run(collect, backend="trio")
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        report.show(found, Console(highlight=False), tree=tree)


@cli.command()
@click.argument("archive")
def compact(archive: str) -> None:
    """Rewrite the zip ARCHIVE without the bytes of what was deleted or replaced.

    What waits in ARCHIVE.pending, after a crash or a full disk, is taken up. The archive stays as
    it was until a whole new one takes its place.
    """
    from zarrmount import compacting
    from zarrmount.progress import drawn

    with drawn("compacting") as show:
        done = compacting.compact(archive, show)
    click.echo(done.in_words())


@cli.command()
@click.argument("store", required=False)
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--upload", is_flag=True, help="Store them now.")
@click.option("--overwrite", is_flag=True, help="Also replace what somebody else has stored meanwhile.")
@click.option("--save", type=click.Path(path_type=Path), help="Write them as plain files below a directory.")
@click.option("--discard", is_flag=True, help="Delete them.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--staging-dir", type=click.Path(path_type=Path), help="As the store was mounted with.")
@store_options
def recover(store: str | None, keys: tuple[str, ...], **given: Any) -> None:
    """List, store, save or discard what mounts with --writeback could not store.

    Without STORE, lists the stores for which files wait on this machine. Otherwise all that waits for
    STORE, or the files KEY and those below it. What is left waits for the next mount of STORE.
    """
    from zarrmount import recovery

    staging_dir = Path(given["staging_dir"] or state_directory() / "staging").absolute()
    actions = [name for name in ("upload", "save", "discard") if given[name]]
    if len(actions) > 1:
        raise click.UsageError(f"--{actions[0]} and --{actions[1]} exclude each other")
    action = actions[0] if actions else None
    if (given["overwrite"] and action != "upload") or (given["yes"] and action != "discard"):
        raise click.UsageError("--overwrite goes with --upload, and --yes with --discard")
    if store is None:
        if action is not None:
            raise click.UsageError(f"--{action} needs a STORE")
        _echo_lines(recovery.overview(staging_dir))
        return
    waiting = recovery.find(staging_dir, store, storage_options(given))
    if waiting is None and keys:
        raise click.ClickException(f"nothing waits to be stored in {store}")
    if waiting is None:
        click.echo("nothing waits to be stored")
    elif action is None:
        _echo_lines([waiting.in_words(), *waiting.lines(waiting.chosen(keys))])
    else:
        _recover(waiting, store, keys, action, staging_dir, given)


def _recover(
    waiting: Waiting,
    store: str,
    keys: tuple[str, ...],
    action: str,
    staging_dir: Path,
    given: Mapping[str, Any],
) -> None:
    """Do with what waits as was asked for; tell what is left, and let the exit status say so."""
    from stores import open_store
    from zarrmount import recovery
    from zarrmount.progress import drawn

    if action == "upload" and Path(store).absolute() == waiting.directory:
        raise click.UsageError("--upload takes the store itself, not the directory of its journal")
    left: dict[str, str] = {}
    with recovery.taken(waiting) as (journal, now):
        chosen = now.chosen(keys)
        lost = [] if keys else now.contents.lost
        if action == "discard":
            if not given["yes"]:
                click.confirm(f"Delete {recovery.in_words(chosen)}, for ever?", abort=True, err=True)
            recovery.discard(journal, chosen, lost)
        elif action == "save":
            left = recovery.save(journal, chosen, given["save"].absolute())
        else:
            opened = open_store(store, backend=given["backend"], storage_options=storage_options(given))
            with drawn("storing") as show:
                left = recovery.upload(
                    opened, journal, chosen, overwrite=given["overwrite"], staging_dir=staging_dir, show=show
                )
    if action != "discard":
        left |= {str(path): "the name of the file with these bytes is lost" for path in lost}
    _echo_lines(f"{recovery.printable(key)}\t{reason}" for key, reason in left.items())
    if left:
        _fail(f"{len(left)} of {len(chosen) + len(lost)} files are left", 1)
    done = {"upload": "stored", "save": "saved", "discard": "deleted"}[action]
    click.echo(f"{done}: {recovery.in_words(chosen)}")


def _echo_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


@cli.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    required=True,
    help="As a mount's --cache.",
)
@click.option("--clear", is_flag=True, help="Remove all of it, also while mounts use it.")
def cache(directory: Path, clear: bool) -> None:
    """Tell how much is kept on disk of what mounts have read, or remove it."""
    from rich.filesize import decimal

    from zarrmount.cache.directory import CacheDirectory

    kept = CacheDirectory(directory, limit=0, min_free=0)
    if clear:
        kept.clear()
    size, entries = kept.measure()
    click.echo(f"{entries} {'entry' if entries == 1 else 'entries'}, {decimal(size)}")


@cli.command()
def doctor() -> None:
    """Look whether this machine can mount, and say what to type where something is missing."""
    from zarrmount import doctor as examination

    findings = examination.check()
    click.echo(examination.render(findings), nl=False)
    sys.exit(examination.exit_status(findings))
