"""The ``-o`` options of mount(8), as plain settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from stores.errors import BadLocation

__all__ = ["MountOptions", "parse_mount_options"]

# What mount(8), fstab and systemd use among themselves: nothing for a file system to do.
_IGNORED = frozenset(
    {"defaults", "auto", "noauto", "user", "users", "nouser", "owner", "group", "nofail", "_netdev", "rw"}
)
_IGNORED_PREFIXES = ("x-", "comment=", "X-")
_KERNEL = frozenset(
    {
        "allow_other",
        "allow_root",
        "dev",
        "nodev",
        "suid",
        "nosuid",
        "exec",
        "noexec",
        "atime",
        "noatime",
        "nodiratime",
        "relatime",
        "norelatime",
        "sync",
        "async",
        "dirsync",
        "default_permissions",
    }
)
_OWN = frozenset(
    {
        "uid",
        "gid",
        "umask",
        "dir_mode",
        "file_mode",
        "metadata_ttl",
        "backend",
        "max_connections",
        "log_file",
        "log_format",
        "endpoint_url",
        "region",
        "profile",
        "read_timeout",
        "write_timeout",
        "on_conflict",
        "staging_dir",
        "max_dirty",
        "rename_wait",
        "writeback",
        "cache",
        "max_cache_size",
        "min_free_space",
    }
)
_OWN_DEFAULTS = {"writeback": "5"}
"""What an option means that needs no value."""

_OWN_FLAGS = frozenset({"ro", "nonempty", "create", "immutable", "no_sign_request"})
_STORAGE = frozenset(
    {"anon", "key", "secret", "token", "requester_pays", "skip_signature", "account_name", "account_key"}
)
STORAGE_PREFIX = "storage_option."


@dataclasses.dataclass(frozen=True)
class MountOptions:
    """What ``-o`` said.

    Attributes
    ----------
    flags : frozenset of str
        Of ``ro``, ``nonempty``, ``create``, ``immutable`` and ``no_sign_request``.
    values : dict
        Our own options that have a value, such as ``uid``.
    storage : dict
        Options of the store's backend.
    kernel : frozenset of str
        Options for the kernel or libfuse.
    """

    flags: frozenset[str]
    values: dict[str, str]
    storage: dict[str, str]
    kernel: frozenset[str]


def parse_mount_options(texts: Iterable[str]) -> MountOptions:
    """Read ``-o`` options (comma-separated, may be given several times).

    Raises
    ------
    BadLocation
        For an option that nobody here knows, by name.
    """
    flags: set[str] = set()
    values: dict[str, str] = {}
    storage: dict[str, str] = {}
    kernel: set[str] = set()
    for option in (part.strip() for text in texts for part in text.split(",")):
        name, has_value, value = option.partition("=")
        own_name = name.replace("-", "_")
        if not option or option in _IGNORED or option.startswith(_IGNORED_PREFIXES):
            continue
        if name in _KERNEL and not has_value:
            kernel.add(name)
        elif own_name in _OWN_FLAGS and (not has_value or value in ("1", "true", "yes")):
            flags.add(own_name)
        elif own_name in _OWN and (has_value or own_name in _OWN_DEFAULTS):
            values[own_name] = value if has_value else _OWN_DEFAULTS[own_name]
        elif name.startswith(STORAGE_PREFIX) and has_value:
            storage[name.removeprefix(STORAGE_PREFIX)] = value
        elif own_name in _STORAGE:
            storage[own_name] = value if has_value else "true"
        else:
            raise BadLocation(_unknown(own_name, bool(has_value)), key=f"-o {name}")
    return MountOptions(frozenset(flags), values, storage, frozenset(kernel))


def _unknown(name: str, has_value: bool) -> str:
    import difflib

    if name in _OWN and not has_value:
        return f"the option needs a value: {name}=..."
    near = difflib.get_close_matches(name, [*_KERNEL, *_OWN, *_OWN_FLAGS, *_STORAGE, *_IGNORED], 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown mount option{hint} (options of the store: -o {STORAGE_PREFIX}KEY=VALUE)"
