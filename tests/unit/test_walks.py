"""What is guessed of a reader's way."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings, strategies

from zarrmount.zarr.chunks import Coordinates
from zarrmount.zarr.walks import Walks


def misses(grid: Coordinates, visits: Iterable[Coordinates], ahead: int = 1) -> int:
    """Return how many visits were not among the `ahead` next ones that any visit before had told."""
    walks, expected, missed = Walks(grid), set(), 0
    for at in visits:
        missed += at not in expected
        walk = walks.visit(at, 0.0)
        if walk is not None:
            told = list(itertools.islice(walk.ahead(), ahead))
            assert all(0 <= i < count for step in told for i, count in zip(step, grid, strict=True))
            expected.update(told)
    return missed


def loops(ranges: Sequence[range], order: Sequence[int]) -> list[Coordinates]:
    """Visit all of `ranges`, with the dimension `order[0]` outermost."""
    visits = []
    for indices in itertools.product(*(ranges[d] for d in order)):
        at = [0] * len(order)
        for dimension, index in zip(order, indices, strict=True):
            at[dimension] = index
        visits.append(tuple(at))
    return visits


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_whole_grid_in_any_order_of_its_dimensions(order: tuple[int, ...]) -> None:
    ranges = [range(7), range(8), range(9)]
    assert misses((7, 8, 9), loops(ranges, order)) <= 2 + 2


def test_in_c_order_only_the_first_two_are_new() -> None:
    grid = (10, 10, 10)
    assert misses(grid, loops([range(10)] * 3, (0, 1, 2))) == 2
    assert misses(grid, list(reversed(loops([range(10)] * 3, (0, 1, 2))))) == 2
    assert misses((1000,), [(i,) for i in range(1000)]) == 2
    assert misses((100, 10, 1), loops([range(100), range(10), range(1)], (0, 1, 2))) == 2
    assert misses((1, 1000, 1), loops([range(1), range(1000), range(1)], (0, 1, 2))) == 2


@settings(deadline=None)
@given(strategies.permutations([0, 1, 2]), strategies.data())
def test_a_part_of_a_grid_with_strides_both_ways(order: list[int], data: strategies.DataObject) -> None:
    ranges = []
    for count in (20, 20, 20):
        start = data.draw(strategies.integers(0, count - 5))
        step = data.draw(strategies.sampled_from([1, 2, 3]))
        whole = range(start, data.draw(strategies.integers(start + 1, count)), step)
        ranges.append(whole[::-1] if data.draw(strategies.booleans()) else whole)
    visits = loops(ranges, order)
    inner = len(ranges[order[2]])
    if inner >= 3:  # three visits tell an inner loop; after a row of each kind all is known
        assert misses((20, 20, 20), visits) <= 3 + 3 + 3


def test_a_little_disorder_does_no_harm() -> None:
    rng = random.Random(7)
    visits = [(i,) for i in range(1000)]
    for start in range(0, 1000, 6):
        part = visits[start : start + 6]
        rng.shuffle(part)
        visits[start : start + 6] = part
    assert misses((1000,), visits, ahead=16) < 20


def test_many_readers_at_once() -> None:
    rows = [[(row, i) for i in range(100)] for row in range(0, 32, 4)]
    visits = [visit for together in zip(*rows, strict=True) for visit in together]
    assert misses((32, 100), visits) <= 8 * 4


def test_visits_at_random_tell_nothing() -> None:
    rng = random.Random(7)
    walks, told = Walks((100, 100)), 0
    for _ in range(1000):
        told += walks.visit((rng.randrange(100), rng.randrange(100)), 0.0) is not None
    assert told < 100
