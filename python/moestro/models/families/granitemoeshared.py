"""granitemoeshared: granitemoe with a shared expert, whose gate and up are one matrix."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.granitemoe import FUSED_EXPERTS, NAMES, read_granite
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, SharedSpec


def _read(config: ConfigReader) -> ModelSpec:
    width = config.integer("shared_intermediate_size", 0, low=0)
    return read_granite(config, "granitemoeshared", SharedSpec(width) if width else None)


FAMILY = Family(
    "granitemoeshared",
    ("GraniteMoeSharedForCausalLM",),
    _read,
    "granitemoe with a shared expert",
    names={**NAMES, "shared_down": "shared_mlp.output_linear.weight"},
    stacked={"shared_mlp.input_linear.weight": ("shared_gate", "shared_up")},
    fused_experts=FUSED_EXPERTS,
    single_experts=False,
    examples="Granite 3.x MoE with a shared expert",
)
