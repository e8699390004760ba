"""Counts of the reliability suites: printed at the end, and written as JSON if that is asked for.

``ZARRMOUNT_SOAK=1`` makes all suites long; ``ZARRMOUNT_RELIABILITY_JSON=FILE`` writes the counts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reliability.tally import TALLY
from servers import S3Server, radosgw

_BEGAN = time.monotonic()


@pytest.fixture(scope="session")
def gateway() -> Iterator[S3Server]:
    """A real S3 server, for all suites here."""
    with radosgw() as server:
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was done, and what was lost."""
    if not TALLY.counts:
        return
    failed = [
        report
        for kind in ("failed", "error")
        for report in terminalreporter.stats.get(kind, [])
        if "reliability/" in report.nodeid
    ]
    TALLY.counts["failed tests"] = len(failed)
    TALLY.counts["losses"] = sum(
        "walk.Loss: " in r.longreprtext or "LOSS: " in r.longreprtext for r in failed
    )
    terminalreporter.section("reliability")
    for name, count in sorted(TALLY.counts.items()):
        terminalreporter.write_line(f"{name}: {count}")
    target = os.environ.get("ZARRMOUNT_RELIABILITY_JSON")
    if target:
        told = {"seconds": round(time.monotonic() - _BEGAN), **dict(sorted(TALLY.counts.items()))}
        Path(target).write_text(json.dumps(told, indent=2) + "\n")
