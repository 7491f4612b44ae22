"""Replays as a picture: hit rates and time per token over the size of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moestro.trace.replays import Replayed, Setting

_STYLES = ("-", "--", ":", "-.")


def draw_replays(results: Sequence[Replayed], path: Path, title: str) -> None:
    """Writes an image: a line per setting, and the best hit rate that a policy can have. Raises ImportError without
    matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (rates, times) = pyplot.subplots(1, 2, figsize=(12, 4), layout="constrained")
    settings = list(dict.fromkeys(result.setting for result in results))
    policies = list(dict.fromkeys(setting.policy for setting in settings))
    others = list(dict.fromkeys((setting.prefetch, setting.planner) for setting in settings))
    for setting in settings:
        mine = sorted((result for result in results if result.setting == setting), key=lambda result: result.share)
        shares = [100 * result.share for result in mine]
        look = {
            "color": f"C{policies.index(setting.policy)}",
            "linestyle": _STYLES[others.index((setting.prefetch, setting.planner)) % len(_STYLES)],
            "marker": "o",
            "markersize": 3,
            "label": _label(setting, len(others) > 1),
        }
        rates.plot(shares, [100 * result.hit_rate for result in mine], **look)
        times.plot(shares, [1e3 * result.seconds_per_token for result in mine], **look)
    best = {100 * result.share: 100 * result.best_hit_rate for result in results}
    rates.plot(
        sorted(best),
        [best[share] for share in sorted(best)],
        color="black",
        linewidth=1,
        label="best, without prefetch",
    )
    rates.set_ylabel("hits, %")
    rates.set_ylim(0, 100)
    times.set_ylabel("milliseconds per token")
    times.set_ylim(bottom=0)
    for axes in (rates, times):
        axes.set_xlabel("experts that fit, %")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*rates.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _label(setting: Setting, whole: bool) -> str:
    parts = (setting.policy, setting.prefetch if setting.prefetch != "none" else "", setting.planner)
    return ", ".join(part for part in parts if part) if whole else setting.policy
