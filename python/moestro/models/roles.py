"""The weights of a model by role, with the shapes its ModelSpec gives them: what a checkpoint must have, what a packed
store must hold and what the decoder asks for are one list.

Roles of a layer are short names ("q", "input_norm", "shared_up"); in a store they are "layers.{l}.{role}".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from moestro.models.spec import DenseSpec, LayerSpec, MlaSpec, ModelSpec, MoeSpec

# Matrices that lie one per head in a stack start at multiples of so many rows: whole panels of every format.
HEAD_ALIGN = 32

# Small weights that linears are: held as f32 matrices whatever the model's precision.
F32_MATRICES = ("router", "shared_weight")

GATED_MLP = ("gate", "up", "down")


class Shape(NamedTuple):
    role: str
    rows: int
    cols: int


def padded_rows(rows: int) -> int:
    return -(-rows // HEAD_ALIGN) * HEAD_ALIGN


def linear_shapes(spec: ModelSpec, layer: LayerSpec) -> list[Shape]:
    """Matrices of a layer's trunk, in the order of their use."""
    hidden = spec.hidden_size
    shapes = _grouped_query(spec) if spec.mla is None else _latent(spec, spec.mla)
    if isinstance(layer.mlp, DenseSpec):
        return shapes + mlp_shapes(hidden, layer.mlp.intermediate_size)
    if layer.mlp.shared is not None:
        shapes += mlp_shapes(hidden, layer.mlp.shared.intermediate_size, "shared_")
    return shapes


def mlp_shapes(hidden: int, width: int, prefix: str = "") -> list[Shape]:
    return [
        Shape(f"{prefix}gate", width, hidden),
        Shape(f"{prefix}up", width, hidden),
        Shape(f"{prefix}down", hidden, width),
    ]


def small_shapes(spec: ModelSpec, layer: LayerSpec) -> Iterator[Shape]:
    """What of a layer keeps its type in every format: norms, biases, routers. Vectors have one row."""
    for name in _norms(spec):
        yield Shape(name, 1, spec.hidden_size)
        if spec.norm_bias:
            yield Shape(f"{name}_bias", 1, spec.hidden_size)
    yield from _attention_vectors(spec)
    if isinstance(layer.mlp, DenseSpec):
        yield from _mlp_biases(spec, "", layer.mlp.intermediate_size)
    else:
        yield from _moe_vectors(spec, layer.mlp)


def model_shapes(spec: ModelSpec) -> Iterator[Shape]:
    """What of the small weights belongs to no layer."""
    yield Shape("final_norm", 1, spec.hidden_size)
    if spec.norm_bias:
        yield Shape("final_norm_bias", 1, spec.hidden_size)
    if spec.head_bias:
        yield Shape("head_bias", 1, spec.vocab_size)


def _grouped_query(spec: ModelSpec) -> list[Shape]:
    hidden, queries, keys = spec.hidden_size, spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    gate = [Shape("attention_gate", queries, hidden)] if spec.attention_gate else []
    heads = [Shape("q", queries, hidden), Shape("k", keys, hidden), Shape("v", keys, hidden)]
    return [*heads, *gate, Shape("o", hidden, queries)]


def _latent(spec: ModelSpec, mla: MlaSpec) -> list[Shape]:
    """k_up and v_up: one matrix per head, in a stack. k_up is transposed: it takes queries to the latent."""
    hidden, heads = spec.hidden_size, spec.num_heads
    queries = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    if mla.q_lora_rank is None:
        q = [Shape("q", queries, hidden)]
    else:
        q = [Shape("q_down", mla.q_lora_rank, hidden), Shape("q", queries, mla.q_lora_rank)]
    return [
        *q,
        Shape("kv_down", mla.kv_lora_rank + mla.qk_rope_head_dim, hidden),
        Shape("k_up", heads * padded_rows(mla.kv_lora_rank), mla.qk_nope_head_dim),
        Shape("v_up", heads * padded_rows(mla.v_head_dim), mla.kv_lora_rank),
        Shape("o", hidden, heads * mla.v_head_dim),
    ]


def _norms(spec: ModelSpec) -> list[str]:
    """`post_attention_norm` stands before the mlp, whatever checkpoints call it."""
    if spec.block == "parallel":
        return ["input_norm"]
    before, after = ["input_norm", "post_attention_norm"], ["attention_out_norm", "mlp_out_norm"]
    return {"pre": before, "post": after, "sandwich": before + after}[spec.block]


def _attention_vectors(spec: ModelSpec) -> Iterator[Shape]:
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    if spec.mla is not None:
        yield from _latent_vectors(spec, spec.mla)
    elif spec.qkv_bias:
        yield from (Shape("q_bias", 1, queries), Shape("k_bias", 1, keys), Shape("v_bias", 1, keys))
    if spec.qk_norm and spec.qk_norm_kind != "plain_after_rope":
        whole = spec.qk_norm_kind == "whole"
        yield Shape("q_norm", 1, queries if whole else spec.head_dim)
        yield Shape("k_norm", 1, keys if whole else spec.head_dim)
    if spec.sinks:
        yield Shape("sinks", 1, spec.num_heads)
    if spec.o_bias:
        yield Shape("o_bias", 1, spec.hidden_size)


def _latent_vectors(spec: ModelSpec, mla: MlaSpec) -> Iterator[Shape]:
    if mla.q_lora_rank is not None:
        yield Shape("q_down_norm", 1, mla.q_lora_rank)
        if spec.qkv_bias:
            yield Shape("q_down_bias", 1, mla.q_lora_rank)
    yield Shape("kv_down_norm", 1, mla.kv_lora_rank)
    if spec.qkv_bias:
        yield Shape("kv_down_bias", 1, mla.kv_lora_rank + mla.qk_rope_head_dim)


def _mlp_biases(spec: ModelSpec, prefix: str, width: int) -> Iterator[Shape]:
    if spec.mlp_bias:
        yield Shape(f"{prefix}gate_bias", 1, width)
        yield Shape(f"{prefix}up_bias", 1, width)
        yield Shape(f"{prefix}down_bias", 1, spec.hidden_size)


def _moe_vectors(spec: ModelSpec, moe: MoeSpec) -> Iterator[Shape]:
    yield Shape("router", moe.num_experts, spec.hidden_size)
    if moe.router.bias:
        yield Shape("router_bias", 1, moe.num_experts)
    if moe.router.correction:
        yield Shape("router_correction", 1, moe.num_experts)
    if moe.expert_bias:
        yield Shape("expert_gate_bias", moe.num_experts, moe.intermediate_size)
        yield Shape("expert_up_bias", moe.num_experts, moe.intermediate_size)
        yield Shape("expert_down_bias", moe.num_experts, spec.hidden_size)
    if moe.shared is not None:
        if moe.shared.gated:
            yield Shape("shared_weight", 1, spec.hidden_size)
        yield from _mlp_biases(spec, "shared_", moe.shared.intermediate_size)
