"""Options that several commands take: how the model is run, and how tokens are chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import typer

from moestro.config import SamplingParams

_ENGINE, _SAMPLING = "Running the model", "Choosing tokens"


@dataclass(frozen=True)
class EngineOptions:
    """The arguments of `LLM`, except the model and its memory."""

    format: Annotated[
        str, typer.Option(help="auto (the model's own), f32, bf16, q8 or q4.", rich_help_panel=_ENGINE)
    ] = "auto"
    trunk_format: Annotated[
        str | None, typer.Option(help="Another format for all but the experts.", rich_help_panel=_ENGINE)
    ] = None
    threads: Annotated[int | None, typer.Option(help="Compute threads.", rich_help_panel=_ENGINE)] = None
    kv_dtype: Annotated[
        str, typer.Option(help="auto (the model's own), f32, bf16 or f16.", rich_help_panel=_ENGINE)
    ] = "auto"
    max_model_len: Annotated[
        int | None, typer.Option(help="Tokens, prompt and answer together.", rich_help_panel=_ENGINE)
    ] = None
    prefill_chunk: Annotated[str, typer.Option(help="Rows per prefill step, or auto.", rich_help_panel=_ENGINE)] = (
        "auto"
    )
    policy: Annotated[
        str,
        typer.Option(
            help="Which expert leaves first: auto (lrfu), lru, lfu, lrfu, score, shallow, workload or static.",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto"
    policy_trace: Annotated[
        str | None, typer.Option(help="A routing trace of the model, for static.", rich_help_panel=_ENGINE)
    ] = None
    prefetch: Annotated[
        str,
        typer.Option(
            help="Who foresees experts to read ahead: none, auto, next_gate, impact, transition, activation, path, or"
            " pre_gated for models trained so.",
            rich_help_panel=_ENGINE,
        ),
    ] = "none"
    prefetch_trace: Annotated[
        str | None, typer.Option(help="What it learnt from: a routing trace, or path's.", rich_help_panel=_ENGINE)
    ] = None
    verify: Annotated[
        str, typer.Option(help="Checksums of packed records: first, always, never.", rich_help_panel=_ENGINE)
    ] = "first"
    io: Annotated[
        str, typer.Option(help="direct, cached (through the page cache) or auto (a trial).", rich_help_panel=_ENGINE)
    ] = "auto"
    io_engine: Annotated[str, typer.Option(help="auto, io_uring or threads.", rich_help_panel=_ENGINE)] = "auto"
    io_depth: Annotated[int | None, typer.Option(help="Reads in flight.", rich_help_panel=_ENGINE)] = None
    stream: Annotated[
        str,
        typer.Option(
            help="Weights that do not fit: auto, off, interleave, zero-inference, superpipeline:4,2, tpi-llm, se-moe.",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto"
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, or emulated:memory=2GiB,machine=...", rich_help_panel=_ENGINE)
    ] = "cpu"
    device_memory: Annotated[
        str, typer.Option(help="What the device gives: a size, or auto.", rich_help_panel=_ENGINE)
    ] = "auto"
    trunk: Annotated[
        str,
        typer.Option(help="What computes all but experts: device (cuda), cpu, auto.", rich_help_panel=_ENGINE),
    ] = "auto"
    device_copies: Annotated[
        str,
        typer.Option(help="Experts of the device in host memory too: inclusive, exclusive.", rich_help_panel=_ENGINE),
    ] = "inclusive"
    schedule: Annotated[
        str,
        typer.Option(
            help="What the device computes: hybrid, greedy_01, static, on_demand, cpu, device, or auto (tries).",
            rich_help_panel=_ENGINE,
        ),
    ] = "hybrid"
    math: Annotated[
        str, typer.Option(help="exact, or fast: rounds what bf16 weights multiply to bf16.", rich_help_panel=_ENGINE)
    ] = "exact"

    def arguments(self) -> dict[str, Any]:
        chunk = int(self.prefill_chunk) if self.prefill_chunk.isdecimal() else self.prefill_chunk
        return {**asdict(self), "prefill_chunk": chunk}


@dataclass(frozen=True)
class SamplingOptions:
    """SamplingParams; what is not given keeps the model's own default."""

    temperature: Annotated[
        float | None, typer.Option(help="0 takes the most likely token.", rich_help_panel=_SAMPLING)
    ] = None
    top_k: Annotated[int | None, typer.Option(help="Keep the k most likely tokens.", rich_help_panel=_SAMPLING)] = None
    top_p: Annotated[
        float | None, typer.Option(help="Keep the smallest set of this probability.", rich_help_panel=_SAMPLING)
    ] = None
    min_p: Annotated[
        float | None, typer.Option(help="Drop tokens below this share of the likeliest.", rich_help_panel=_SAMPLING)
    ] = None
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: against repeating anything.", rich_help_panel=_SAMPLING)
    ] = None
    presence_penalty: Annotated[
        float | None, typer.Option(help="Against what the answer has said.", rich_help_panel=_SAMPLING)
    ] = None
    frequency_penalty: Annotated[
        float | None, typer.Option(help="The same, per occurrence.", rich_help_panel=_SAMPLING)
    ] = None
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.", rich_help_panel=_SAMPLING)
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="The same seed draws the same tokens.", rich_help_panel=_SAMPLING)
    ] = None
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on after an end token.", rich_help_panel=_SAMPLING)
    ] = False

    def params(self, default: SamplingParams, max_tokens: int | None) -> SamplingParams:
        given = {name: value for name, value in asdict(self).items() if value is not None and value != []}
        return replace(default, **given, max_tokens=max_tokens)
