"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_DROP = Path("/proc/sys/vm/drop_caches")


def describe() -> dict[str, str]:
    """Return what of the machine matters; not whose it is."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _first("/proc/cpuinfo", "model name"),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "caches dropped": "yes" if os.access(_DROP, os.W_OK) else "no (not root): fresh mounts only",
    }


def _first(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"


def drop_caches() -> None:
    """Make the kernel forget, where we may."""
    if os.access(_DROP, os.W_OK):
        os.sync()
        _DROP.write_text("3")
