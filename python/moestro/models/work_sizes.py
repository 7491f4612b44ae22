"""What of a model decides the arrays that its steps are computed in."""

from __future__ import annotations

from typing import Any

from moestro._core import Runtime, Workspace
from moestro.models.spec import ModelSpec, MoeSpec


def work_sizes(spec: ModelSpec) -> dict[str, Any]:
    """The sizes of `moestro._core.Workspace`, by name."""
    moe = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    sizes = {
        "hidden": spec.hidden_size,
        "heads": spec.num_heads,
        "kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "value_dim": spec.value_dim,
        "rotary_halves": [rotated // 2 for rotated in rotary_dims(spec)],
        "experts": max((mlp.num_experts for mlp in moe), default=0),
        "top_k": max((mlp.num_experts_per_tok for mlp in moe), default=0),
        "shared": any(mlp.shared is not None for mlp in moe),
        "weighed": any(mlp.weigh_input for mlp in moe),
        "pre_gated": any(mlp.pre_gated for mlp in moe),
        "query_factors": spec.query_temperature is not None,
        "wide": spec.num_heads * spec.head_dim if spec.attention_gate else 0,
    }
    if (mla := spec.mla) is not None:
        sizes["wide"] = spec.num_heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
        sizes["narrow"] = mla.q_lora_rank or 0
        by_head = spec.num_heads * max(mla.qk_nope_head_dim, mla.v_head_dim)
        sizes["by_head"] = max(by_head, mla.kv_lora_rank)
    return sizes


def rotary_dims(spec: ModelSpec) -> list[int]:
    """Of every rotary embedding, the dimensions of a head that it turns."""
    whole = spec.head_dim if spec.mla is None else spec.mla.qk_rope_head_dim
    return [rope.rotary_dim or whole for rope in spec.ropes]


def make_workspace(spec: ModelSpec, max_rows: int, runtime: Runtime) -> Workspace:
    """What the steps of a model compute in. `work_bytes` of the memory plan counts it."""
    return Workspace(max_rows=max_rows, runtime=runtime, **work_sizes(spec))
