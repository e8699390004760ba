"""The ``zarrmount`` command: reads what was typed, calls what does it, prints what came of it.

Heavy modules (pyfuse3, trio, the backends) are imported by the command that
needs them, so that ``zarrmount --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from stores.errors import StoreError
from zarrmount import __version__
from zarrmount.config import MountConfig, state_directory
from zarrmount.mount_options import MountOptions, parse_mount_options
from zarrmount.places import check_mountpoint
from zarrmount.settings import TreeSettings
from zarrmount.zarr.errors import MetadataError

__all__ = ["main"]

_ANSWER_TIMEOUT = 30.0


class KeyValue(click.ParamType[tuple[str, str]]):
    """``KEY=VALUE``."""

    name = "KEY=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the first ``=``."""
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, text


class Octal(click.ParamType[int]):
    """Permission bits, in octal as ``chmod`` takes them."""

    name = "OCTAL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read an octal number up to 7777."""
        try:
            bits = int(str(value), 8)
        except ValueError:
            bits = -1
        if not 0 <= bits <= 0o7777:
            self.fail(f"{value!r} is not a mode such as 0644", param, ctx)
        return bits


class Seconds(click.ParamType[float]):
    """Seconds, or ``indefinite``, or ``minimal``."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a number that is not negative."""
        words = {"indefinite": 10.0 * 365 * 86400, "minimal": 0.0}
        try:
            seconds = words[value] if value in words else float(value)
        except (TypeError, ValueError):
            seconds = -1.0
        if not seconds >= 0:
            self.fail(f"{value!r} is not a number of seconds, 'indefinite' or 'minimal'", param, ctx)
        return seconds


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command; every mistake of the user's is one line on standard error."""
    try:
        cli.main(args=arguments, prog_name="zarrmount", standalone_mode=False)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" ({context.command_path} --help)" if context is not None else ""
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


def _store_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how to reach a store."""
    for option in reversed(
        [
            click.option(
                "--storage-option",
                "storage_options",
                type=KeyValue(),
                multiple=True,
                help="Option of the backend, as in zarr's storage_options (repeatable).",
            ),
            click.option("--endpoint-url", metavar="URL", help="Server that speaks S3, Azure or GCS."),
            click.option("--region", help="Region of the bucket."),
            click.option("--profile", help="Profile in ~/.aws to take credentials from."),
            click.option("--no-sign-request", is_flag=True, help="Ask without credentials."),
            click.option(
                "--backend",
                type=click.Choice(["auto", "obstore", "fsspec"]),
                default="auto",
                show_default=True,
                help="Library that talks to the store.",
            ),
        ]
    ):
        command = option(command)
    return command


@cli.command()
@click.argument("store")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, log to standard error.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--create", is_flag=True, help="Make a missing local directory or zip.")
@click.option("--nonempty", is_flag=True, help="Mount over a directory that is not empty.")
@_store_options
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
@click.option("--read-timeout", type=Seconds(), default="60", show_default=True, help="Longest wait to read.")
@click.option(
    "--write-timeout", type=Seconds(), default="120", show_default=True, help="Longest wait to store a file."
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
    config = _mount_config(store, mountpoint, given, parsed)
    check_mountpoint(config)
    log_file = _log_file(config, given, parsed, foreground=foreground)

    def work(ready: Callable[[], None]) -> int:
        from zarrmount.logs import configure_logging
        from zarrmount.mount import run_mount

        configure_logging(log_file, parsed.values.get("log_format", given["log_format"]), given["verbose"])
        opened = open_store(
            config.location,
            read_only=config.read_only,
            create=config.create,
            backend=config.backend,
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


def _mount_config(
    location: str, mountpoint: Path, given: Mapping[str, Any], parsed: MountOptions
) -> MountConfig:
    """Join the options of the command line with those of ``-o``, which come second."""
    context = click.get_current_context()
    values: dict[str, Any] = {}
    for name, value in given.items():
        typed = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        text = parsed.values.get(name)
        if text is None or typed:
            values[name] = value
        else:
            parameter = next(p for p in context.command.params if p.name == name)
            values[name] = parameter.type.convert(text, parameter, context)
    kernel = set(parsed.kernel)
    kernel |= {name for name in ("allow_other", "allow_root") if given[name]}
    tree = TreeSettings(
        uid=values["uid"],
        gid=values["gid"],
        umask=values["umask"] or 0,
        dir_mode=values["dir_mode"],
        file_mode=values["file_mode"],
        metadata_ttl=values["metadata_ttl"],
        read_timeout=values["read_timeout"],
        write_timeout=values["write_timeout"],
        overwrite_conflicts=values["on_conflict"] == "overwrite",
    )
    return MountConfig(
        location=location,
        mountpoint=Path(os.path.realpath(mountpoint)),
        storage_options=_storage_options(values, parsed),
        backend=values["backend"],
        read_only=values["read_only"] or "ro" in parsed.flags,
        create=values["create"] or "create" in parsed.flags,
        nonempty=values["nonempty"] or "nonempty" in parsed.flags,
        kernel_options=frozenset(kernel),
        tree=tree,
        staging_dir=Path(values["staging_dir"] or state_directory() / "staging").absolute(),
    )


def _storage_options(values: Mapping[str, Any], parsed: MountOptions | None = None) -> dict[str, object]:
    """Collect the options of the backend from all the places where they can be given."""
    options: dict[str, object] = dict(parsed.storage) if parsed is not None else {}
    options |= {name: _plain(text) for name, text in dict(values["storage_options"]).items()}
    for name in ("endpoint_url", "region", "profile"):
        if values.get(name):
            options[name] = values[name]
    if values.get("no_sign_request") or (parsed is not None and "no_sign_request" in parsed.flags):
        options["anon"] = True
    return {name: _plain(value) if isinstance(value, str) else value for name, value in options.items()}


def _plain(text: str) -> object:
    """Read what looks like JSON (``true``, ``3``, ``{"a": 1}``) as such, anything else as text."""
    if text[:1] in "{[" or text in ("true", "false", "null", "True", "False"):
        try:
            parsed: object = json.loads(text.lower() if text in ("True", "False") else text)
        except ValueError:
            return text
        return parsed
    return text


def _log_file(
    config: MountConfig, given: Mapping[str, Any], parsed: MountOptions, *, foreground: bool
) -> Path | None:
    asked = given["log_file"] or parsed.values.get("log_file")
    if asked:
        return Path(asked).absolute()
    if foreground:
        return None
    name = str(config.mountpoint).strip("/").replace("/", "-") or "root"
    return state_directory() / "log" / f"{name}.log"


@cli.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Unmount even if it is in use or something cannot be stored.")
def umount(mountpoint: Path, force: bool) -> None:
    """Unmount MOUNTPOINT, when everything written is in the store."""
    from zarrmount.client import ClientError, unmount

    try:
        unmount(_resolve(mountpoint), force=force, tell=lambda line: click.echo(line, err=True))
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
@_store_options
def info(store: str, path: str, as_json: bool, tree: bool, **given: Any) -> None:
    """Tell what the array or group PATH in STORE is (default: its root)."""
    import anyio

    from stores import open_store
    from zarrmount import info as report

    opened = open_store(
        store, read_only=True, backend=given["backend"], storage_options=_storage_options(given)
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
def doctor() -> None:
    """Look whether this machine can mount, and say what to type where something is missing."""
    from zarrmount import doctor as examination

    findings = examination.check()
    click.echo(examination.render(findings), nl=False)
    sys.exit(examination.exit_status(findings))
