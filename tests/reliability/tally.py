"""What the reliability suites count, and how long they are to be."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter

__all__ = ["SOAK", "TALLY", "Progress", "base_seed"]

SOAK = os.environ.get("ZARRMOUNT_SOAK", "") not in ("", "0")


class Tally:
    """Counts by name, of one test session."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        self.counts[name] += count

    def faults(self, where: str, counts: Counter[str]) -> None:
        """Add faults that were injected, in all and by kind."""
        self.counts["faults injected"] += counts.total()
        for kind, count in counts.items():
            self.counts[f"faults injected, {where}: {kind}"] += count


TALLY = Tally()


def base_seed() -> int:
    """Return the seed of a run: `ZARRMOUNT_SEED`, else another one each time it is asked for."""
    given = os.environ.get("ZARRMOUNT_SEED")
    return int(given) if given else int.from_bytes(os.urandom(4), "big")


class Progress:
    """A line now and then, for whoever watches a long run."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._next = time.monotonic() + 2

    def tell(self, done: int, more: str = "") -> None:
        if SOAK and (time.monotonic() > self._next or done == self._total):
            self._next = time.monotonic() + 5
            print(f"{self._what}: {done} of {self._total}{more}", file=sys.stderr, flush=True)
