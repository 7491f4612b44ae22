"""Bars of decode and prefill for each share of the model's size that was left, one colour per peer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

_COLOURS = {"moestro": "#1b6ca8", "llama.cpp": "#d98324"}


class Measured(Protocol):
    @property
    def peer(self) -> str: ...
    @property
    def memory(self) -> float: ...


def plot(path: Path, runs: Sequence[Measured], title: str) -> None:
    """Writes an image; says so where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shares = list(dict.fromkeys(run.memory for run in runs))
    peers = list(dict.fromkeys(run.peer for run in runs))
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3.6))
    for panel, what in zip(panels, ("decode", "prefill"), strict=True):
        for number, peer in enumerate(peers):
            groups = [
                [getattr(run, what) for run in runs if (run.peer, run.memory) == (peer, share)] for share in shares
            ]
            middle = [statistics.median(group) for group in groups]
            spread = [
                [value - min(group) for value, group in zip(middle, groups, strict=True)],
                [max(group) - value for value, group in zip(middle, groups, strict=True)],
            ]
            places = [index + 0.8 * (number + 0.5) / len(peers) - 0.4 for index in range(len(shares))]
            bars = panel.bar(
                places, middle, 0.75 / len(peers), yerr=spread, capsize=3, color=_COLOURS[peer], label=peer
            )
            panel.bar_label(bars, [f"{value:.3g}" for value in middle], padding=3, fontsize=8)
        panel.set_xticks(range(len(shares)), [f"{share:.0%} of the model" for share in shares])
        panel.set_ylabel(f"{what}, tokens/s")
        panel.margins(y=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.suptitle(title, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
