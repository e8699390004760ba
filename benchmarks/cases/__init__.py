"""All cases, in the order of the tables."""

from __future__ import annotations

from benchmarks.cases import grid, large_object, listing, random_reads, small_chunks, start, writing
from benchmarks.interface import Case

CASES: tuple[type[Case], ...] = (
    *small_chunks.CASES,
    *large_object.CASES,
    *listing.CASES,
    *grid.CASES,
    *random_reads.CASES,
    *writing.CASES,
    *start.CASES,
)

__all__ = ["CASES"]
