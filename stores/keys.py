"""What a key is, and how keys make a tree.

A *key* names one object: one or more *names* joined by ``/``.  A *prefix* is a
run of leading names, written without a slash at its end; the prefix of the
whole store is the empty string.  The same rules hold for every store, so that
no backend can be talked into leaving its root.
"""

from __future__ import annotations

from stores.errors import InvalidKey

__all__ = ["MAX_KEY_BYTES", "MAX_NAME_BYTES", "check_key", "check_prefix", "join", "split", "unusable_name"]

MAX_NAME_BYTES = 255
"""Longest name of one path segment in bytes (``NAME_MAX`` on Linux)."""

MAX_KEY_BYTES = 4095
"""Longest key in bytes (``PATH_MAX`` less the closing NUL)."""


def unusable_name(name: str) -> str | None:
    """Say why `name` cannot be the name of a file, or None where it can.

    Parameters
    ----------
    name : str
        One segment of a key.

    Returns
    -------
    str or None
        A reason for a person, such as ``"is empty"``.
    """
    if not name:
        return "is empty"
    if name in (".", ".."):
        return "means a directory, not a file"
    if "\0" in name:
        return "holds a NUL byte"
    if "/" in name:
        return "holds a slash"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    if len(encoded) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return None


def check_key(key: str) -> str:
    """Return `key` unchanged where it is a legal key.

    Raises
    ------
    InvalidKey
        If it is empty, too long, or one of its names is unusable.
    """
    if not isinstance(key, str):
        raise InvalidKey(f"a key is a str, not {type(key).__name__}", key=repr(key))
    if _is_plain(key):
        return key
    for name in key.split("/"):
        reason = unusable_name(name)
        if reason is not None:
            raise InvalidKey(f"the name {name!r} in it {reason}", key=key)
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidKey(f"longer than {MAX_KEY_BYTES} bytes", key=key)
    return key


def _is_plain(key: str) -> bool:
    """Tell at once of almost all keys that they are legal; of others nothing is known."""
    return (
        key.isascii()
        and 0 < len(key) <= MAX_NAME_BYTES
        and key[0] not in "./"
        and key[-1] != "/"
        and "/." not in key
        and "//" not in key
        and "\0" not in key
    )


def check_prefix(prefix: str) -> str:
    """Return `prefix` unchanged where it is empty (the root) or a legal key."""
    return prefix if prefix == "" else check_key(prefix)


def join(prefix: str, name: str) -> str:
    """Join a prefix (may be empty) and a name or key (may be empty)."""
    if not prefix or not name:
        return prefix or name
    return f"{prefix}/{name}"


def split(key: str) -> tuple[str, str]:
    """Split a key into the prefix that holds it and its last name."""
    prefix, _, name = key.rpartition("/")
    return prefix, name
