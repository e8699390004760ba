"""Which fault comes when: drawn by a seed, under the control of a test, and counted by kind."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Collection, Mapping

__all__ = ["Schedule"]


class Schedule:
    """Draws faults.

    Parameters
    ----------
    seed : int
        The same seed, asked the same questions in the same order, gives the same answers.
    rates : mapping
        For each kind of fault how often it comes, from 0 to 1; together at most 1.

    Attributes
    ----------
    weather : float
        Multiplies all rates: 0 turns everything off.
    counts : Counter
        Faults by kind, of those that were drawn.
    asked : int
        How often it was asked.
    """

    def __init__(self, seed: int = 0, rates: Mapping[str, float] | None = None) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.rates = dict(rates or {})
        self.weather = 1.0
        self.counts: Counter[str] = Counter()
        self.asked = 0

    def draw(self, possible: Collection[str]) -> str | None:
        """Return the kind of fault that comes now, of those that are possible; mostly None."""
        with self._lock:
            self.asked += 1
            dice = self._random.random()
            for kind, rate in self.rates.items():
                dice -= rate * self.weather
                if dice < 0:
                    if kind not in possible:
                        return None
                    self.counts[kind] += 1
                    return kind
            return None

    def number(self, low: float, high: float) -> float:
        """Return a number for the details of a fault."""
        with self._lock:
            return self._random.uniform(low, high)

    @property
    def injected(self) -> int:
        """How many faults came."""
        return self.counts.total()
