"""Names of files that are written to be renamed at once.

Who writes a file under a temporary name and then renames it wants readers to
see the old file or the new one.  A store that has no rename pays for that with
a put, a copy and a delete; waiting a moment for the rename makes it one put.
Only names of these kinds wait, because a file that waits is not in the store
when its ``close`` returns.
"""

from __future__ import annotations

import re

__all__ = ["TEMPORARY_KINDS", "is_temporary"]

_HEX = "[0-9a-f]"

TEMPORARY_KINDS: dict[str, str] = {
    "zarr-python": rf".+\.{_HEX}{{32}}\.partial",
    "tensorstore": r".+\.__lock|.+__lock",
    "rsync": r"\..+\.[A-Za-z0-9]{6}",
    "vim": r"4913|.+~",
    "GNOME, GLib": r"\.goutputstream-[A-Z0-9]{6}",
    "sed -i": r"sed[A-Za-z0-9]{6}",
    "Emacs": r"\.?#.+#?",
    "dask, atomicwrites": r"tmp[a-z0-9_]{8}",
    "LibreOffice": r"lu[a-z0-9]+\.tmp",
    "downloads": r".+\.(part|crdownload|download)",
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
