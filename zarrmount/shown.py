"""What of a listing can be shown as files and directories, and what is said of the rest."""

from __future__ import annotations

import logging

from stores.keys import unusable_name
from stores.meta import ListPage, PrefixMeta
from zarrmount.listings import Found

__all__ = ["Shown", "merge"]

log = logging.getLogger(__name__)

_MOST_REPORTED = 10_000


class Shown:
    """Sorts the entries of listings, and names in the log, once, those that cannot be shown."""

    def __init__(self) -> None:
        self._reported: set[str] = set()
        self._hiding: set[str] = set()

    def usable(self, page: ListPage, prefix: str) -> dict[str, Found]:
        """Return the entries of one page of a listing that can be shown, by name."""
        entries: dict[str, Found] = {}
        start = len(prefix) + 1 if prefix else 0
        for found in page.prefixes:
            name = found.prefix[start:]
            if self._is_usable(name, found.prefix, prefix):
                entries[name] = found
        for meta in page.objects:
            name = meta.key[start:]
            if name in entries:
                self.report_both(meta.key)
            elif self._is_usable(name, meta.key, prefix):
                entries[name] = meta
        return entries

    def may_hide(self, prefix: str) -> bool:
        """Whether there may be more below a prefix than what its listing showed."""
        return prefix in self._hiding or len(self._hiding) >= _MOST_REPORTED

    def report_both(self, key: str) -> None:
        """Tell, once, of a name that is both an object and a prefix."""
        self._report(key, "is both an object and a prefix: the directory is shown")

    def _is_usable(self, name: str, key: str, prefix: str) -> bool:
        reason = unusable_name(name)
        if reason is not None:
            if len(self._hiding) < _MOST_REPORTED:
                self._hiding.add(prefix)
            self._report(key, f"cannot be shown as a file: its name {reason}")
        return reason is None

    def _report(self, key: str, what: str) -> None:
        if key in self._reported or len(self._reported) >= _MOST_REPORTED:
            return
        self._reported.add(key)
        log.warning("key %r %s", key, what)


def merge(entries: dict[str, Found], page: dict[str, Found]) -> None:
    """Add the entries of one more page; what is both an object and a prefix is the prefix."""
    for name, found in page.items():
        if isinstance(found, PrefixMeta) or not isinstance(entries.get(name), PrefixMeta):
            entries[name] = found
