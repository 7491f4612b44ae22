"""The memory plan: what a budget is spent on, decided before anything is loaded, or refused with the arithmetic.

A budget holds, always: the trunk, two expert slots, staging for reads, scratch for one step and KV for a short
sequence. What is left holds more experts, until longer sequences need it for their KV. Where the trunk does not fit,
its layers and its head pass through a few slots instead, and what is left holds as many of them as it can.
"""

from __future__ import annotations

from dataclasses import dataclass

from moestro import core
from moestro.config import EngineConfig
from moestro.errors import BudgetError, UsageError
from moestro.memory_limits import automatic_budget
from moestro.plan.footprint import Footprint
from moestro.plan.work import logit_rows, work_bytes
from moestro.stream_shape import StreamShape, parse_stream
from moestro.units import format_bytes

# KV that every budget has room for, in tokens, unless max_model_len asks for another number.
LEAST_KV_TOKENS = 256

# "auto" chunks: the largest whose scratch is a small part of what the trunk leaves. Larger than the first, a step takes
# long enough to be felt when somebody cancels it or waits beside it.
AUTO_CHUNKS = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
AUTO_SCRATCH_SHARE = 8  # one part in so many

# Next layers that a predictor asks about, at most.
MOST_AHEAD = 3

_KV_BYTES = {"f32": 4, "bf16": 2, "f16": 2}
_PAGE = 4096


@dataclass(frozen=True)
class PlanLine:
    name: str  # the ledger's word
    nbytes: int
    meaning: str


@dataclass(frozen=True)
class StreamPlan:
    """How the trunk passes through memory. A unit is a layer's linears, or a slice of the head."""

    shape: StreamShape
    units: int
    kept: int  # units that stay once they were read, while KV takes no more than its line
    slot_bytes: int
    keep_bytes: int  # room for units that stay
    kept_bytes: int  # of them
    bytes_per_step: int  # read for a step that asks for logits


@dataclass(frozen=True)
class MemoryPlan:
    """How a budget will be spent. Bytes unless said."""

    budget: int
    source: str  # a sentence: where the budget comes from
    lines: tuple[PlanLine, ...]  # what must be there; together `least`
    expert_slots: int  # of the largest record, while KV takes no more than its line; 0 for a dense model
    math: str  # "exact" | "fast": what will be computed in
    kv_dtype: str
    kv_block_bytes: int  # of one block of all layers
    prefill_chunk: int  # rows of the largest step
    logit_rows: int  # rows of a step whose logits may be asked for together
    stream: StreamPlan | None  # None: the trunk is in memory

    @property
    def least(self) -> int:
        """The smallest budget that runs this model with these settings and this chunk."""
        return sum(line.nbytes for line in self.lines)

    @property
    def scratch(self) -> int:
        return next(line.nbytes for line in self.lines if line.name == "scratch")

    def arithmetic(self) -> str:
        """The lines as one sum."""
        return " + ".join(f"{line.name} {format_bytes(line.nbytes)} ({line.meaning})" for line in self.lines)


def plan_memory(
    model: Footprint, config: EngineConfig, threads: int, text: int = 0, predictor: int = 0, *, there: bool = False
) -> MemoryPlan:
    """Plans `config.host_memory` for a model; text, predictor: bytes of its tokenizer, and of what foresees routing.
    there: a device computes the trunk and keeps its weights and the KV, which then only pass through.

    Raises BudgetError, with the sum and what is missing, when the budget cannot hold the least; UsageError for a
    max_model_len beyond the model's.
    """
    shape = parse_stream(config.stream)
    held = _held(model, config, text, predictor)
    needs = _Needs(model, config, threads, held, shape, there)
    first = 1 if config.prefill_chunk == "auto" else int(config.prefill_chunk)
    budget, source = _budget(config, needs.total(first, needs.tokens))
    if budget < needs.total(first, needs.tokens) and config.stream == "auto" and not there:
        streamed = _Needs(model, config, threads, held, StreamShape())
        if streamed.total(first, streamed.tokens) < needs.total(first, needs.tokens):
            needs = streamed
    if budget < needs.total(first, needs.tokens):
        raise BudgetError(_refusal(budget, needs.lines(first, needs.tokens), config))
    chunk = needs.auto_chunk(budget) if config.prefill_chunk == "auto" else first
    longest = needs.longest(budget - needs.total(chunk, needs.tokens))
    lines = needs.lines(chunk, longest)
    left = budget - sum(line.nbytes for line in lines)
    stream = needs.stream_plan(left)
    return MemoryPlan(
        budget=budget,
        source=source,
        lines=lines,
        expert_slots=needs.slots(left - (stream.kept_bytes if stream else 0)),
        math=needs.math,
        kv_dtype=needs.kv_dtype,
        kv_block_bytes=needs.block,
        prefill_chunk=chunk,
        logit_rows=logit_rows(model, chunk),
        stream=stream,
    )


