"""Names of files that are written to be renamed at once.

Who writes a file under a temporary name and then renames it wants readers to
see the old file or the new one.  A store that cannot rename pays for that with
a put, a copy and a delete; waiting a moment for the rename makes it one put.
Only names of these kinds wait, because a file that waits is not in the store
when its ``close`` returns.
"""

from __future__ import annotations

import re

__all__ = ["TEMPORARY_KINDS", "is_temporary"]

_RANDOM = r"(?=[A-Za-z]*[A-Z0-9])[A-Za-z0-9]{6}"  # six letters or digits; no plain word

TEMPORARY_KINDS: dict[str, str] = {
    "zarr-python": r".+\.[0-9a-f]{32}\.partial",
    "tensorstore": r".+\.__lock",
    "rsync": rf"\..+\.{_RANDOM}",
    "GLib, GNOME": r"\.goutputstream-[A-Z0-9]{6}",
    "sed -i": rf"sed{_RANDOM}",
    "vim (it only tries whether it may)": r"4913",
    "git": r"tmp_(obj|pack|idx|rev)_[A-Za-z0-9]{6}",
    "Python's tempfile": r"tmp(?=[a-z_]*[0-9])[a-z0-9_]{8}",
    "NCO and whoever writes NAME.tmp": r".+\.tmp",
    "downloads": r".+\.(part|crdownload)",
}
"""Who makes them, and a regular expression of their names."""

_ANY = re.compile("|".join(f"(?:{pattern})" for pattern in TEMPORARY_KINDS.values()))


def is_temporary(name: str) -> bool:
    """Tell whether a file of this name is probably renamed as soon as it is closed.

    >>> is_temporary("0.1234567890abcdef1234567890abcdef.partial")
    True
    >>> is_temporary(".zarr.json.aB3dE6")
    True
    >>> is_temporary("zarr.json")
    False
    """
    return _ANY.fullmatch(name) is not None
