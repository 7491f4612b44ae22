"""From rounds to figures: medians with their spread, shares of the limits, ratios between peers.

Shares are formed of limits measured around a sample, ratios inside a round: both sides met the same machine. Then the
median is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peer_cases import Case
from peer_rounds import Round


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Figures:
    """Of one case. Rates per second; shares are of the limits around each sample, None where not measured."""

    decode: Spread  # tokens
    prefill: Spread  # tokens
    weight_bytes: Spread  # active weights while decoding
    read_share: Spread | None
    operations: Spread  # of the prefill's linears
    unit_share: Spread | None
    peak_rss: float
    agreeing: int | None  # leading tokens of the first round's answer that are also the reference's


@dataclass(frozen=True)
class Ratio:
    """One case over another, in decode or prefill."""

    what: str  # "decode" | "prefill"
    case: str
    peer: str
    value: Spread


def spread(values: Iterable[float]) -> Spread:
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found))


def figures(case: Case, rounds: Sequence[Round], operations_per_prompt: float, prompt: int, reference: str) -> Figures:
    """reference: the case whose tokens others are compared with. There must be a sample of `case`."""
    mine = [entry.samples[case.name] for entry in rounds if case.name in entry.samples]
    per_token = operations_per_prompt / prompt
    reads = [
        sample.decode * case.active_bytes / sample.limits.read_bytes_per_second
        for sample in mine
        if sample.limits is not None
    ]
    units = [
        sample.prefill * per_token / unit
        for sample in mine
        if sample.limits is not None and (unit := sample.limits.unit(case.unit, case.isa)) is not None
    ]
    others = rounds[0].samples.get(reference)
    same = _agreeing(mine[0].tokens, others.tokens) if others and case.name in rounds[0].samples else None
    return Figures(
        decode=spread(sample.decode for sample in mine),
        prefill=spread(sample.prefill for sample in mine),
        weight_bytes=spread(sample.decode * case.active_bytes for sample in mine),
        read_share=spread(reads) if reads else None,
        operations=spread(sample.prefill * per_token for sample in mine),
        unit_share=spread(units) if units else None,
        peak_rss=statistics.median(sample.peak_rss for sample in mine),
        agreeing=same,
    )


def ratios(cases: Sequence[Case], rounds: Sequence[Round], found: dict[str, Figures]) -> list[Ratio]:
    """moestro over the best llama.cpp of the same bits and transformers; a forced instruction set over the best one."""
    result = []
    for case in (case for case in cases if case.family == "moestro"):
        same_bits = [peer for peer in cases if peer.family == "llama.cpp" and peer.bits == case.bits]
        plain = [
            peer
            for peer in cases
            if case.isa and peer.family == "moestro" and not peer.isa
            if (peer.bits, peer.options) == (case.bits, case.options)
        ]
        pairs = [
            ("decode", same_bits),
            ("prefill", same_bits),
            ("prefill", [peer for peer in cases if peer.family == "transformers"]),
            ("decode", plain),
            ("prefill", plain),
        ]
        for what, peers in pairs:
            if peers:
                best = max(peers, key=lambda peer: getattr(found[peer.name], what).median)
                value = _over(rounds, case.name, best.name, what)
                if value is not None:
                    result.append(Ratio(what, case.name, best.name, value))
    return result


def _over(rounds: Sequence[Round], case: str, peer: str, what: str) -> Spread | None:
    both = [entry.samples for entry in rounds if case in entry.samples and peer in entry.samples]
    values = [getattr(samples[case], what) / getattr(samples[peer], what) for samples in both]
    return spread(values) if values else None


def _agreeing(tokens: list[int], others: list[int]) -> int:
    pairs = enumerate(zip(tokens, others, strict=True))
    return next((index for index, (token, other) in pairs if token != other), len(tokens))
