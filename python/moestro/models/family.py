"""What a family is: how its config becomes a ModelSpec, and what its checkpoints call the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from moestro.models.config_reader import ConfigReader
from moestro.models.spec import ModelSpec

_ATTENTION = {name: f"self_attn.{name}_proj.weight" for name in "qkvo"}
_MLP = {name: f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
_SHARED = {f"shared_{name}": f"mlp.shared_experts.{name}_proj.weight" for name in ("gate", "up", "down")}
_EXPERTS = {f"expert_{name}": f"mlp.experts.{{e}}.{name}_proj.weight" for name in ("gate", "up", "down")}
_LATENT = {
    "q_down": "self_attn.q_a_proj.weight",
    "q_down_norm": "self_attn.q_a_layernorm.weight",
    "q_up": "self_attn.q_b_proj.weight",  # the role "q" where queries come through a latent
    "kv_down": "self_attn.kv_a_proj_with_mqa.weight",
    "kv_down_norm": "self_attn.kv_a_layernorm.weight",
    "kv_up": "self_attn.kv_b_proj.weight",  # of a head, k_up's rows (transposed) and v_up's
}

# Where most families keep a role (moestro.models.roles), below "model.layers.{l}.". The name of a matrix's bias, unless
# it has an entry, is the matrix's own with "bias" for "weight".
LAYER_NAMES: Mapping[str, str] = {
    **_ATTENTION,
    **_MLP,
    **_SHARED,
    **_EXPERTS,
    **_LATENT,
    "input_norm": "input_layernorm.weight",
    "post_attention_norm": "post_attention_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "sinks": "self_attn.sinks",
    "router": "mlp.gate.weight",
    "pre_gate": "mlp.pre_gate.weight",  # the role "router" of the next layer, where that is pre-gated
    "router_correction": "mlp.gate.e_score_correction_bias",
    "shared_weight": "mlp.shared_expert_gate.weight",
}

# And those of the whole model.
MODEL_NAMES: Mapping[str, str] = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "layer": "model.layers.{l}.",
}


def renamed(names: Mapping[str, str], old: str, new: str) -> dict[str, str]:
    """The entries of `names` that begin with `old`, beginning with `new`: a module of another name."""
    return {role: new + name.removeprefix(old) for role, name in names.items() if name.startswith(old)}


@dataclass(frozen=True)
class FusedExperts:
    """All experts of a layer in two tensors, by name.

    transposed: [experts, hidden, 2 * width] and [experts, width, hidden], else [experts, 2 * width, hidden] and
    [experts, hidden, width]. Gate comes first, then up; interleaved: they take turns.
    """

    gate_up: str
    down: str
    transposed: bool = False
    interleaved: bool = False
    gate_up_bias: str = ""  # [experts, 2 * width], interleaved as gate_up is
    down_bias: str = ""  # [experts, hidden]


# What transformers 5 writes for most families when told not to write the published layout.
FUSED = FusedExperts("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


@dataclass(frozen=True)
class Family:
    model_type: str
    architectures: tuple[str, ...]  # class names config.json may give
    read_spec: Callable[[ConfigReader], ModelSpec]
    about: str  # what is special about it, for `moestro models`
    examples: str = ""  # models of it that people know by name
    dense: bool = False  # it has no experts
    # Differences from LAYER_NAMES and MODEL_NAMES. A tuple: the first one a checkpoint has.
    names: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    # Matrices, and their biases, that lie one below the other in one tensor: name -> roles, by rows.
    stacked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fused_experts: tuple[FusedExperts, ...] = (FUSED,)  # layouts a checkpoint may have instead of one by one
    single_experts: bool = True  # experts are published one by one
    # Tensors below "model.layers.{l}." that have no part in the answer, as regular expressions.
    unused: tuple[str, ...] = ()
