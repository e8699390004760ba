"""Tables, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import OURS, Outcome, Record, reached

BY_HAND = "<!-- What follows is written by hand; the benchmark leaves it as it is. -->"
_HOW = """\
Measured by `make bench` (`make bench-large` for the cases of 100,000 and more). Every contender does each
case in turn, up to three times, each time on a fresh mount; the tables show medians. Local stores are in
memory, so that it is the mount that is measured and not a disk; S3 is Ceph's RADOS Gateway with 20 ms
before every request, and the requests are counted there. All bytes that are read are compared with what was
stored. A contender that is slow is stopped after some seconds and judged by what it did until then; one
that hangs is killed, and its row says so.

*zarrmount is* says how many times a contender's figure zarrmount's is. `rclone (tuned)` is rclone with the
options that its manual advises for reading from S3 (`benchmarks/contenders/rclone.py`), `C floor` a C
server that answers from memory (`benchmarks/floor.c`); `obstore` and `zarr-python` (on obstore) work
without a mount."""
_KINDS = ("get", "head", "list", "put", "copy", "post", "delete")
_SHOWN_OTHERWISE = {"seconds", "rate", "part", "done", "peak_mb", "ready_s", "fetched_mb", "requests"} | {
    f"requests_{kind}" for kind in _KINDS
}


def write(path: Path, records: Sequence[Record], charts: Sequence[str]) -> None:
    """Write the document anew, but for what somebody wrote at its end."""
    before = path.read_text() if path.exists() else ""
    _, found, by_hand = before.partition(BY_HAND)
    text = render(records, charts)
    path.write_text(f"{text}\n{BY_HAND}{by_hand if found else chr(10)}")


def render(records: Sequence[Record], charts: Sequence[str] = ()) -> str:
    """Return the document: what is reached, the charts, and every case."""
    parts = ["# Benchmarks", *_introduction(records), "## Targets", targets(records)]
    parts += [f"![{Path(chart).stem}]({chart})" for chart in charts]
    parts += ["## Cases"]
    for record in records:
        parts += [f"### {record.case}", f"{record.title[0].upper()}{record.title[1:]}.", table(record)]
    return "\n\n".join(parts) + "\n"


def _introduction(records: Sequence[Record]) -> list[str]:
    parts = [_HOW]
    machines = {tuple(record.machine.items()): record for record in records}
    for described, record in machines.items():
        parts.append(
            f"Machine ({record.date}): " + ", ".join(f"{name} {value}" for name, value in described) + "."
        )
    versions = {outcome.contender: outcome.version for record in records for outcome in record.outcomes}
    parts.append(
        "Versions: " + ", ".join(f"{name} {value}" for name, value in versions.items() if value) + "."
    )
    return parts


def targets(records: Sequence[Record]) -> str:
    """Return the table of what was to be reached."""
    rows = [("case", "to reach", "measured", "reached")]
    for record in records:
        for target in record.targets:
            value, of = record.measured(target)
            if value is None:
                rows.append((record.case, target.text, "not measured", ""))
                continue
            bound = target.at_least if target.at_least is not None else target.at_most
            sign = "at least" if target.at_least is not None else "at most"
            told = (
                f"{_number(value)} x {of} ({sign} {bound:.2f})"
                if of
                else f"{_number(value)} ({sign} {bound:g})"
            )
            rows.append((record.case, target.text, told, "yes" if reached(target, value) else "**no**"))
    return _markdown(rows)


def table(record: Record) -> str:
    """Return the table of one case."""
    extras = sorted(
        {
            name
            for outcome in record.outcomes
            for run in outcome.runs
            for name in run
            if name not in _SHOWN_OTHERWISE and name != record.figure
        }
    )
    s3 = record.place == "s3"
    head = ["contender", record.unit, "zarrmount is", *(name.replace("_", " ") for name in extras)]
    head += [*["requests", "MB fetched"] * s3, "peak MB", "runs", ""]
    rows = [tuple(head)]
    for outcome in record.outcomes:
        cells = [outcome.contender, _cell(outcome, record.figure), _ratio(record, outcome)]
        cells += [_cell(outcome, name) for name in extras]
        if s3:
            cells += [_requests(outcome), _cell(outcome, "fetched_mb")]
        rows.append((*cells, _cell(outcome, "peak_mb"), str(len(outcome.runs)), _note(outcome)))
    return _markdown(rows)


def _ratio(record: Record, outcome: Outcome) -> str:
    ours, theirs = record.of(OURS), outcome.median(record.figure)
    own = ours.median(record.figure) if ours is not None else None
    return f"{own / theirs:.2f} x" if own and theirs and outcome is not ours else ""


def _requests(outcome: Outcome) -> str:
    total = outcome.median("requests")
    if total is None:
        return ""
    kinds = {kind.upper(): outcome.median(f"requests_{kind}") for kind in _KINDS}
    return f"{total:.0f} ({', '.join(f'{number:.0f} {kind}' for kind, number in kinds.items() if number)})"


def _note(outcome: Outcome) -> str:
    part = outcome.median("part")
    stopped = [f"stopped after {part:.0%} of it"] if part is not None and part < 1 else []
    return "; ".join([*stopped, *[outcome.note[:120].replace("|", "/")] * bool(outcome.note)])


def _cell(outcome: Outcome, figure: str) -> str:
    value = outcome.median(figure)
    return "" if value is None else _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
