"""pre_gated_qwen3_moe: qwen3_moe whose layers choose the experts of the next one (Hwang et al., "Pre-gated MoE", ISCA
2024), so that these are known one layer early. A type for research: nobody has published such a checkpoint.

`model.layers.{l}.mlp.pre_gate.weight` reads what layer l's experts read and routes layer l + 1. The first layer has
`mlp.gate.weight` besides, for itself.
"""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families import qwen3_moe
from moestro.models.families.common import expect
from moestro.models.family import Family
from moestro.models.spec import LayerSpec, ModelSpec, MoeSpec


def _read(config: ConfigReader) -> ModelSpec:
    # Every layer has experts, as each routes for the next.
    expect(config, "decoder_sparse_step", 1)
    expect(config, "mlp_only_layers", [])
    spec = qwen3_moe.FAMILY.read_spec(config)
    first, *others = spec.layers
    return replace(spec, model_type="pre_gated_qwen3_moe", layers=(first, *map(_routed_before, others)))


def _routed_before(layer: LayerSpec) -> LayerSpec:
    mlp = layer.mlp
    return replace(layer, mlp=replace(mlp, pre_gated=True)) if isinstance(mlp, MoeSpec) else layer


FAMILY = Family(
    "pre_gated_qwen3_moe",
    ("PreGatedQwen3Moe",),
    _read,
    "qwen3_moe whose routers choose the next layer's experts (Pre-gated MoE, ISCA 2024), for research",
    examples="none published",
)
