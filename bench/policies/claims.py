"""What papers say and what is expected here, held against the figures: a sentence each, and why where it is not so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from figures import Cell
from moestro.trace.replays import Replayed
from systems import HYBRID, ON_DEMAND, SPLIT, Taken

_POINT = 0.01  # of a hit rate: less is not told apart


@dataclass(frozen=True)
class Claim:
    what: str
    holds: bool
    found: str
    why_not: str = ""

    def sentence(self) -> str:
        if self.holds:
            return f"{self.what}: yes, {self.found}."
        return f"**{self.what}: no**, {self.found}. {self.why_not}".rstrip()


def claims(rates: Sequence[Replayed], compared: Mapping[Cell, Mapping[str, Taken]]) -> Iterator[Claim]:
    at = {(one.setting.policy, round(one.share, 3)): one.hit_rate for one in rates}
    score, lru = at["score", 0.25], at["lru", 0.25]
    yield Claim(
        "`score` hits more than `lru` at 25 % (HybriMoE: 36.2 beside 30.2 % on Mixtral)",
        score > lru,
        f"{score:.1%} beside {lru:.1%}",
    )
    gains = [at["score", share] - at["lru", share] for share in (0.25, 0.75)]
    yield Claim(
        "What `score` gains shrinks as the cache grows (HybriMoE)",
        gains[0] > gains[1] + _POINT,
        f"{100 * gains[0]:.1f} points at 25 %, {100 * gains[1]:.1f} at 75 %",
        "The router of this small model is nearly even (docs/demo-model.md), so that its near misses say less.",
    )
    yield _faster(HYBRID, ON_DEMAND, 1.3, compared)
    yield _faster(HYBRID, SPLIT, 1.1, compared)
    yield _faster(
        "HybriMoE", ON_DEMAND, 1.3, compared, "Its paper reports 1.70x over KTransformers in decoding on this machine."
    )
    yield _faster(
        "DALI",
        "HybriMoE",
        1.0,
        compared,
        "DALI's paper reports 1.32x. With one token per step every expert has the same load, so that its greedy choice"
        " and HybriMoE's schedule mostly agree; what differs is the cache and what is read ahead.",
    )
    yield _faster(
        "Fate",
        ON_DEMAND,
        1.0,
        compared,
        "Fate's paper reports up to 4.1x, on models of 24 and more layers. Here its first four layers, which stay"
        " whole, are half of the model: at 25 and 50 % they fill the cache or more, and the layers whose routing could"
        " be foreseen have none.",
    )


def _faster(
    one: str, other: str, least: float, compared: Mapping[Cell, Mapping[str, Taken]], why_not: str = ""
) -> Claim:
    ratios = {cell: taken[other].seconds / taken[one].seconds for cell, taken in compared.items()}
    below = [f"{model} at {share:.0%}" for (model, share), ratio in ratios.items() if ratio < least]
    found = f"{min(ratios.values()):.2f} to {max(ratios.values()):.2f} times as fast"
    if below:
        found += f", less with {', '.join(below)}" if len(below) < len(ratios) else ", less in all cases"
    wanted = "faster than" if least == 1 else f"at least {least:g} times as fast as"
    return Claim(f"{_quoted(one)} is {wanted} {_quoted(other)}", not below, found, why_not)


def _quoted(name: str) -> str:
    return f"`{name}`" if name == HYBRID else name
