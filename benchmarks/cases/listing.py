"""Directories of many chunks, with attributes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, perf_counter

from benchmarks.arrays import Array
from benchmarks.content import WrongBytes
from benchmarks.interface import MEMORY, Case, Figures, Target, rated
from benchmarks.places import Place
from benchmarks.requests import Call


class Listing(Case):
    unit = "files/s"
    patience = 30
    deadline = 90
    folders = 100

    def __init__(self, *, smoke: bool = False) -> None:
        super().__init__(smoke=smoke)
        self.array = Array("listed", (4, 8) if smoke else (100, self.folders), (10, 10))

    def prepare(self, place: Place) -> None:
        place.put(self.array.objects())

    def expected(self) -> dict[str, int]:
        key, document = self.array.metadata()
        return {key: len(document), **dict.fromkeys(self.array.chunk_keys(), self.array.size)}

    def run(self, root: Path) -> Figures:
        began = perf_counter()
        lines, complete = self._find(root)
        seconds = perf_counter() - began
        found = {}
        for line in lines:
            words = line.split(None, 10)
            if not words[2].startswith("d"):
                found[os.path.relpath(words[10], root)] = int(words[6])
        return self._rated(found, seconds, complete=complete)

    def _find(self, root: Path) -> tuple[list[str], bool]:
        """Return what find printed until patience ended, and whether it came to its end."""
        end, lines = monotonic() + self.patience, []
        with subprocess.Popen(
            ["find", root, "-ls"], stdout=subprocess.PIPE, text=True, bufsize=1 << 20
        ) as find:
            assert find.stdout is not None
            for line in find.stdout:
                lines.append(line.rstrip("\n"))
                if monotonic() > end:
                    find.kill()
                    return lines, False
        if find.returncode:
            raise WrongBytes(f"find ended with {find.returncode}")
        return lines, True

    def obstore(self, place: Place) -> Figures:
        import obstore

        began = perf_counter()
        pages = obstore.list(place.obstore(), chunk_size=1000)
        found = {meta["path"]: meta["size"] for page in pages for meta in page}
        return self._rated(found, perf_counter() - began, complete=True)

    def _rated(self, found: dict[str, int], seconds: float, *, complete: bool) -> Figures:
        expected = self.expected()
        wrong = [key for key, size in found.items() if expected.get(key) != size]
        if wrong or (complete and len(found) != len(expected)):
            raise WrongBytes(f"{len(found)} files of {len(expected)}, wrong: {wrong[:3]}")
        return rated(len(found), len(expected), seconds)

    def count(self, calls: Sequence[Call], figures: Figures) -> Figures:
        return {"heads": sum(call.kind == "HEAD" for call in calls)} if self.place == "s3" else {}


LOCAL = (Target("2 x the best peer", at_least=2, of="best peer"), MEMORY)
S3 = (
    Target("at most 1.5 x the time of obstore's flat listing", at_least=1 / 1.5, of="obstore"),
    Target("no HEAD", figure="heads", at_most=0),
    MEMORY,
)


class ListLocal(Listing):
    name = "list-local"
    title = "find -ls over 20,000 chunks, local store, cold"
    dataset = "list-local"
    place = "local"
    folders = 200
    targets = LOCAL


class ListS3(Listing):
    name = "list-s3"
    title = "find -ls over 20,000 chunks, S3 at 20 ms, cold"
    dataset = "list-s3"
    place = "s3"
    folders = 200
    targets = S3


class ListLocalLarge(Listing):
    name = "list-local-100k"
    title = "find -ls over 100,000 chunks, local store, cold"
    dataset = "list-local-100k"
    place = "local"
    large = True
    folders = 1000
    targets = LOCAL


class ListS3Large(Listing):
    name = "list-s3-100k"
    title = "find -ls over 100,000 chunks, S3 at 20 ms, cold"
    dataset = "list-s3-100k"
    place = "s3"
    large = True
    folders = 1000
    patience = 60
    deadline = 180
    targets = S3


class Million(Listing):
    name = "list-million"
    title = "a directory of 1,000,000 chunks listed; 1,000,000 inodes known"
    dataset = "list-million"
    place = "local"
    large = True
    patience = 120
    deadline = 240
    targets = (Target("peak memory under 500 MB", figure="peak_mb", at_most=500),)

    def __init__(self, *, smoke: bool = False) -> None:
        super().__init__(smoke=smoke)
        self.array = Array("listed", (100 if smoke else 1_000_000,), (100,))

    def prepare(self, place: Place) -> None:
        # Without bytes: a million pages of them would need four gigabytes.
        place.put([self.array.metadata()])
        place.put((key, b"") for key in self.array.chunk_keys())

    def expected(self) -> dict[str, int]:
        key, document = self.array.metadata()
        return {key: len(document), **dict.fromkeys(self.array.chunk_keys(), 0)}

    def run(self, root: Path) -> Figures:
        began = perf_counter()
        names = sum(1 for _ in os.scandir(root / self.array.name / "c"))
        if names != self.array.count:
            raise WrongBytes(f"{names} names of {self.array.count}")
        return {"names_rate": names / (perf_counter() - began), **super().run(root)}


CASES = (ListLocal, ListS3, ListLocalLarge, ListS3Large, Million)
