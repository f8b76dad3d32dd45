"""Pictures of a run: rates over the length, a panel per spec and head dim, with all contenders and the ceiling, and
bars of times where there is one length.

The one module that imports matplotlib, which is an extra: `pip install attngen[bench]`.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from attngen.bench.grid import Cell
from attngen.bench.record import BenchRun, Result
from attngen.bench.report import OURS, by_cell, least_seconds

_OURS_COLOR = "black"


def draw_all(runs: tuple[BenchRun, ...], stem: Path) -> tuple[Path, ...]:
    """Write the figures as STEM-....png and return their paths. Of cells that several runs have, the last counts."""
    written: list[Path] = []
    for kind in ("cuda", "cpu"):
        lines, bars = _split(_latest(run for run in runs if run.environment.kind == kind))
        for (direction, mask), panels in _figures(lines).items():
            written.append(_draw(panels, _line_panel, stem, f"{kind}-{direction}-{mask}"))
        if bars:
            written.append(_draw({cell.title: {cell: found} for cell, found in bars.items()}, _bar_panel, stem, kind))
    return tuple(written)


def _latest(runs: Iterable[BenchRun]) -> "Panel":
    """Cells with a time, each as the last run has it."""
    found = {cell: (run, results) for run in runs for cell, results in by_cell(run.results)}
    return {cell: (run, results) for cell, (run, results) in found.items() if any(r.times for r in results)}


Found = tuple[BenchRun, list[Result]]
Panel = dict[Cell, Found]


def _split(latest: Panel) -> tuple[Panel, Panel]:
    """Cells that differ from another one in the length alone, and the rest."""
    lengths: dict[object, set[int]] = {}
    for cell in latest:
        lengths.setdefault(_series(cell), set()).add(cell.case.n_k)
    over_length = {cell: found for cell, found in latest.items() if len(lengths[_series(cell)]) > 1}
    return over_length, {cell: found for cell, found in latest.items() if cell not in over_length}


def _series(cell: Cell) -> object:
    case = cell.case
    return cell.spec, cell.direction, cell.quantity, case.d, case.dtype, case.is_causal, case.group, cell.is_decoding


def _figures(cells: Panel) -> dict[tuple[str, str], dict[str, Panel]]:
    """(direction, mask) -> title of a panel -> its cells."""
    found: dict[tuple[str, str], dict[str, Panel]] = {}
    for cell, results in cells.items():
        case = cell.case
        mask = "causal" if case.is_causal else "full"
        grouped = f", {case.group} queries per key head" if case.group > 1 else ""
        title = f"{cell.spec}, D = {case.d}, {case.dtype}{grouped}"
        found.setdefault((cell.direction, mask), {}).setdefault(title, {})[cell] = results
    return found


def _draw(panels: dict[str, Panel], draw: Callable[[Any, Panel], None], stem: Path, name: str) -> Path:
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns, 3.4 * rows), squeeze=False)
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=False):
        draw(axis, panel)
        axis.set_title(title, fontsize=8)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    run = next(iter(next(iter(panels.values())).values()))[0]
    figure.suptitle(f"{name}: {run.environment.device}, {run.started[:10]}", fontsize=10)
    figure.tight_layout()
    path = stem.with_name(f"{stem.name}-{name}.png")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def _line_panel(axis: Any, panel: Panel) -> None:
    series: dict[str, list[tuple[int, float]]] = {}
    for cell, (_, results) in panel.items():
        for result in results:
            if result.rate is not None:
                series.setdefault(result.contender, []).append((cell.case.n_k, result.rate / 1e12))
    for contender, points in series.items():
        color = {"color": _OURS_COLOR, "linewidth": 2.2} if contender == OURS else {}
        axis.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, label=contender, **color)
    run, cell = next(iter(panel.values()))[0], next(iter(panel))
    for ceiling in run.ceilings:
        if ceiling.what == "matrix product" and ceiling.dtype == cell.case.dtype:
            axis.axhline(ceiling.rate / 1e12, color="gray", linestyle=":", label="matrix product")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("length", fontsize=7)
    axis.set_ylabel("TFLOP/s", fontsize=7)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6)


def _bar_panel(axis: Any, panel: Panel) -> None:
    ((cell, (run, results)),) = panel.items()
    shown = [result for result in reversed(results) if result.times]
    times = [result.times.median * 1e3 for result in shown if result.times]
    colors = [_OURS_COLOR if result.contender == OURS else "C0" for result in shown]
    bars = axis.barh([result.contender for result in shown], times, color=colors)
    axis.bar_label(bars, [f"{time:,.0f}" if time >= 100 else f"{time:.3g}" for time in times], fontsize=6, padding=2)
    limit = least_seconds(run, cell)
    if limit is not None:
        axis.axvline(limit * 1e3, color="gray", linestyle=":", label="ceiling")
        axis.legend(fontsize=6)
    axis.set_xlabel("ms", fontsize=7)
    axis.margins(x=0.15)
    axis.tick_params(labelsize=7)
