"""Charts of the same, in PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import OURS, Record

_COLUMNS = 3
_COLOURS = {OURS: "#c2410c", "C floor": "#475569", "obstore": "#475569", "zarr-python": "#475569"}
_OF_A_PEER = "#93c5fd"


def draw(records: Sequence[Record], directory: Path) -> list[Path]:
    """Draw the figures of the local cases and of those on S3, and the peak memory of all."""
    directory.mkdir(parents=True, exist_ok=True)
    local = [record for record in records if record.place == "local"]
    remote = [record for record in records if record.place == "s3"]
    return [
        *_draw(local, None, directory / "local.png"),
        *_draw(remote, None, directory / "s3.png"),
        *_draw(records, "peak_mb", directory / "memory.png"),
    ]


def _draw(records: Sequence[Record], figure: str | None, path: Path) -> list[Path]:
    shown = [(record, _bars(record, figure or record.figure)) for record in records]
    shown = [(record, bars) for record, bars in shown if bars]
    if not shown:
        return []
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = -(-len(shown) // _COLUMNS)
    page, axes = plt.subplots(rows, _COLUMNS, figsize=(15, 2.6 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    for (record, bars), axis in zip(shown, axes.flat, strict=False):
        names = list(bars)
        drawn = axis.barh(
            names, list(bars.values()), color=[_COLOURS.get(name, _OF_A_PEER) for name in names]
        )
        axis.bar_label(drawn, fmt=lambda value: f" {value:.3g}", fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_title(f"{record.case}: {'peak MB' if figure else record.unit}", fontsize=9)
        axis.tick_params(labelsize=8)
    page.savefig(path, dpi=100)
    plt.close(page)
    return [path]


def _bars(record: Record, figure: str) -> dict[str, float]:
    values = {outcome.contender: outcome.median(figure) for outcome in record.outcomes}
    return {name: value for name, value in values.items() if value is not None}
