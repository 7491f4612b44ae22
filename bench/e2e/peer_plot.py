"""Two bar charts, decode and prefill, whiskers from the least to the most of the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from peer_cases import Case
from peer_figures import Figures

_COLOURS = {"moestro": "#1b6ca8", "llama.cpp": "#d98324", "transformers": "#7a7a7a"}


def plot(path: Path, cases: Sequence[Case], found: Mapping[str, Figures], title: str) -> None:
    """Writes an image. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(13, 1.2 + 0.38 * len(cases)), sharey=True)
    for panel, what in zip(panels, ("decode", "prefill"), strict=True):
        values = [getattr(found[case.name], what) for case in cases]
        middle = [value.median for value in values]
        below = [value.median - value.least for value in values]
        above = [value.most - value.median for value in values]
        colours = [_COLOURS[case.family] for case in cases]
        bars = panel.barh([case.name for case in cases], middle, xerr=[below, above], color=colours, capsize=2)
        panel.bar_label(bars, [f"{value:.1f}" for value in middle], padding=4, fontsize=8)
        panel.set_xlabel(f"{what}, tokens/s")
        panel.margins(x=0.12)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
