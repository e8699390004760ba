"""``python -m benchmarks``: run cases, print the tables, and write docs/BENCHMARKS.md."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from benchmarks import charts, report, results
from benchmarks.cases import CASES
from benchmarks.contenders import CONTENDERS
from benchmarks.runner import Runner

DOCS = Path(__file__).resolve().parent.parent / "docs"
STORED = Path("benchmarks/results.json")
REPETITIONS = 3


def main() -> int:
    """Return 0 if every run of this project, of the floor and of the libraries succeeded."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(asked)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(asked: argparse.Namespace) -> int:
    smoke = asked.scale == "smoke"
    names = asked.cases or [case.name for case in CASES if smoke or case.large == asked.large]
    cases = [case for case in CASES if case.name in names]
    contenders = [
        each
        for each in CONTENDERS
        if (each.name in asked.contenders if asked.contenders else not smoke or each.ours)
    ]
    # A part of the contenders, or the small form, is for whoever looks: the document says nothing of it.
    out = asked.out or (None if smoke or asked.contenders else DOCS)
    kept = [path for path in (asked.results, out and out / STORED) if path is not None]
    records = []
    with Runner(repetitions=1 if smoke else asked.repeat, smoke=smoke, tell=_tell) as runner:
        for case in cases:
            record = runner.run(case(smoke=smoke), contenders)
            records.append(record)
            for path in kept:
                _keep(path, record)
    if smoke:
        print("The small form of every case: its figures say nothing.")
    print("\n" + report.render(records))
    if out is not None:
        _publish(out)
    return _status(records)


def _keep(path: Path, record: results.Record) -> None:
    """Put what was measured now beside what was measured before."""
    known = results.load(path) | {record.case: record}
    results.save(path, {case.name: known[case.name] for case in CASES if case.name in known})


def _publish(out: Path) -> None:
    """Write the document of all that was measured."""
    records = list(results.load(out / STORED).values())
    drawn = charts.draw(records, out / STORED.parent)
    report.write(out / "BENCHMARKS.md", records, [f"{STORED.parent}/{path.name}" for path in drawn])


def _status(records: list[results.Record]) -> int:
    trusted = {contender.name for contender in CONTENDERS if not contender.peer}
    failed = [
        f"{record.case}: {outcome.contender}: {outcome.note}"
        for record in records
        for outcome in record.outcomes
        if outcome.note and outcome.contender in trusted
    ]
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return int(bool(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names, contenders = [case.name for case in CASES], [contender.name for contender in CONTENDERS]
    parser.add_argument("--cases", type=_among(names), help=f"some of: {', '.join(names)}")
    parser.add_argument("--contenders", type=_among(contenders), help=f"some of: {', '.join(contenders)}")
    parser.add_argument(
        "--large", action="store_true", help="the cases of 100,000 and more, instead of the others"
    )
    parser.add_argument("--scale", choices=["full", "smoke"], default="full")
    parser.add_argument("--repeat", type=int, default=REPETITIONS)
    parser.add_argument(
        "--out",
        type=Path,
        help="where BENCHMARKS.md goes (docs, if all contenders run at full scale)",
    )
    parser.add_argument("--results", type=Path, help="a file of JSON that the figures go to as well")
    return parser.parse_args()


def _among(names: list[str]) -> Callable[[str], list[str]]:
    def some(text: str) -> list[str]:
        given = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in given if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(names)}")
        return given

    return some


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