def _held(model: Footprint, config: EngineConfig, text: int, predictor: int) -> tuple[PlanLine, ...]:
    """What is held beside the model."""
    record = core.Runtime.record_bytes(config.record_tokens, model.top_k, model.moe_layers, config.record_ahead)
    lines = (
        PlanLine("text", text, "the tokenizer"),
        PlanLine("predictor", predictor, f"what {config.prefetch} learnt"),
        PlanLine("routing record", record, f"{config.record_tokens} tokens"),
    )
    return tuple(line for line in lines if line.nbytes)


class _Needs:
    """What one model needs with one set of settings."""

    def __init__(
        self,
        model: Footprint,
        config: EngineConfig,
        threads: int,
        held: tuple[PlanLine, ...],
        shape: StreamShape | None,
        there: bool = False,
    ) -> None:
        """shape: of the layer stream; None keeps the trunk in memory. there: in a device's."""
        limit = config.max_model_len
        if limit is not None and limit > model.max_len:
            raise UsageError(f"max_model_len: got {limit}; {model.max_len_reason}")
        self._model = model
        self._threads = threads
        self._shape = shape
        self._there = there
        self._held = held
        self._device = config.device != "cpu" and config.device_memory != 0
        self._ahead = MOST_AHEAD if config.prefetch != "none" else config.record_ahead
        self._given_slots = config.expert_slots
        self._limit = limit or model.max_len
        self.tokens = limit or min(LEAST_KV_TOKENS, model.max_len)
        self.math = _math(model, config)
        self.kv_dtype = model.dtype if config.kv_dtype == "auto" else config.kv_dtype
        self.block = kv_block_bytes(model, self.kv_dtype)

    def lines(self, chunk: int, longest: int) -> tuple[PlanLine, ...]:
        """longest: tokens of the longest sequence that steps of `chunk` rows may meet."""
        model, slots = self._model, self._given_slots or 2
        experts = PlanLine("expert slots", slots * model.record, f"{slots} of {format_bytes(model.record)}")
        scratch = self._work(chunk, longest)
        return (
            *self._trunk_lines(),
            *((experts,) if model.moe_layers else ()),
            *self._held,
            PlanLine("staging", self._staging(), "reads on their way"),
            PlanLine("scratch", scratch, f"steps of {chunk} row{'s' if chunk > 1 else ''}"),
            *(() if self._there else (PlanLine("kv", self.kv_bytes, f"{self.tokens} tokens"),)),
        )

    @property
    def kv_bytes(self) -> int:
        return -(-self.tokens // core.KV_BLOCK) * self.block

    def _work(self, chunk: int, longest: int) -> int:
        streamed = self._shape is not None
        return work_bytes(
            self._model,
            chunk,
            self._threads,
            longest,
            self.math,
            streamed=streamed,
            ahead=self._ahead,
            device=self._device,
            there=self._there,
        )

    def _trunk_lines(self) -> tuple[PlanLine, ...]:
        if self._there:
            passing = self._model.small + max(self._model.units)
            return (PlanLine("trunk", passing, "norms and biases, and one part at a time on its way to the device"),)
        if self._shape is None:
            return (PlanLine("trunk", self._model.trunk, "all weights but experts"),)
        window, slot = self._shape.window, max(self._model.units)
        return (
            PlanLine("trunk", self._model.small, "norms, biases and routers"),
            PlanLine("layer stream", window * slot, f"{window} of {format_bytes(slot)}"),
        )

    def _staging(self) -> int:
        """A stream that puts its units together reads through staging of its own."""
        own = self._shape is not None and self._model.in_place
        return core.Runtime.staging_bytes() * (2 if own else 1)

    def stream_plan(self, left: int) -> StreamPlan | None:
        """left: bytes beyond the lines."""
        if self._shape is None:
            return None
        units = self._model.units
        keep_bytes = left if self._shape.keep else 0
        kept = core.kept_units(units, keep_bytes)
        kept_bytes = sum(size for size, stays in zip(units, kept, strict=True) if stays)
        return StreamPlan(
            shape=self._shape,
            units=len(units),
            kept=sum(kept),
            slot_bytes=max(units),
            keep_bytes=keep_bytes,
            kept_bytes=kept_bytes,
            bytes_per_step=sum(units) - kept_bytes,
        )

    def total(self, chunk: int, longest: int) -> int:
        return sum(line.nbytes for line in self.lines(chunk, longest))

    def longest(self, left: int) -> int:
        """The longest sequence whose KV fits, in tokens, with `left` bytes that nothing else must have."""
        return min(self._limit, self.tokens + left // self.block * core.KV_BLOCK)

    def auto_chunk(self, budget: int) -> int:
        trunk = sum(line.nbytes for line in self._trunk_lines())
        most = (budget - trunk) // AUTO_SCRATCH_SHARE
        for chunk in AUTO_CHUNKS:
            small = self._work(chunk, self.tokens) <= most
            if small and self.total(chunk, self.tokens) <= budget:
                return chunk
        return 1

    def slots(self, left: int) -> int:
        """Expert slots with `left` bytes beyond the lines."""
        model = self._model
        if not model.moe_layers:
            return 0
        return self._given_slots or 2 + min(left, max(0, model.records - 2 * model.record)) // model.record


def kv_block_bytes(model: Footprint, kv_dtype: str) -> int:
    """One block of KV_BLOCK positions: K and V of every layer, each layer's part in units of 64, in whole pages."""
    values = 0 if model.latent else model.value_dim or model.head_dim
    layer = model.kv_heads * (model.head_dim + values) * core.KV_BLOCK * _KV_BYTES[kv_dtype]
    return _round_up(_round_up(layer, 64) * model.layers, _PAGE)


def _math(model: Footprint, config: EngineConfig) -> str:
    """The one that will be computed in: only products of bf16 weights have a fast form, and not on every CPU."""
    if config.math == "exact" or not model.bf16:
        return "exact"
    return core.make_compute(math=config.math).math


def _budget(config: EngineConfig, least: int) -> tuple[int, str]:
    if config.host_memory == "auto":
        limit = automatic_budget()
        return limit.nbytes, limit.source
    if config.host_memory == "min":
        return least, f"{format_bytes(least)}, the least that runs this model"
    nbytes = int(config.host_memory)
    return nbytes, f"{format_bytes(nbytes)}, as asked"


def _refusal(budget: int, lines: tuple[PlanLine, ...], config: EngineConfig) -> str:
    least = sum(line.nbytes for line in lines)
    arithmetic = "\n".join(f"  {line.nbytes:>16,}  {line.name} ({line.meaning})" for line in lines)
    ways = ["give at least that as host_memory (or host_memory='min')"]
    if config.prefill_chunk not in ("auto", 1):
        ways.append("a smaller prefill_chunk")
    if config.stream != "auto":
        ways.append("stream='auto'")
    if config.max_model_len is not None:
        ways.append("a smaller max_model_len")
    ways.append("pack the model in a smaller format (moestro pack SRC DST --format q4)")
    return (
        f"a memory budget of {format_bytes(budget)} cannot hold this model: {format_bytes(least - budget)}"
        f" ({least - budget:,} bytes) are missing\n{arithmetic}\n  {least:>16,}  bytes needed,"
        f" {budget:,} given\n{'; or '.join(ways)}"
    )


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
