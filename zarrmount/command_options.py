"""What the options of the commands come to: where the store is, and how it is mounted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from zarrmount.command_types import KeyValue
from zarrmount.config import MountConfig, state_directory
from zarrmount.mount_options import MountOptions
from zarrmount.settings import INDEFINITE, TreeSettings

__all__ = ["log_file_of", "mount_config", "storage_options", "store_options"]


def store_options(command: Callable[..., None]) -> Callable[..., None]:
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


def mount_config(
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
    immutable = values["immutable"] or "immutable" in parsed.flags
    kernel = set(parsed.kernel)
    kernel |= {name for name in ("allow_other", "allow_root") if given[name]}
    tree = TreeSettings(
        uid=values["uid"],
        gid=values["gid"],
        umask=values["umask"] or 0,
        dir_mode=values["dir_mode"],
        file_mode=values["file_mode"],
        metadata_ttl=INDEFINITE if immutable else values["metadata_ttl"],
        read_timeout=values["read_timeout"],
        write_timeout=values["write_timeout"],
        overwrite_conflicts=values["on_conflict"] == "overwrite",
        rename_wait=values["rename_wait"],
        writeback=values["writeback"],
    )
    return MountConfig(
        location=location,
        mountpoint=Path(os.path.realpath(mountpoint)),
        storage_options=storage_options(values, parsed),
        backend=values["backend"],
        max_connections=values["max_connections"],
        read_only=values["read_only"] or "ro" in parsed.flags or immutable,
        create=values["create"] or "create" in parsed.flags,
        nonempty=values["nonempty"] or "nonempty" in parsed.flags,
        kernel_options=frozenset(kernel),
        tree=tree,
        staging_dir=Path(values["staging_dir"] or state_directory() / "staging").absolute(),
        max_dirty=values["max_dirty"],
        cache_dir=Path(values["cache"]).absolute() if values["cache"] is not None else None,
        max_cache_size=values["max_cache_size"],
        min_free_space=values["min_free_space"],
        immutable=immutable,
    )


def storage_options(values: Mapping[str, Any], parsed: MountOptions | None = None) -> dict[str, object]:
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


def log_file_of(
    config: MountConfig, given: Mapping[str, Any], parsed: MountOptions, *, foreground: bool
) -> Path | None:
    """Return where the log of a mount goes; None: standard error."""
    asked = given["log_file"] or parsed.values.get("log_file")
    if asked:
        return Path(asked).absolute()
    if foreground:
        return None
    name = str(config.mountpoint).strip("/").replace("/", "-") or "root"
    return state_directory() / "log" / f"{name}.log"
