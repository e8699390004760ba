"""The kinds of value that options on the command line take."""

from __future__ import annotations

import re
from typing import Any

import click

from zarrmount.settings import INDEFINITE

__all__ = ["KeyValue", "Octal", "OptionalValueCommand", "Seconds", "Size"]


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
        words = {"indefinite": INDEFINITE, "minimal": 0.0}
        try:
            seconds = words[value] if value in words else float(value)
        except (TypeError, ValueError):
            seconds = -1.0
        if not seconds >= 0:
            self.fail(f"{value!r} is not a number of seconds, 'indefinite' or 'minimal'", param, ctx)
        return seconds


class Size(click.ParamType[int]):
    """Bytes, with ``K``, ``M``, ``G`` or ``T`` for powers of 1024."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a positive number with or without a unit."""
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
        size = int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")) if found else 0
        if size <= 0:
            self.fail(f"{value!r} is not a size such as 64M or 16G", param, ctx)
        return size


class OptionalValueCommand(click.Command):
    """A command whose options with a `flag_value` take another value after ``=`` only.

    So that ``--option STORE`` does not take STORE for the value.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write out what a bare option means."""
        bare = {
            name: parameter.flag_value
            for parameter in self.params
            if isinstance(parameter, click.Option)
            and not parameter.is_flag
            and isinstance(parameter.flag_value, str)
            for name in parameter.opts
        }
        end = args.index("--") if "--" in args else len(args)
        said = [f"{arg}={bare[arg]}" if arg in bare else arg for arg in args[:end]]
        return super().parse_args(ctx, said + args[end:])
