"""Small reads all over large shards."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.arrays import Array, ShardedArray
from benchmarks.content import check
from benchmarks.interface import MEMORY, Case, Figures, Target, rated
from benchmarks.parallel import in_tasks, in_threads
from benchmarks.places import Place
from benchmarks.requests import Call

READERS = 16


class RandomReads(Case):
    name = "random-reads"
    title = "random 64 KiB reads in 4 GiB of shards on S3 at 20 ms, 16 readers"
    unit = "reads/s"
    dataset = "shards"
    place = "s3"
    targets = (
        Target("1.5 x the best peer", at_least=1.5, of="best peer"),
        Target("bytes fetched at most 2 x bytes read", figure="fetched_per_read", at_most=2),
        MEMORY,
    )

    def __init__(self, *, smoke: bool = False) -> None:
        super().__init__(smoke=smoke)
        shards = Array("mosaic", (1, 2) if smoke else (4, 4), (2048, 2048) if smoke else (16384, 16384))
        self.array = ShardedArray(shards, (256, 256))
        self.reads = 100 if smoke else 3000

    def prepare(self, place: Place) -> None:
        place.put(self.array.objects())

    def _places(self) -> Iterator[tuple[str, int]]:
        drawn, keys = random.Random(4), list(self.array.shards.chunk_keys())
        for _ in range(self.reads):
            yield drawn.choice(keys), drawn.randrange(self.array.inner_count) * self.array.inner_size

    def run(self, root: Path) -> Figures:
        size = self.array.inner_size
        files = {key: os.open(root / key, os.O_RDONLY) for key in self.array.shards.chunk_keys()}

        def read(at: tuple[str, int]) -> None:
            key, offset = at
            check(key, os.pread(files[key], size, offset), size, offset)

        began = perf_counter()
        done = in_threads(READERS, self.within(self._places()), read)
        return rated(done, self.reads, perf_counter() - began)

    def obstore(self, place: Place) -> Figures:
        import obstore

        store, size = place.obstore(), self.array.inner_size

        async def read(at: tuple[str, int]) -> None:
            key, offset = at
            found = await obstore.get_range_async(store, key, start=offset, length=size)
            check(key, memoryview(found), size, offset)

        began = perf_counter()
        done = in_tasks(READERS, self.within(self._places()), read)
        return rated(done, self.reads, perf_counter() - began)

    def count(self, calls: Sequence[Call], figures: Figures) -> Figures:
        fetched = sum(call.size for call in calls if call.kind == "GET")
        return {"fetched_per_read": fetched / (figures["done"] * self.array.inner_size)}


CASES = (RandomReads,)
