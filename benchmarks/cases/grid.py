"""An array of 1,000 chunks on S3: walked one by one, read by zarr-python, opened at one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from benchmarks.arrays import Array
from benchmarks.content import WrongBytes, check
from benchmarks.interface import MEMORY, Case, Figures, Target, rated
from benchmarks.parallel import in_tasks
from benchmarks.places import Place
from benchmarks.requests import Call

PARALLEL = 32


class OnTheGrid(Case):
    dataset = "grid"
    place = "s3"

    def __init__(self, *, smoke: bool = False) -> None:
        super().__init__(smoke=smoke)
        self.array = Array("cube", (2, 3, 4) if smoke else (10, 10, 10), (64, 64, 64))

    def prepare(self, place: Place) -> None:
        place.put(self.array.objects())


class Walk(OnTheGrid):
    unit = "chunks/s"
    order: ClassVar[tuple[int, ...]] = (0, 1, 2)
    backwards: ClassVar[bool] = False
    targets = (Target("0.85 x obstore with 32 in parallel", at_least=0.85, of="obstore"), MEMORY)

    def keys(self) -> Any:
        return self.within(self.array.chunk_keys(self.order, backwards=self.backwards))

    def run(self, root: Path) -> Figures:
        done, began = 0, perf_counter()
        for key in self.keys():
            with open(f"{root}/{key}", "rb", buffering=0) as file:
                check(key, file.read(), self.array.size)
            done += 1
        return rated(done, self.array.count, perf_counter() - began)

    def obstore(self, place: Place) -> Figures:
        import obstore

        store = place.obstore()

        async def get(key: str) -> None:
            found = await obstore.get_async(store, key)
            check(key, memoryview(await found.bytes_async()), self.array.size)

        began = perf_counter()
        done = in_tasks(PARALLEL, self.keys(), get)
        return rated(done, self.array.count, perf_counter() - began)


class WalkInOrder(Walk):
    name = "grid"
    title = "1,000 chunks of 256 KiB on S3 at 20 ms, one reader in grid order"


class WalkBackwards(Walk):
    name = "grid-reversed"
    title = "the same, reversed"
    backwards = True


class WalkMiddle(Walk):
    name = "grid-middle"
    title = "the same, along the middle dimension"
    order = (0, 2, 1)


class WalkFirst(Walk):
    name = "grid-first"
    title = "the same, along the first dimension"
    order = (2, 1, 0)


class ZarrRead(OnTheGrid):
    name = "zarr-read"
    title = "1,000 chunks of 256 KiB on S3 at 20 ms, zarr-python reading the whole array"
    unit = "chunks/s"
    targets = (
        Target("at most 1.2 x the time of zarr-python on obstore", at_least=1 / 1.2, of="zarr-python"),
        MEMORY,
    )

    def run(self, root: Path) -> Figures:
        from zarr.storage import LocalStore

        return self._read(LocalStore(root, read_only=True))

    def zarr_python(self, place: Place) -> Figures:
        from zarr.storage import ObjectStore

        return self._read(ObjectStore(place.obstore(), read_only=True))

    def _read(self, store: Any) -> Figures:
        import zarr

        began = perf_counter()
        values: Any = zarr.open_array(store, path=self.array.name, mode="r")[:]
        seconds = perf_counter() - began
        for index in self.array.indices():
            if (values[self.array.region(index)] != self.array.values_of(index)).any():
                raise WrongBytes(f"other values in chunk {index} than were stored")
        return rated(self.array.count, self.array.count, seconds)


class OpenOne(OnTheGrid):
    name = "open-one"
    title = "open of one cold chunk of a known array on S3 at 20 ms"
    unit = "requests"
    figure = "requests_open"
    targets = (Target("1 request", figure="requests_open", at_most=1), MEMORY)

    def run(self, root: Path) -> Figures:
        (root / self.array.name / "zarr.json").read_bytes()
        self.mark()
        began = perf_counter()
        key = self.array.key((1, 2, 3))
        with open(f"{root}/{key}", "rb", buffering=0) as file:
            check(key, file.read(), self.array.size)
        return {"seconds": perf_counter() - began, "part": 1}

    def count(self, calls: Sequence[Call], figures: Figures) -> Figures:
        mark = next(at for at, call in enumerate(calls) if call.kind == "MARK")
        return {"requests_open": len(calls) - mark - 1}


CASES = (WalkInOrder, WalkBackwards, WalkMiddle, WalkFirst, ZarrRead, OpenOne)
