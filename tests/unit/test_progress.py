"""How far it is: what is measured, what is said, and when."""

from __future__ import annotations

import contextlib
import io
import os
import pty
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from zarrmount import progress
from zarrmount.progress import Progress, RateMeter, StoringMeter, drawn, in_words


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=made))
    return made


def test_what_is_stored_is_what_is_dirty_no_more() -> None:
    clock = Clock()
    meter = StoringMeter(clock)
    found = meter.measure([("a", 100), ("b", 200)], {})
    assert found == Progress(done_bytes=0, total_bytes=300, total_files=2)
    clock.now = 2.0
    found = meter.measure([("b", 200)], {"b": "why"})
    assert (found.done_files, found.total_files) == (1, 2)
    assert (found.done_bytes, found.total_bytes, found.rate) == (100, 300, 50.0)
    assert (found.retrying, found.retrying_files) == ({"b": "why"}, 1)


def test_what_is_written_meanwhile_counts() -> None:
    meter = StoringMeter(Clock())
    meter.measure([("a", 100)], {})
    found = meter.measure([("a", 150), ("new", 10)], {})
    assert (found.done_bytes, found.total_bytes, found.total_files) == (0, 160, 2)
    found = meter.measure([], {})
    assert (found.done_bytes, found.done_files) == (160, 2)
    found = meter.measure([("a", 120)], {})  # written to once more
    assert (found.done_bytes, found.total_bytes, found.done_files) == (10, 130, 1)


def test_few_of_many_retries_are_named() -> None:
    found = StoringMeter(Clock()).measure([], {f"k{number}": "why" for number in range(1000)})
    assert len(found.retrying) == 5
    assert in_words("storing", found).endswith("; retrying 'k4': why; retrying 995 more")


def test_the_rate_is_that_of_late() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    assert meter.rate(0) == 0
    for second in range(1, 21):
        clock.now = second
        assert meter.rate(100 * second) == 100
    for second in range(21, 31):
        clock.now = second
        meter.rate(2000)
    assert meter.rate(2000) == 0
    assert meter.rate(1000) == 0  # more came to be done


def test_in_words() -> None:
    told = Progress(
        done_bytes=1_234_000_000,
        total_bytes=4_000_000_000,
        done_files=12,
        total_files=40,
        rate=80_000_000,
        retrying={"a/b\n": "no\nanswer"},
        retrying_files=1,
    )
    assert in_words("storing", told) == (
        "storing: 12 of 40 files, 1.2 GB of 4.0 GB, 80.0 MB/s; retrying 'a/b\\n': no answer"
    )
    assert in_words("compacting", Progress(done_bytes=1, total_bytes=2)) == (
        "compacting: 1 byte of 2 bytes, 0 bytes/s"
    )


def test_a_line_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    said = []
    with drawn("storing", stream) as show:
        for tenth in range(131):
            clock.now = tenth / 10
            before = stream.tell()
            show(Progress(done_bytes=tenth, total_bytes=130))
            if stream.tell() > before:
                said.append(tenth)
    assert said == [10, 60, 110]
    assert stream.getvalue().count("\n") == 3


def _until_it_ends(terminal: io.FileIO) -> Iterator[bytes]:
    """Yield what comes from a terminal until the last who could write to it has closed it."""
    with contextlib.suppress(OSError):
        while part := terminal.read(65536):
            yield part


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setenv("TERM", term)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with os.fdopen(theirs, "w") as stream:
            with drawn("storing", stream) as show:
                show(Progress(done_bytes=0, total_bytes=100))  # too soon
                clock.now = 2.0
                show(Progress(done_bytes=50, total_bytes=100, retrying={"key": "why"}, retrying_files=1))
        seen = b"".join(_until_it_ends(terminal)).decode()
    assert "50 bytes of 100 bytes" in seen
    assert "0 bytes of 100 bytes" not in seen.replace("50 bytes", "")
    assert "retrying 'key': why" in seen
    assert ("━" in seen, "\x1b[" in seen) == ((True, True) if term == "xterm" else (False, False))
