"""Many small chunks, opened, read and closed one by one."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from benchmarks.arrays import Array
from benchmarks.content import check
from benchmarks.interface import MEMORY, Case, Figures, Target, rated
from benchmarks.places import Place


class SmallChunks(Case):
    name = "small-chunks"
    title = "10,000 chunks of 32 KiB, cold, local store, open+read+close one by one"
    unit = "chunks/s"
    dataset = "small-chunks"
    place = "local"
    targets = (
        Target("1.5 x the best peer", at_least=1.5, of="best peer"),
        Target("0.7 x the C floor", at_least=0.7, of="C floor"),
        MEMORY,
    )

    def __init__(self, *, smoke: bool = False) -> None:
        super().__init__(smoke=smoke)
        self.array = Array("small", (5, 5) if smoke else (100, 100), (128, 256))

    def prepare(self, place: Place) -> None:
        place.put(self.array.objects())

    def run(self, root: Path) -> Figures:
        done, began = 0, perf_counter()
        for key in self.within(self.array.chunk_keys()):
            with open(f"{root}/{key}", "rb", buffering=0) as file:
                check(key, file.read(), self.array.size)
            done += 1
        return rated(done, self.array.count, perf_counter() - began)

    def obstore(self, place: Place) -> Figures:
        import obstore

        store, done, began = place.obstore(), 0, perf_counter()
        for key in self.within(self.array.chunk_keys()):
            check(key, memoryview(obstore.get(store, key).bytes()), self.array.size)
            done += 1
        return rated(done, self.array.count, perf_counter() - began)


CASES = (SmallChunks,)
