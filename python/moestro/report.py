"""What is running and what was refused: said once at load, kept for `LLM.report()`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moestro import knobs
from moestro.config import EngineConfig
from moestro.models.spec import MoeSpec
from moestro.units import format_bytes

if TYPE_CHECKING:
    from moestro.models.load import LoadedModel
    from moestro.plan.memory import StreamPlan
    from moestro.text.model_text import ModelText


@dataclass(frozen=True, kw_only=True)
class Report:
    """Bytes and tokens as numbers; `lines` and `str` say the same in sentences."""

    model_type: str
    directory: str
    kind: str  # what the directory is, and how its bytes are verified
    layers: int
    trunk_format: str  # of the weights in memory; several are joined by "+"
    expert_format: str | None  # None: a dense model
    experts: int  # of all layers
    expert_slots: int  # experts that fit the budget while the KV is small
    device: str
    device_facts: dict[str, Any] | None  # of a CUDA device: its memory, where that number comes from, and the trunk
    device_memory: int  # bytes for experts on the device; 0: they stay off it
    device_copies: str
    device_slots: int  # experts that fit there
    virtual_time: bool  # whose clock is an emulated machine's
    schedule: str  # who decides what the device computes; empty where nothing is there
    isa: str
    math: str  # "exact" | "fast"
    threads: int
    prefill_chunk: int  # rows of the largest step
    reader: str
    file_mode: str  # "direct" | "buffered" | "mixed"
    depth: int  # reads in flight
    registered_bytes: int  # read buffers known to the kernel
    io_choice: str  # why files are read so
    policy: str
    prefetch: str
    verify: str
    kv_dtype: str
    max_model_len: int
    budget: int
    budget_source: str  # a sentence: where the number comes from
    least_budget: int  # the smallest that runs this model with these settings
    units: int  # of the layer stream; 0: the trunk is in memory
    units_kept: int  # of them, those that stay while the KV is small
    stream: str  # a sentence; empty where nothing is streamed
    memory_plan: dict[str, int]  # reservation -> bytes it starts with
    refused: tuple[str, ...]  # every fast path not taken and everything missing, with its reason

    @property
    def formats(self) -> str:
        if self.expert_format in (None, self.trunk_format):
            return self.trunk_format
        return f"experts {self.expert_format}, the rest {self.trunk_format}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        yield f"model: {self.model_type}, {self.layers} layers, {self.formats}: {self.directory}"
        yield f"kept as: {self.kind}"
        yield f"memory: {self.budget_source}; the least for these settings is {format_bytes(self.least_budget)}"
        if self.experts:
            share = min(1.0, self.expert_slots / self.experts)
            ahead = "" if self.prefetch == "none" else f"; {self.prefetch} says which to read ahead"
            yield (
                f"experts: {self.experts}, room for {self.expert_slots} ({share:.0%}), less as the KV grows;"
                f" {self.policy} says which leave{ahead}"
            )
        if self.stream:
            yield self.stream
        yield f"context: {self.max_model_len} tokens, KV in {self.kv_dtype}"
        if self.device_facts is not None:
            trunk = "the whole model computes there" if self.device_facts["trunk"] else "the trunk is on the processor"
            yield f"{self.device}: memory {self.device_facts['source']}; {self.device_facts['context']}; {trunk}"
        yield (
            f"compute: {self.device}, {self.isa} kernels, {self.threads} threads, "
            f"prefill in steps of {self.prefill_chunk} rows"
        )
        if self.device_memory:
            copies = "" if self.device_copies == "inclusive" else "; the host gives their copies up first"
            yield (
                f"device: {format_bytes(self.device_memory)} for experts, room for {self.device_slots}{copies}; "
                f"{self.schedule} says what it computes"
            )
        if self.virtual_time:
            yield "time: virtual, that of the emulated machine; answers are the real ones"
        if self.math == "fast":
            yield (
                "math: fast, as asked: products of bf16 weights round their activations to bf16; results are not the "
                "exact ones, and depend on the CPU model"
            )
        yield (
            f"reader: {self.reader}, {self.file_mode}, {self.depth} reads in flight, "
            f"{format_bytes(self.registered_bytes)} registered, checksums: {self.verify} ({self.io_choice})"
        )
        if self.file_mode != "direct":
            yield "page cache: reads go through it; what it holds is the system's, outside the budget"
        yield from (f"not used: {reason}" for reason in self.refused)

    def __str__(self) -> str:
        return "\n".join(self.lines())


def make_report(
    config: EngineConfig, directory: Path, model: LoadedModel, text: ModelText, max_model_len: int
) -> Report:
    """Everything the parts say of themselves, and what they refused, in one place."""
    facts, plan = dict(model.facts), model.plan
    refused = (*facts.pop("refused"), *_text_gaps(text, directory), *_unknown_knobs())
    return Report(
        **facts,
        experts=sum(layer.mlp.num_experts for layer in model.spec.layers if isinstance(layer.mlp, MoeSpec)),
        expert_slots=plan.expert_slots,
        device=config.device,
        device_copies=config.device_copies,
        policy=config.eviction,
        prefetch=config.prefetch,
        verify=config.verify,
        max_model_len=max_model_len,
        budget=plan.budget,
        budget_source=plan.source,
        least_budget=plan.least,
        units=plan.stream.units if plan.stream else 0,
        units_kept=plan.stream.kept if plan.stream else 0,
        stream=_stream_text(plan.stream) if plan.stream else "",
        memory_plan={line.name: line.nbytes for line in plan.lines},
        refused=refused,
    )


def _stream_text(stream: StreamPlan) -> str:
    return (
        f"streamed: {stream.units} units (a layer's linears, or a slice of the head) of which {stream.kept} stay; the"
        f" others pass through {stream.shape.window} slots of {format_bytes(stream.slot_bytes)}:"
        f" {format_bytes(stream.bytes_per_step)} are read for every token, or every prefill step"
    )


def _text_gaps(text: ModelText, directory: Path) -> list[str]:
    if text.tokenizer is None:
        return [f"text: {directory} has no tokenizer.json; prompts must be token ids"]
    return []


def _unknown_knobs() -> list[str]:
    return [f"{name}: no such variable is read" for name in knobs.unknown()]
