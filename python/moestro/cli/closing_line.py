"""One line that says what a run cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moestro.units import format_bytes

if TYPE_CHECKING:
    from moestro.gen.stats import RunStats


def closing_line(stats: RunStats) -> str:
    parts = [f"{stats.generated_tokens} tokens"]
    if stats.decode_s:
        parts.append(f"{stats.decode_tokens_per_s:.2f} tok/s")
    if stats.ttft_s is not None:
        parts.append(f"first token after {stats.ttft_s:.2f} s")
    if stats.hit_rate is not None:
        parts.append(f"hit rate {stats.hit_rate:.1%}")
        rate = f" at {stats.read_gb_per_s:.2f} GB/s" if stats.read_gb_per_s is not None else ""
        parts.append(f"{format_bytes(stats.expert_bytes_read)} read{rate}")
    if stats.recall is not None:
        used, wasted = (sum(layer[name] for layer in stats.prefetch) for name in ("used_bytes", "wasted_bytes"))
        off = sum(layer["off"] for layer in stats.prefetch)
        parts.append(
            f"foresaw {stats.recall:.0%}, {format_bytes(used)} read ahead in time, {format_bytes(wasted)} for nothing"
            + (f", off in {off} of {len(stats.prefetch)} layers" if off else "")
        )
    if stats.device is not None:
        device, asked = stats.device, max(1, stats.hits + stats.misses + stats.joined)
        parts.append(
            f"{device.computed / asked:.0%} of experts on the device ({device.schedule}), "
            f"{format_bytes(device.link_bytes)} sent to it"
        )
    if stats.stream_gb_per_s is not None:
        parts.append(f"{format_bytes(stats.stream_bytes_read)} streamed at {stats.stream_gb_per_s:.2f} GB/s")
    parts.append(f"bound by {stats.binding}")
    parts.append(f"peak memory {format_bytes(stats.peak_bytes)} of {format_bytes(stats.budget_bytes)}")
    if stats.virtual:
        parts.append(f"times are the emulated machine's; this took {stats.real_s:.2f} s")
    return " · ".join(parts)
