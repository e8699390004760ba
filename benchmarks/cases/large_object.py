"""One large object from end to end."""

from __future__ import annotations

import subprocess
from pathlib import Path
from time import perf_counter

from benchmarks.content import check, content
from benchmarks.interface import MEMORY, Case, Figures, Target
from benchmarks.places import Place

KEY = "data/large"
MIB = 1 << 20


class LargeObject(Case):
    name = "large-object"
    title = "one 1 GiB object, cold then warm, local store, dd bs=1M"
    unit = "MB/s"
    dataset = "large-object"
    place = "local"
    targets = (
        Target("the best peer's", at_least=1.0, of="best peer"),
        Target("0.7 x the C floor", at_least=0.7, of="C floor"),
        Target("warm = page cache (the C floor's)", figure="warm_rate", at_least=0.9, of="C floor"),
        MEMORY,
    )

    def __init__(self, *, smoke: bool = False) -> None:
        super().__init__(smoke=smoke)
        self.size = (4 if smoke else 1024) * MIB

    def prepare(self, place: Place) -> None:
        whole = bytearray()
        for offset in range(0, self.size, MIB):
            whole += content(KEY, MIB, offset)
        place.put([(KEY, whole)])

    def run(self, root: Path) -> Figures:
        cold, warm = self._dd(root / KEY), self._dd(root / KEY)
        # What dd was given is in the page cache now, and is looked at there.
        with (root / KEY).open("rb", buffering=0) as file:
            for offset in range(0, self.size, MIB):
                check(KEY, file.read(MIB), MIB, offset)
        megabytes = self.size / 1e6
        return {"rate": megabytes / cold, "seconds": cold, "warm_rate": megabytes / warm, "part": 1}

    def _dd(self, path: Path) -> float:
        began = perf_counter()
        subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"], check=True)
        return perf_counter() - began


CASES = (LargeObject,)
