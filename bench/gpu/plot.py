"""Decode and prefill over the share of the experts that fits the device, a line per schedule, a row per model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COLOURS = {
    "hybrid": "#1b6ca8",
    "hybrid + prefetch": "#5aa9e6",
    "on_demand": "#d98324",
    "static": "#6a994e",
    "cpu": "#8a8a8a",
}


def plot(path: Path, result: Mapping[str, Any]) -> None:
    """Writes an image; says so where matplotlib is missing, or there is nothing to show."""
    models = {name: model for name, model in result.get("models", {}).items() if model.get("runs")}
    if not models:
        print("no plot: no model was measured")
        return
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(len(models), 2, figsize=(10, 3.4 * len(models)), squeeze=False)
    for row, (name, model) in zip(grid, models.items(), strict=True):
        for panel, what in zip(row, ("decode", "prefill"), strict=True):
            _draw(panel, model["runs"], what)
            panel.set_ylabel(f"{what}, tokens/s" + (" (dotted: predicted)" if what == "decode" else ""))
            panel.set_xlabel("share of the experts in device memory")
            panel.set_ylim(bottom=0)
            panel.spines[["top", "right"]].set_visible(False)
        row[0].set_title(name, fontsize=9, loc="left")
        row[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{result['gpu']}, commit {result['commit']}, {result['date']}", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw(panel: Any, runs: list[dict[str, Any]], what: str) -> None:
    for case in dict.fromkeys(run["case"] for run in runs):
        mine = sorted((run for run in runs if run["case"] == case), key=lambda run: run["share"])
        colour = _COLOURS.get(case)
        values = [run[f"{what}_tokens_per_s"] for run in mine]
        if len(mine) == 1:  # the device's memory makes no difference
            panel.axhline(values[0], color=colour, linestyle="--", label=case)
            continue
        shares = [run["share"] for run in mine]
        panel.plot(shares, values, marker="o", color=colour, label=case)
        foreseen = [(run["share"], 1 / run["predicted_s"]) for run in mine if run.get("predicted_s")]
        if what == "decode" and foreseen:
            panel.plot(*zip(*foreseen, strict=True), linestyle=":", marker="x", color=colour)
