"""Where a reader of chunks goes next, guessed from where it has been.

A program that reads a region of an array visits coordinates as nested loops do,
whatever the order of the dimensions, the strides and the directions.  A
:class:`Walk` is such a nest, learnt from the visits:

1. Two visits that differ in one dimension give the innermost loop.
2. A visit that takes the inner loops back to where they began, and goes on
   along one other dimension, gives the next loop, and where the inner one ends.
3. As long as no outer loop is known the neighbouring dimension is guessed, as
   in C order, and the edge of the grid to be the end.

Several readers may walk one array, and one with several threads comes a little
out of order: so :class:`Walks` keeps some walks, and a visit belongs to the one
that expects it among its next steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import islice

from zarrmount.zarr.chunks import Coordinates

__all__ = ["Walk", "Walks"]

LARGEST_WINDOW = 64

_MOST_WALKS = 16
_RECENT = 32
_MOST_REMEMBERED = 1024
_SHORTEST_REST = 0.2
_JITTER = 16
"""Steps by which a visit may be ahead of, or behind, its place in the walk."""


@dataclasses.dataclass(slots=True)
class _Loop:
    """One loop: a dimension, its step (seen or guessed), where it begins, and its end if that is known."""

    dimension: int
    step: int
    start: int
    last: int | None = None
    guessed: bool = False

    def next(self, at: int, count: int) -> int | None:
        """Return the next index after `at`, None at the end of the loop."""
        following = at + self.step
        if self.last is not None and (following - self.last) * self.step > 0:
            return None
        return following if 0 <= following < count else None


class Walk:
    """One reader's way through a grid.

    Attributes
    ----------
    at : tuple of int
        The foremost visit.
    window : int
        How many steps ahead are worth fetching, as far as the guesses came true.
    covered : int
        How many of the next steps were fetched; for whoever fetches to set.
    interval : float
        Seconds between two visits, on the average of the last ones.
    turned : bool
        Whether the last visit was not where it was expected, but told more of the loops.
    """

    def __init__(self, grid: Coordinates, at: Coordinates, dimension: int, step: int, start: int) -> None:
        self._grid = grid
        self._loops = [_Loop(dimension, step, start)]
        self._late: deque[Coordinates] = deque(maxlen=_JITTER)
        self._turned_at: int | None = None
        self._began = at
        self._visited_at = -math.inf
        self.at = at
        self.window = 1
        self.covered = 0
        self.interval = 0.0
        self.turned = False

    def ahead(self) -> Iterator[Coordinates]:
        """Yield the coordinates that come next, as far as can be guessed."""
        at: Coordinates | None = self.at
        while (at := self._after(at)) is not None:
            yield at

    def step(self, now: float) -> None:
        """Take note of the time of a visit that was expected."""
        passed = now - self._visited_at
        if passed < math.inf:
            self.interval = passed if not self.interval else 0.75 * self.interval + 0.25 * passed
        self._visited_at = now
        self.window = min(2 * self.window, LARGEST_WINDOW)

    def is_gone(self, now: float) -> bool:
        """Tell whether nobody went on for longer than it used to take."""
        return now - self._visited_at > max(_SHORTEST_REST, 8 * self.interval)

    def shrink(self) -> None:
        """Take note that a guess did not come true."""
        self.window = max(1, self.window // 2)

    def take(self, visit: Coordinates) -> bool:
        """Tell whether a visit is one that was expected, and go on from there."""
        self.turned = False
        if visit in self._late:
            self._late.remove(visit)
            return True
        skipped: list[Coordinates] = []
        for expected in islice(self.ahead(), _JITTER):
            if expected == visit:
                if skipped and self._turns_early(visit):
                    return self.learn(visit)
                self._late.extend(skipped)
                self.covered = max(0, self.covered - len(skipped) - 1)
                self.at = visit
                return True
            skipped.append(expected)
        return False

    def _turns_early(self, visit: Coordinates) -> bool:
        """Tell whether the innermost loop ended before its end, at the same index twice in a row.

        Once may be disorder: the last steps of the row are yet to come then.
        """
        inner = self._loops[0]
        if visit[inner.dimension] != inner.start:
            return False
        before, self._turned_at = self._turned_at, self.at[inner.dimension]
        return before == self._turned_at

    def learn(self, visit: Coordinates) -> bool:
        """Tell whether a visit is the first step of an outer loop, and if so go on from there."""
        changed = [d for d, (old, new) in enumerate(zip(self.at, visit, strict=True)) if old != new]
        inner: list[_Loop] = []
        for loop in self._loops:
            if visit[loop.dimension] != loop.start:
                break
            inner.append(loop)
        others = [d for d in changed if all(d != loop.dimension for loop in inner)]
        back = [d for d in others if visit[d] == self._began[d]]
        onward = [d for d in others if visit[d] != self._began[d]]
        if not inner or len(onward) != 1:
            return False
        dimension = onward[0]
        step = visit[dimension] - self.at[dimension]
        if len(inner) < len(self._loops):
            loop = self._loops[len(inner)]
            if back or loop.dimension != dimension or not (loop.guessed or loop.step == step):
                return False
            loop.step, loop.guessed = step, False
        else:
            for guessed in back:  # so far it went along these as was guessed
                loop = _Loop(guessed, self._guess, self._began[guessed], self.at[guessed], guessed=True)
                self._loops.append(loop)
            self._loops.append(_Loop(dimension, step, self._began[dimension]))
        for loop in inner:
            loop.last = self.at[loop.dimension]
        self.at = visit
        self.turned = True
        self.covered = 0
        self.shrink()  # some of what was expected did not come
        return True

    @property
    def _guess(self) -> int:
        """The step of a loop of which none was seen yet."""
        return 1 if self._loops[0].step > 0 else -1

    def _after(self, at: Coordinates | None) -> Coordinates | None:
        if at is None:
            return None
        following = list(at)
        for loop in self._loops:
            index = loop.next(at[loop.dimension], self._grid[loop.dimension])
            if index is not None:
                following[loop.dimension] = index
                return tuple(following)
            following[loop.dimension] = loop.start
        return self._carry(following)

    def _carry(self, following: list[int]) -> Coordinates | None:
        """Go on along the nearest dimension that no loop is known of, outwards as in C order."""
        innermost = self._loops[0].dimension
        known = {loop.dimension for loop in self._loops}
        outwards = [*range(innermost - 1, -1, -1), *range(innermost + 1, len(self._grid))]
        for dimension in outwards:
            if dimension in known or self._grid[dimension] == 1:
                continue
            index = following[dimension] + self._guess
            if 0 <= index < self._grid[dimension]:
                following[dimension] = index
                return tuple(following)
            # At its edge: it goes back to where a walk through the whole grid begins.
            following[dimension] = 0 if self._guess > 0 else self._grid[dimension] - 1
        return None


class Walks:
    """The walks of all readers of one array."""

    def __init__(self, grid: Coordinates) -> None:
        self._grid = grid
        self._walks: list[Walk] = []
        self._visits: OrderedDict[Coordinates, float] = OrderedDict()
        self._recent: deque[Coordinates] = deque(maxlen=_RECENT)

    def visited_at(self, at: Coordinates) -> float:
        """Return when a chunk was last visited, as far as it is remembered."""
        return self._visits.get(at, -math.inf)

    def visit(self, at: Coordinates, now: float) -> Walk | None:
        """Take note of a visit; return the walk that it belongs to, or None."""
        walk = self._find(at)
        self._recent.append(at)
        self._visits[at] = now
        self._visits.move_to_end(at)
        if len(self._visits) > _MOST_REMEMBERED:
            self._visits.popitem(last=False)
        if walk is not None:
            walk.step(now)
            if walk in self._walks:
                self._walks.remove(walk)
            self._walks.append(walk)
            del self._walks[:-_MOST_WALKS]
        return walk

    def _find(self, at: Coordinates) -> Walk | None:
        known = list(reversed(self._walks))
        for walk in known:
            if walk.at == at or walk.take(at):
                return walk
        for walk in known:
            if walk.learn(at):
                return walk
        return self._begin(at)

    def _begin(self, at: Coordinates) -> Walk | None:
        """Return a new walk from a neighbour that was just visited, or from two equal steps."""
        recent = list(reversed(self._recent))
        dimension = _single(recent[0], at) if recent else None
        if dimension is not None:
            before, now = recent[0][dimension], at[dimension]
            if abs(now - before) == 1:
                return Walk(self._grid, at, dimension, now - before, before)
            if len(recent) > 1 and _single(recent[1], recent[0]) == dimension:
                start = recent[1][dimension]
                if before - start == now - before:
                    return Walk(self._grid, at, dimension, now - before, start)
        for dimension in range(len(at) - 1, -1, -1):
            for step in (1, -1):
                before = at[dimension] - step
                if (*at[:dimension], before, *at[dimension + 1 :]) in self._recent:
                    return Walk(self._grid, at, dimension, step, before)
        return None


def _single(one: Coordinates, other: Coordinates) -> int | None:
    """Return the one dimension in which two coordinates differ, or None."""
    different = [d for d, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return different[0] if len(different) == 1 else None
