"""Run all test suites one after the other and print their counts together.

zarr-python's own store tests are asyncio tests and want another pytest mode
than ours, which run under trio: hence more than one run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SUITES = {
    "stores, units and VFS": ["tests/unit", "tests/vfs", "tests/stores"],
    "real mounts": ["tests/mount"],
    "real tools": ["tests/tools"],
    "faults, crashes, outages": ["tests/reliability"],
    "zarr-python's StoreTests": ["tests/zarr_suite", "-o", "trio_mode=false", "-o", "asyncio_mode=auto"],
}
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")


def main() -> int:
    """Run the suites; return 0 only when each ran tests and none failed."""
    totals: dict[str, int] = {}
    lines = []
    worst = theirs = 0
    for name, arguments in SUITES.items():
        began = time.monotonic()
        status, counts = _run(arguments)
        worst = worst or status
        theirs = counts.get("skipped", 0)  # of the last suite, which is zarr-python's
        for kind, count in counts.items():
            totals[kind] = totals.get(kind, 0) + count
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing ran"
        lines.append(f"  {name}: {told} in {time.monotonic() - began:.0f} s")
    print("\nall suites\n" + "\n".join(lines))
    bad = totals.get("failed", 0) + totals.get("error", 0) + totals.get("skipped", 0)
    bad -= theirs  # newer zarr-python skips its tests of synchronous methods for stores without them
    print(f"{totals.get('passed', 0)} passed, {bad} failed")
    return worst or int(bad > 0 or not totals.get("passed"))


def _run(arguments: list[str]) -> tuple[int, dict[str, int]]:
    command = [sys.executable, "-m", "pytest", "-q", "--durations=5", *arguments]
    print("\n$", " ".join(command[1:]), flush=True)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            if _COUNT.search(line):
                last = line
    counts = {
        kind.removesuffix("s") if kind == "errors" else kind: int(n) for n, kind in _COUNT.findall(last)
    }
    return process.returncode, counts


if __name__ == "__main__":
    sys.exit(main())
