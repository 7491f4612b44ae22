"""The measured part of docs/policies.md: records the demo model, replays it in every way, and writes tables and a plot.

    python bench/policies/page.py            # some two minutes; needs matplotlib for the plot

Replays run on a virtual clock, the model's answers are drawn by fixed seeds: the same figures on every machine.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import figures
from bench_record import record, write_json
from claims import Claim, claims
from figures import Cell, Foreseen
from moestro.threads import default_threads
from moestro.trace.machines import read_machine
from moestro.trace.replays import Replayed, Setting
from stories import JUDGED, LEARNT, MODEL, Stories, record_stories
from systems import AUTO, ON_DEMAND, SPLIT, SYSTEMS, Taken

_ROOT = Path(__file__).resolve().parents[2]
PAGE = _ROOT / "docs" / "policies.md"
_WIDTH = 125  # of the page
RESULTS = _ROOT / "bench" / "results"
BEGIN, END = "<!-- measured: begin (bench/policies/page.py) -->", "<!-- measured: end -->"


def main() -> None:
    arguments = _arguments()
    head = record(default_threads())
    stories = record_stories()
    print(f"recorded {stories.learnt.chosen.shape[1]} tokens to learn from, {stories.judged.chosen.shape[1]} to judge")
    learnt, why_no_path = figures.learn(stories)
    rates = figures.hit_rates(stories, learnt)
    foreseen = dict(figures.foresight(stories, learnt, AUTO.policy))
    if why_no_path:
        foreseen["path"] = why_no_path
    compared = figures.compare(stories, learnt)
    checked = list(claims(rates, compared))
    lines = [
        *_head(head, stories),
        *_rates(rates),
        *_foresight(foreseen),
        *_comparison(compared),
        *_claims(checked),
    ]
    write_between(arguments.page, lines)
    write_json(arguments.json, {**head, **_plain(rates, foreseen, compared, checked)})
    _plot(rates, arguments.plot, f"{MODEL}, experts of {figures.FORESEEN_MODEL} on a laptop without a GPU")
    print(*lines, sep="\n")


def write_between(page: Path, lines: Sequence[str]) -> None:
    """Replaces what stands between the markers."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page}: expected the lines {BEGIN} and {END}, in this order")
    page.write_text("\n".join((before + BEGIN, *lines, END + after)), encoding="utf-8")


def _head(head: Mapping[str, Any], stories: Stories) -> Iterator[str]:
    counted = stories.judged.chosen.shape[1] - stories.first_step
    layers, _, top_k = stories.judged.chosen.shape
    experts = int(stories.judged.array("experts")[0])
    yield from _prose(
        f"`{head['command']}`, {head['date']}, commit {head['commit']}, {head['machine']}."
        f" `{MODEL}` ({layers} layers of {experts} experts, {top_k} per token) wrote {len(LEARNT)} texts to learn from"
        f" ({stories.learnt.chosen.shape[1]} tokens) and {len(JUDGED)} others: the first fills the caches, {counted}"
        " tokens are counted, one per step."
    )
    yield ""


def _rates(rates: Sequence[Replayed]) -> Iterator[str]:
    yield "### Hits without reading ahead"
    yield "What part of the asked-for experts was in memory, by the share of all experts that fits:"
    yield ""
    yield from _table(("policy", *(f"{share:.3g} %" for share in (100 * share for share in figures.SHARES))))
    best = {one.slots: one.best_hit_rate for one in rates}
    for policy in dict.fromkeys(one.setting.policy for one in rates):
        yield _row(f"`{policy}`", *(_percent(one.hit_rate) for one in rates if one.setting.policy == policy))
    yield _row("the most possible", *(_percent(rate) for rate in best.values()))
    yield ""
    yield f"![Hits and time per token over the size of the cache](../{_relative(RESULTS / 'policies.png')})"
    yield ""


