"""What a run knows beforehand about routing: frequencies for policies, tables for predictors, what experts cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moestro._core import F32, PredictorSettings
from moestro.config import EngineConfig
from moestro.errors import CheckpointError, UsageError
from moestro.models.spec import ModelSpec, MoeSpec
from moestro.trace.path_weights import read_path_weights
from moestro.trace.routing import read_routing_trace

# Arrays that are read, and what is made of them.
_COPIES = 3


@dataclass(frozen=True)
class Foresight:
    frequencies: list[float] = field(default_factory=list)  # uses of every expert, layer after layer
    predictor: PredictorSettings = field(default_factory=PredictorSettings)
    offsets: F32 | None = None  # [layers with experts, distances, experts]
    nbytes: int = 0  # that the predictor holds


def look_back(spec: ModelSpec, config: EngineConfig) -> Foresight:
    """Reads the traces that the config names. Raises StorageError, CheckpointError where they are of another model,
    UsageError for a predictor that the model is not made for."""
    moe = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    pre_gated = any(mlp.pre_gated for mlp in moe)
    if config.prefetch == "pre_gated" and not pre_gated:
        raise UsageError(
            "prefetch: 'pre_gated' needs a model whose routers were trained to choose the next layer's experts, and"
            f" {spec.model_type} is none: choose another predictor"
        )
    experts, top_k = [mlp.num_experts for mlp in moe], [mlp.num_experts_per_tok for mlp in moe]
    frequencies: list[float] = []
    if config.policy_trace is not None:
        frequencies = read_routing_trace(Path(config.policy_trace)).frequencies(experts, config.policy_trace)
    if config.prefetch == "none":
        return Foresight(frequencies)
    learnt: dict[str, Any] = {}
    offsets: F32 | None = None
    if config.prefetch_trace is not None and config.prefetch == "path":
        learnt["path"] = read_path_weights(Path(config.prefetch_trace), experts)
    elif config.prefetch_trace is not None:
        trace = read_routing_trace(Path(config.prefetch_trace))
        trace.check(experts, config.prefetch_trace)
        if config.prefetch in ("auto", "next_gate", "impact"):
            offsets = trace.offsets
            if offsets is None or len(offsets) != len(experts) or offsets.shape[2] != max(experts):
                raise CheckpointError(
                    f"{config.prefetch_trace}: {config.prefetch!r} needs the trace's `offsets` of this model: record"
                    " it with `moestro trace record --ahead 3`"
                )
            if pre_gated:  # what is asked there are the choices themselves: nothing is to be corrected
                offsets = None
        else:
            learnt["chosen"], learnt["tokens"] = trace.chosen, trace.tokens
    arrays = [*learnt.get("path", {}).values(), *(learnt.get(name) for name in ("chosen", "tokens")), offsets]
    nbytes = _COPIES * sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
    return Foresight(frequencies, PredictorSettings(top_k=top_k, **learnt), offsets, nbytes)
