"""Stores that a function of the user's makes: ``python:package.module:factory``."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Mapping
from typing import Any

from stores.bridge import Bridge
from stores.errors import BadLocation

__all__ = ["make_from_factory"]

_SHORTEST_SECRET = 4


def make_from_factory(location: str, options: Mapping[str, Any]) -> object:
    """Import the factory that `location` names and call it.

    Parameters
    ----------
    location : str
        ``python:PACKAGE.MODULE:FACTORY``; the factory may be an attribute of a class.
    options : mapping
        Its keyword arguments.

    Returns
    -------
    object
        What it returned; a coroutine is run to its end first.

    Raises
    ------
    BadLocation
        If there is no such module or attribute, or either raised.
    """
    module_name, colon, factory_name = location.removeprefix("python:").partition(":")
    names = [*module_name.split("."), *factory_name.split(".")]
    if not colon or not all(name.isidentifier() for name in names):
        raise BadLocation(f"{location!r} is not of the form python:package.module:factory")
    target: Any = _import(module_name, options)
    for name in factory_name.split("."):
        if not hasattr(target, name):
            raise BadLocation(f"the module {module_name!r} has no {factory_name!r}")
        target = getattr(target, name)
    if not callable(target):
        raise BadLocation(f"{factory_name!r} in {module_name!r} cannot be called")
    try:
        made = target(**options)
        return _wait(made) if inspect.isawaitable(made) else made
    except (Exception, SystemExit) as error:
        raise BadLocation(f"the factory {location!r} raised {_tell(error, options)}") from error


def _import(name: str, options: Mapping[str, Any]) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise BadLocation(
                f"there is no module {error.name!r}: install it, or put its directory on PYTHONPATH"
            ) from error
        raise BadLocation(f"importing {name!r} failed: {error}") from error
    except (Exception, SystemExit) as error:
        raise BadLocation(f"importing {name!r} raised {_tell(error, options)}") from error


def _wait(made: Awaitable[object]) -> object:
    """Run a coroutine to its end on the loop on which zarr stores are used, which is another thread's."""

    async def run() -> object:
        return await made

    return asyncio.run_coroutine_threadsafe(run(), Bridge.shared().loop).result()


def _tell(error: BaseException, options: Mapping[str, Any]) -> str:
    """Name an exception in one line, without the values of the options: they may be secret."""
    text = " ".join(str(error).split())
    for value in options.values():
        if isinstance(value, str) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
