"""What was measured, and what it says about the targets; kept as JSON between runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

from benchmarks.interface import Figures, Target

OURS = "zarrmount"


@dataclass
class Outcome:
    """What one contender did in one case.

    Attributes
    ----------
    contender, version : str
        Who.
    peer : bool
        Whether it is one of those that this project is held against.
    runs : list of Figures
        One for each repetition.
    note : str
        Why there is none, or no more.
    """

    contender: str
    version: str
    peer: bool
    runs: list[Figures] = field(default_factory=list)
    note: str = ""

    def median(self, figure: str) -> float | None:
        """Return the median of a figure, None if it was not measured."""
        values = [run[figure] for run in self.runs if figure in run]
        return median(values) if values else None


@dataclass
class Record:
    """One case as it was run once, on all contenders side by side.

    Attributes
    ----------
    case, title, place, figure, unit : str
        As the case has them.
    date : str
        When.
    machine : dict
        On what.
    targets : list of Target
        What is to be reached.
    outcomes : list of Outcome
        What came of it.
    """

    case: str
    title: str
    place: str
    figure: str
    unit: str
    date: str
    machine: dict[str, str]
    targets: list[Target]
    outcomes: list[Outcome]

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """Return a record from its JSON."""
        targets = [Target(**target) for target in values.pop("targets")]
        outcomes = [Outcome(**outcome) for outcome in values.pop("outcomes")]
        return cls(**values, targets=targets, outcomes=outcomes)

    def of(self, contender: str) -> Outcome | None:
        """Return what a contender did."""
        return next((outcome for outcome in self.outcomes if outcome.contender == contender), None)

    def best_peer(self, figure: str) -> Outcome | None:
        """Return the peer with the highest figure."""
        peers = [outcome for outcome in self.outcomes if outcome.peer and outcome.median(figure) is not None]
        return max(peers, key=lambda outcome: outcome.median(figure) or 0, default=None)

    def measured(self, target: Target) -> tuple[float | None, str]:
        """Return what stands against a target's bound, and whose figure it was divided by."""
        ours = self.of(OURS)
        value = ours.median(target.figure) if ours is not None else None
        if target.of is None or value is None:
            return value, ""
        other = self.best_peer(target.figure) if target.of == "best peer" else self.of(target.of)
        divisor = other.median(target.figure) if other is not None else None
        if other is None or not divisor:
            return None, ""
        return value / divisor, other.contender


def reached(target: Target, value: float) -> bool:
    """Tell whether a target is reached."""
    if target.at_least is not None:
        return value >= target.at_least
    return target.at_most is None or value <= target.at_most


def load(path: Path) -> dict[str, Record]:
    """Return the records of former runs, by case."""
    if not path.exists():
        return {}
    return {values["case"]: Record.read(values) for values in json.loads(path.read_text())}


def save(path: Path, records: dict[str, Record]) -> None:
    """Keep records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([_rounded(asdict(record)) for record in records.values()], indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value
