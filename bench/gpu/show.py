"""The end of a run: a compact table of everything that was measured, and what was not and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def table(result: Result) -> Iterator[str]:
    yield f"{result['gpu']}; {result['machine']}; commit {result['commit']}, {result['date']}"
    yield from _kernels(result.get("kernels", ()))
    if result.get("cublas"):
        yield ""
        yield "cuBLAS: " + "; ".join(f"{one['name']} {one['tflops']:.0f} TFLOPS" for one in result["cublas"])
    for name, model in result.get("models", {}).items():
        yield from ("", *_model(name, model))
    if result.get("offload"):
        yield from ("", "transformers + Accelerate, bf16:")
        yield from columns(
            [("experts' share", "decode tok/s", "prefill tok/s", "layers on the device"), *_offload(result["offload"])]
        )
    for part, why in result.get("left_out", {}).items():
        yield f"not measured: {part}: {why}"


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Numbers to the right, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()


def _kernels(lines: Sequence[Result]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("kernel", "GB/s", "TOPS", "of reading", "of int8 + scaling", "of the data sheet")]
    for line in lines:
        if line["kind"] == "device" or "skipped" in line:
            continue
        shares = [_percent(line.get(f"share_of_{name}")) for name in ("read", "mixed", "datasheet")]
        rows.append((str(line["name"]), _number(line.get("gb_per_s")), _number(line.get("tops")), *shares))
    if len(rows) > 1:
        yield from columns([[row[i] for i in _used(rows)] for row in rows])
    for line in lines:
        if "skipped" in line:
            yield f"not measured: {line['name']}: {line['skipped']}"


def _model(name: str, model: Result) -> Iterator[str]:
    if "reference" in model:
        alone = model["reference"]
        decode, prefill = (alone[f"{what}_tokens_per_s"] for what in ("decode", "prefill"))
        yield f"{name}: the processor alone: decode {decode:.2f} tok/s, prefill {prefill:.1f} tok/s"
    else:
        yield f"{name}:"
    rows = [
        (
            "schedule",
            "experts' share",
            "decode tok/s",
            "prefill tok/s",
            "on device",
            "link MB/token",
            "ms/token",
            "predicted",
            "bits",
        )
    ]
    for run in model.get("runs", ()):
        rows.append(
            (
                run["case"],
                f"{run['share']:.0%}",
                f"{run['decode_tokens_per_s']:.2f}",
                f"{run['prefill_tokens_per_s']:.1f}",
                _percent(on_device(run)),
                f"{link_per_token(run) / 1e6:.1f}",
                f"{1e3 / run['decode_tokens_per_s']:.2f}",
                "" if run.get("predicted_s") is None else f"{1e3 * run['predicted_s']:.2f}",
                "the same" if run["same_logits"] and run["same_tokens"] else "DIFFERENT",
            )
        )
    if len(rows) > 1:
        yield from columns([[row[i] for i in _used(rows)] for row in rows])


def on_device(run: Result) -> float | None:
    """Share of the experts that decoding asked for which the device computed."""
    asked = sum(run["decode"][name] for name in ("hits", "misses", "joined"))
    return float(run["decode"]["on_device"]) / asked if asked else None


def link_per_token(run: Result) -> float:
    """Bytes while decoding."""
    return float(run["decode"]["link_bytes"]) / max(1, int(run["decode"]["steps"]))


def _offload(runs: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    for run in runs:
        placed = f"{run['parts_on_device']} of {run['parts']}"
        yield f"{run['share']:.0%}", f"{run['decode_tokens_per_s']:.2f}", f"{run['prefill_tokens_per_s']:.1f}", placed


def _used(rows: Sequence[Sequence[str]]) -> list[int]:
    """Columns that say something."""
    return [number for number in range(len(rows[0])) if any(row[number] for row in rows[1:])]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
