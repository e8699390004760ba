"""The cache of blocks."""

from __future__ import annotations

from hypothesis import given, strategies

from zarrmount.cache.memory import BlockCache

STEPS = strategies.lists(
    strategies.tuples(strategies.booleans(), strategies.integers(0, 5), strategies.integers(0, 2000))
)


@given(STEPS, strategies.integers(0, 5000))
def test_it_stays_within_its_limit_and_never_gives_anything_else(
    steps: list[tuple[bool, int, int]], limit: int
) -> None:
    cache, put = BlockCache(limit), {}
    for writes, index, size in steps:
        block = ("key", "version", index)
        if writes:
            data = bytes([index]) * size
            cache.put(block, data)
            if size + 256 <= limit:
                put[block] = data
                assert cache.get(block) == data
        else:
            found = cache.get(block)
            assert found is None or found == put[block]
        cache.check_invariants()


def test_the_least_recently_used_goes_first() -> None:
    cache = BlockCache(3 * (100 + 256))
    for index in range(3):
        cache.put(("k", "v", index), bytes(100))
    cache.get(("k", "v", 0))
    cache.put(("k", "v", 3), bytes(100))
    assert [cache.get(("k", "v", index)) is not None for index in range(4)] == [True, False, True, True]


def test_what_is_larger_than_the_limit_leaves_the_others() -> None:
    cache = BlockCache(1000)
    cache.put(("k", "v", 0), bytes(10))
    cache.put(("k", "v", 1), bytes(5000))
    assert len(cache) == 1


def test_versions_do_not_meet() -> None:
    cache = BlockCache(10_000)
    cache.put(("k", "1", 0), b"one")
    cache.put(("k", "2", 0), b"two")
    assert cache.get(("k", "1", 0)) == b"one"
