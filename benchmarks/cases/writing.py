"""Many files at once, and an array by zarr-python, durable when they are closed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.arrays import Array
from benchmarks.content import WrongBytes, check, content
from benchmarks.interface import MEMORY, Case, Figures, Target, rated
from benchmarks.parallel import in_tasks, in_threads
from benchmarks.places import Place
from benchmarks.requests import Call

WRITERS = 16


class Writing(Case):
    place = "s3"
    writes = True

    def _verify(self, place: Place, keys: Sequence[str], size: int) -> None:
        import obstore

        store = place.near().obstore()

        async def look(key: str) -> None:
            try:
                found = await (await obstore.get_async(store, key)).bytes_async()
            except FileNotFoundError:
                raise WrongBytes(f"{key} was closed, but is not stored") from None
            check(key, memoryview(found), size)

        in_tasks(32, keys, look)


class WriteFiles(Writing):
    name = "write-files"
    title = "2,000 files of 64 KiB written by 16 writers to S3 at 20 ms, durable at close"
    unit = "files/s"
    dataset = "write-files"
    size = 64 << 10
    targets = (
        Target("0.85 x obstore putting with 16 in parallel", at_least=0.85, of="obstore"),
        Target("ahead of every peer", at_least=1.0, of="best peer"),
        Target("1 request a file", figure="requests_per_file", at_most=1.01),
        MEMORY,
    )

    def __init__(self, *, smoke: bool = False) -> None:
        super().__init__(smoke=smoke)
        self.keys = [f"files/{number}" for number in range(40 if smoke else 2000)]

    def run(self, root: Path) -> Figures:
        (root / "files").mkdir()
        self.mark()

        def write(key: str) -> None:
            with open(f"{root}/{key}", "wb", buffering=0) as file:
                if file.write(content(key, self.size)) != self.size:
                    raise WrongBytes(f"{key}: not all bytes were taken")

        began = perf_counter()
        done = in_threads(WRITERS, self.within(self.keys), write)
        return rated(done, len(self.keys), perf_counter() - began)

    def obstore(self, place: Place) -> Figures:
        import obstore

        store = place.obstore()
        self.mark()

        async def write(key: str) -> None:
            await obstore.put_async(store, key, bytes(content(key, self.size)))

        began = perf_counter()
        done = in_tasks(WRITERS, self.within(self.keys), write)
        return rated(done, len(self.keys), perf_counter() - began)

    def count(self, calls: Sequence[Call], figures: Figures) -> Figures:
        mark = next(at for at, call in enumerate(calls) if call.kind == "MARK")
        return {"requests_per_file": (len(calls) - mark - 1) / figures["done"]}

    def verify(self, place: Place, figures: Figures) -> None:
        self._verify(place, self.keys[: int(figures["done"])], self.size)


class ZarrWrite(Writing):
    name = "zarr-write"
    title = "zarr-python writing an array of 1,000 chunks of 256 KiB to S3 at 20 ms"
    unit = "chunks/s"
    dataset = "zarr-write"
    deadline = 120
    targets = (Target("one put per chunk", figure="puts_per_chunk", at_most=1), MEMORY)

    def __init__(self, *, smoke: bool = False) -> None:
        super().__init__(smoke=smoke)
        self.array = Array("cube", (2, 2, 3) if smoke else (10, 10, 10), (64, 64, 64))

    def run(self, root: Path) -> Figures:
        from zarr.storage import LocalStore

        return self._write(LocalStore(root))

    def zarr_python(self, place: Place) -> Figures:
        from zarr.storage import ObjectStore

        return self._write(ObjectStore(place.obstore()))

    def _write(self, store: Any) -> Figures:
        import zarr

        values = self.array.values()
        began = perf_counter()
        array = zarr.create_array(
            store,
            name=self.array.name,
            shape=self.array.shape,
            chunks=tuple(self.array.chunk),
            dtype="uint8",
            compressors=None,
            filters=None,
        )
        array[:] = values
        return rated(self.array.count, self.array.count, perf_counter() - began)

    def count(self, calls: Sequence[Call], figures: Figures) -> Figures:
        puts = sum(call.kind in ("PUT", "COPY", "POST") and "/c/" in call.path for call in calls)
        return {"puts_per_chunk": puts / self.array.count}

    def verify(self, place: Place, figures: Figures) -> None:
        self._verify(place, list(self.array.chunk_keys()), self.array.size)


CASES = (WriteFiles, ZarrWrite)
