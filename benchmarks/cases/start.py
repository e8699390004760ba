"""How soon a mount answers."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from benchmarks.arrays import Array
from benchmarks.content import check
from benchmarks.interface import MEMORY, Case, Figures, Target
from benchmarks.places import Place


class Ready(Case):
    name = "ready"
    title = "mount ready, local store: from the start of the process to the first answer"
    unit = "s"
    figure = "ready_s"
    dataset = "ready"
    place = "local"
    cold = False
    targets = (Target("0.5 s", figure="ready_s", at_most=0.5), MEMORY)

    def __init__(self, *, smoke: bool = False) -> None:
        super().__init__(smoke=smoke)
        self.array = Array("small", (2, 2), (128, 256))

    def prepare(self, place: Place) -> None:
        place.put(self.array.objects())

    def run(self, root: Path) -> Figures:
        began, key = perf_counter(), self.array.key((1, 1))
        check(key, (root / key).read_bytes(), self.array.size)
        return {"seconds": perf_counter() - began, "part": 1}


CASES = (Ready,)
