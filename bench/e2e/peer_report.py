"""The tables that peers.py prints, and the same as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from peer_cases import Case
from peer_figures import Figures, Ratio, Spread
from peer_rounds import Round, Sample

_HEAD = ("case", "decode tok/s", "GB/s", "% read", "prefill tok/s", "GFLOP/s", "% unit", "RSS GB", "same tokens")


def table(cases: Sequence[Case], found: Mapping[str, Figures], generate: int) -> Iterator[str]:
    rows = [_HEAD, *(_row(case, found[case.name], generate) for case in cases)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join((row[0].ljust(widths[0]), *cells))


def ratio_lines(found: Sequence[Ratio]) -> Iterator[str]:
    for ratio in found:
        yield f"{ratio.what}: {ratio.case} / {ratio.peer} = {_with_range(ratio.value, 2)}"


def limit_lines(rounds: Sequence[Round]) -> Iterator[str]:
    """Medians over a round's samples."""
    for number, entry in enumerate(rounds, start=1):
        around = [sample.limits for sample in entry.samples.values() if sample.limits]
        if around:
            read = statistics.median(limits.read_bytes_per_second for limits in around) / 1e9
            units = ", ".join(
                f"{isa} {kind} {statistics.median(limits.units[isa, kind] for limits in around) / 1e9:.0f}"
                for isa, kind in around[0].units
            )
            yield f"round {number}: memory read {read:.1f} GB/s; G operations/s: {units}"


def as_json(
    cases: Sequence[Case], rounds: Sequence[Round], found: Mapping[str, Figures], ratios: Sequence[Ratio]
) -> dict[str, Any]:
    return {
        "cases": {
            case.name: {
                "active_bytes_per_token": case.active_bytes,
                "unit": case.unit,
                **asdict(found[case.name]),
                "samples": [_sample(entry.samples[case.name]) for entry in rounds if case.name in entry.samples],
            }
            for case in cases
        },
        "ratios": [asdict(ratio) for ratio in ratios],
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {**sample.raw, "limits": sample.limits.raw if sample.limits else None}


def _row(case: Case, figures: Figures, generate: int) -> tuple[str, ...]:
    return (
        case.name,
        _with_range(figures.decode, 1),
        f"{figures.weight_bytes.median / 1e9:.1f}",
        _percent(figures.read_share),
        _with_range(figures.prefill, 1),
        f"{figures.operations.median / 1e9:.0f}",
        _percent(figures.unit_share),
        f"{figures.peak_rss / 1e9:.2f}",
        "-" if figures.agreeing is None else f"{figures.agreeing}/{generate}",
    )


def _with_range(value: Spread, digits: int) -> str:
    return f"{value.median:.{digits}f} ({value.least:.{digits}f}-{value.most:.{digits}f})"


def _percent(value: Spread | None) -> str:
    return "-" if value is None else f"{100 * value.median:.0f}"