def _foresight(foreseen: Mapping[str, Foreseen | str]) -> Iterator[str]:
    layers = max((len(one.recall) for one in foreseen.values() if isinstance(one, Foreseen)), default=0)
    yield "### What predictors foresee"
    yield from _prose(
        f"Recall / precision in percent: of the experts that a layer's router chose how many had been expected, and the"
        f" other way round; then of the bytes that were read ahead how many were used in time, late, not at all."
        f" {figures.FORESEEN:.0%} of the experts fit, `{AUTO.policy}` and `hybrid`, {figures.FORESEEN_MODEL} on"
        f" {figures.MACHINE}."
    )
    yield ""
    yield from _table(("predictor", *(f"layer {layer}" for layer in range(layers)), "all", "used, late, wasted"))
    for name, one in foreseen.items():
        if isinstance(one, Foreseen):
            pairs = [*zip(one.recall, one.precision, strict=True), one.overall]
            moved = " / ".join(f"{100 * share:.0f}" for share in (one.used, one.late, one.wasted))
            yield _row(f"`{name}`", *(_pair(*pair) for pair in pairs), moved)
    for name, one in foreseen.items():
        if isinstance(one, str):
            yield from ("", *_prose(f"`{name}`: not measured; {one}."))
    yield ""


def _comparison(compared: Mapping[Cell, Mapping[str, Taken]]) -> Iterator[str]:
    machine = read_machine(figures.MACHINE)
    yield f"### Published systems on {machine.name}"
    yield from _prose(
        "Milliseconds per token on a virtual clock, and how many times as fast as on demand: the parts of each system"
        " that choose (cache, reading ahead, planner), with the same routing, kernels and machine for all. Experts cost"
        " what those of the named model cost; layers, experts per layer and routing are the demo model's."
    )
    yield ""
    yield from _table(("", "settings", *(f"{model}, {share:.0%}" for model, share in compared)))
    for name, setting in SYSTEMS.items():
        cells = (
            f"{1e3 * taken[name].seconds:.1f} ({taken[ON_DEMAND].seconds / taken[name].seconds:.2f})"
            for taken in compared.values()
        )
        yield _row(name, _settings(setting), *cells)
    yield ""
    yield from _prose(
        "HybriMoE's paper, measured on that machine with experts in int4: decoding 1.70 times as fast as KTransformers,"
        " whose split is static, over its three models and cache ratios; Qwen2-57B at 25 %: 0.21 to 0.11 s per token,"
        " 1.91 times. `HybriMoE` beside `static split` here: "
        + ", ".join(
            f"{taken[SPLIT].seconds / taken['HybriMoE'].seconds:.2f} ({model}, {share:.0%})"
            for (model, share), taken in compared.items()
        )
        + ". Its kernels, KV and launches are not in our numbers, and the split it was held against places by no trace."
    )
    yield ""


def _claims(checked: Sequence[Claim]) -> Iterator[str]:
    yield "Held against what was expected:"
    for claim in checked:
        yield from _prose(f"- {claim.sentence()}", "  ")
    yield ""


def _plain(
    rates: Sequence[Replayed],
    foreseen: Mapping[str, Foreseen | str],
    compared: Mapping[Cell, Mapping[str, Taken]],
    checked: Sequence[Claim],
) -> dict[str, Any]:
    return {
        "hit_rates": [one.as_dict() for one in rates],
        "foresight": {name: one if isinstance(one, str) else asdict(one) for name, one in foreseen.items()},
        "systems": {
            f"{model} {share:.0%}": {name: asdict(taken) for name, taken in row.items()}
            for (model, share), row in compared.items()
        },
        "claims": [asdict(claim) for claim in checked],
    }


def _plot(rates: Sequence[Replayed], path: Path, title: str) -> None:
    from moestro.trace.replay_plot import draw_replays

    try:
        draw_replays(rates, path, title)
    except ImportError:
        print("no plot: matplotlib is not installed: pip install matplotlib")


def _prose(text: str, indent: str = "") -> list[str]:
    """As lines; indent: of all but the first."""
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(titles: Sequence[str]) -> Iterator[str]:
    yield _row(*titles)
    yield "|" + "---|" * len(titles)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _settings(setting: Setting) -> str:
    return " + ".join(f"`{name}`" for name in (setting.policy, setting.prefetch, setting.planner) if name)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _pair(recall: float | None, precision: float | None) -> str:
    return "" if recall is None or precision is None else f"{100 * recall:.0f} / {100 * precision:.0f}"


def _relative(path: Path) -> Path:
    return path.relative_to(_ROOT)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE, help="what stands between its markers is replaced")
    parser.add_argument("--json", type=Path, default=RESULTS / "policies.json")
    parser.add_argument("--plot", type=Path, default=RESULTS / "policies.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
