"""A timeline as a picture: a row per lane, a bar per event."""

from __future__ import annotations

from pathlib import Path

from moestro.trace.timeline import LANES, Timeline

_COLOURS = {
    "attention": "#4c78a8",
    "mlp": "#72b7b2",
    "route": "#b279a2",
    "experts": "#54a24b",
    "head": "#9d755d",
    "stall": "#e4e4e4",
    "read": "#f58518",
}


def draw(timeline: Timeline, path: Path) -> None:
    """Writes an image. Steps are marked by lines. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    begin, end = timeline.span
    used = [lane for lane in LANES if any(event.lane == lane for event in timeline.events)]
    figure, axes = pyplot.subplots(figsize=(13, 1.4 + 0.7 * len(used)))
    shown = {event.activity for event in timeline.events if event.activity in _COLOURS}
    for row, lane in enumerate(used):
        for activity in sorted(shown, key=lambda name: name != "stall"):
            bars = [
                ((event.started - begin) / 1e6, (event.done - event.started) / 1e6)
                for event in timeline.events
                if (event.lane, event.activity) == (lane, activity)
            ]
            axes.broken_barh(bars, (row - 0.4, 0.8), facecolors=_COLOURS[activity], linewidth=0)
    for event in timeline.events:
        if event.activity == "step":
            axes.axvline((event.done - begin) / 1e6, color="black", linewidth=0.7)
    busy = timeline.busy()
    axes.set_yticks(range(len(used)), [f"{lane}\n{busy[lane]:.0%} busy" for lane in used])
    axes.set_xlim(0, max(1, end - begin) / 1e6)
    axes.set_xlabel("milliseconds; a line ends a step")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    patches = [Patch(color=colour, label=name) for name, colour in _COLOURS.items() if name in shown]
    axes.legend(handles=patches, ncols=len(patches), loc="upper center", bbox_to_anchor=(0.5, 1.28), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
