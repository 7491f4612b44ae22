"""Loads a model under a memory budget: what does not fit is refused before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moestro import knobs
from moestro._core import KvPool, LaneCosts, Runtime
from moestro.config import EngineConfig
from moestro.device_names import CudaDevice, parse_device
from moestro.models.decoder import Decoder
from moestro.models.device import take_device
from moestro.models.foresight import look_back
from moestro.models.opening import OpenedModel, open_model
from moestro.models.resident import Progress, load_resident
from moestro.models.spec import ModelSpec, MoeSpec
from moestro.plan.costs import expert_costs
from moestro.plan.io_choice import choose_io
from moestro.plan.memory import MemoryPlan, plan_memory
from moestro.threads import default_threads


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run. Owns runtime and decoder: close it."""

    spec: ModelSpec
    decoder: Decoder
    runtime: Runtime
    kv_pool: KvPool
    plan: MemoryPlan
    facts: dict[str, Any]  # what is running, for LLM.report()

    def close(self) -> None:
        """Waits for reads in flight and gives all memory back. May be called again."""
        self.decoder.close()
        self.runtime.close()


def load_model(
    directory: Path, config: EngineConfig, progress: Progress | None = None, *, text: int = 0
) -> LoadedModel:
    """Opens `directory`, a Hugging Face checkpoint or a packed store, plans its memory and loads what stays in memory.

    progress: called with (bytes read, bytes to read) of the trunk. text: bytes that the tokenizer holds already.
    Raises CheckpointError, UsageError, BudgetError (with the arithmetic, before anything is read), StorageError,
    IntegrityError, NumericError, UnsupportedError.
    """
    opened = open_model(directory, config)
    threads = config.threads or default_threads()
    footprint = opened.footprint()
    foresight = look_back(opened.spec, config)
    machine = take_device(config, footprint, opened.spec, opened.directory)
    plan = plan_memory(footprint, config, threads, text, foresight.nbytes, there=machine.trunk)
    if machine.trunk:
        machine = machine.with_room(footprint, plan, config)
        if not machine.trunk:  # it does not fit, and need not
            plan = plan_memory(footprint, config, threads, text, foresight.nbytes)
    if not machine.trunk:
        machine = machine.with_launches(footprint, plan.prefill_chunk)
    usual_read = footprint.record or max(footprint.units)
    io = choose_io(config, opened.files(), usual_read, plan.budget // 4)
    runtime = Runtime(
        threads=threads,
        host_memory=plan.budget,
        isa=knobs.ISA.read(),
        math=config.math if footprint.bf16 else "exact",
        cache=io.way.cache,
        reader=io.way.engine,
        io_depth=io.way.depth,
        io_read_bytes=io.way.read_bytes,
        verify=config.verify,
        policy=config.eviction,
        frequencies=foresight.frequencies,
        prefetch=config.prefetch,
        predictor=foresight.predictor,
        offsets=foresight.offsets,
        costs=_costs(opened, config, threads),
        record_rows=config.record_tokens,
        record_ahead=config.record_ahead,
        expert_slots=config.expert_slots,
        trace_events=config.trace_events,
        **machine.options(config),
    )
    try:
        runtime.ledger.take("text", text)
        for line in plan.lines:
            if line.name in ("predictor", "routing record"):
                runtime.ledger.take(line.name, line.nbytes)
        if machine.plan is not None:
            runtime.device_ledger.take("arrays", machine.plan.of("arrays"))
        loaded = _load(opened, config, plan, runtime, progress)
        if machine.plan is not None:
            loaded.decoder.reserve(machine.plan.blocks)
        loaded.facts["io_choice"] = io.why
        loaded.facts["refused"] += machine.refused
        loaded.facts["device_facts"] = machine.facts()
        return loaded
    except BaseException:
        runtime.close()
        raise


def _load(
    opened: OpenedModel, config: EngineConfig, plan: MemoryPlan, runtime: Runtime, progress: Progress | None
) -> LoadedModel:
    spec = opened.spec
    # Taken before the expert cache takes what is left.
    runtime.ledger.take("scratch", plan.scratch)
    streamed = plan.stream is not None
    weights = load_resident(spec, opened.source(runtime, progress, streamed=streamed), streamed=streamed)
    if plan.stream is not None:
        shape = plan.stream.shape
        runtime.set_stream(window=shape.window, batch=shape.batch, keep_bytes=plan.stream.keep_bytes)
    if any(isinstance(layer.mlp, MoeSpec) for layer in spec.layers):
        runtime.set_experts()
    kv_pool = runtime.set_kv(
        plan.kv_dtype, spec.num_kv_heads, spec.head_dim, spec.num_layers, latent=spec.value_dim if spec.mla else 0
    )
    decoder = Decoder(spec, weights, runtime, kv_pool, max_rows=plan.prefill_chunk, max_logit_rows=plan.logit_rows)
    if config.trace_events and not runtime.virtual_time:  # there the runtime says itself what layers take
        decoder.workspace.trace_to(runtime)
    facts = _facts(opened, plan, runtime)
    facts["refused"] += _no_fast_math(opened, config)
    return LoadedModel(spec, decoder, runtime, kv_pool, plan, facts)


def _costs(opened: OpenedModel, config: EngineConfig, threads: int) -> LaneCosts:
    """What an expert costs here, where somebody counts with it."""
    counts = config.prefetch != "none" or isinstance(parse_device(config.device), CudaDevice)
    if not counts or not opened.expert_formats:
        return LaneCosts()
    format = opened.expert_formats.partition("+")[0]
    return expert_costs(opened.footprint(), format, threads, sorted(opened.files())).lanes()


def _no_fast_math(opened: OpenedModel, config: EngineConfig) -> list[str]:
    """Why it cannot be had, where that is the model's doing; what the CPU lacks the runtime says itself."""
    if config.math == "exact" or opened.footprint().bf16:
        return []
    return ["fast math: this model has no bf16 weights, so math='fast' computes exactly"]


def _facts(opened: OpenedModel, plan: MemoryPlan, runtime: Runtime) -> dict[str, Any]:
    spec, where = opened.spec, runtime.residency()
    return {
        "model_type": spec.model_type,
        "directory": str(opened.directory),
        "kind": opened.kind,
        "layers": spec.num_layers,
        "trunk_format": opened.trunk_formats,
        "expert_format": opened.expert_formats or None,
        "kv_dtype": plan.kv_dtype,
        "prefill_chunk": plan.prefill_chunk,
        "device_memory": where["device_bytes"],
        "device_slots": where["device_slots"],
        "virtual_time": runtime.virtual_time,
        "schedule": runtime.schedule(),
        **runtime.info(),
    }
