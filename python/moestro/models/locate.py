"""Tensor names of a llama-like checkpoint -> roles: every tensor found, of its exact shape, and none left over."""

from __future__ import annotations

import re

from moestro.checkpoint.index import CheckpointIndex
from moestro.checkpoint.weights import GatedMlpTensors, LayerTensors, ModelWeights, TensorSlice
from moestro.models.claims import TensorClaims
from moestro.models.family import ExpertNames, Family
from moestro.models.spec import DenseSpec, LayerSpec, ModelSpec, MoeSpec

# Buffers that old checkpoints saved; the frequencies follow from the config.
_BUFFERS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")

# How transformers 5 stores a mixture in one piece, whatever the family.
_FUSED_ROUTER = "mlp.gate.weight"
_FUSED_GATE_UP = "mlp.experts.gate_up_proj"  # [experts, 2 * intermediate, hidden], gate rows first
_FUSED_DOWN = "mlp.experts.down_proj"  # [experts, hidden, intermediate]


def locate_weights(family: Family, spec: ModelSpec, index: CheckpointIndex) -> ModelWeights:
    """Where every weight of the model lies. Raises CheckpointError naming missing, misshapen and leftover tensors."""
    claims = TensorClaims(index.tensors, str(index.directory))
    embed = claims.matrix("model.embed_tokens.weight", spec.vocab_size, spec.hidden_size)
    layers = tuple(_layer(claims, family, spec, number) for number in range(spec.num_layers))
    final_norm = claims.vector("model.norm.weight", spec.hidden_size)
    head = embed
    # A tied model that brings a head all the same means it: transformers unties the two where they differ.
    if not spec.tie_word_embeddings or "lm_head.weight" in claims:
        head = claims.matrix("lm_head.weight", spec.vocab_size, spec.hidden_size)
    claims.finish(ignorable=frozenset(filter(_BUFFERS.fullmatch, index.tensors)))
    return ModelWeights(embed, final_norm, head, layers)


def _layer(claims: TensorClaims, family: Family, spec: ModelSpec, number: int) -> LayerTensors:
    prefix = f"model.layers.{number}."
    hidden, dim = spec.hidden_size, spec.head_dim
    q_rows, kv_rows = spec.num_heads * dim, spec.num_kv_heads * dim

    def bias(name: str, size: int, present: bool) -> TensorSlice | None:
        return claims.vector(f"{prefix}{name}", size) if present else None

    attention = prefix + "self_attn."
    q, k, v = _qkv(claims, family, attention, q_rows, kv_rows, hidden)
    dense, router, experts = _mlp(claims, family, spec, spec.layers[number], prefix)
    return LayerTensors(
        input_norm=claims.vector(f"{prefix}input_layernorm.weight", hidden),
        post_attention_norm=claims.vector(f"{prefix}post_attention_layernorm.weight", hidden),
        q=q,
        k=k,
        v=v,
        o=claims.matrix(f"{attention}o_proj.weight", hidden, q_rows),
        q_bias=bias("self_attn.q_proj.bias", q_rows, spec.qkv_bias),
        k_bias=bias("self_attn.k_proj.bias", kv_rows, spec.qkv_bias),
        v_bias=bias("self_attn.v_proj.bias", kv_rows, spec.qkv_bias),
        o_bias=bias("self_attn.o_proj.bias", hidden, spec.o_bias),
        q_norm=bias("self_attn.q_norm.weight", dim, spec.qk_norm),
        k_norm=bias("self_attn.k_norm.weight", dim, spec.qk_norm),
        dense=dense,
        router=router,
        experts=experts,
    )


def _qkv(
    claims: TensorClaims, family: Family, prefix: str, q_rows: int, kv_rows: int, hidden: int
) -> tuple[TensorSlice, TensorSlice, TensorSlice]:
    if not family.fused:
        rows = (("q", q_rows), ("k", kv_rows), ("v", kv_rows))
        q, k, v = (claims.matrix(f"{prefix}{name}_proj.weight", count, hidden) for name, count in rows)
        return q, k, v
    name, shape = f"{prefix}qkv_proj.weight", (q_rows + 2 * kv_rows, hidden)
    return (
        claims.rows(name, shape, 0, q_rows),
        claims.rows(name, shape, q_rows, kv_rows),
        claims.rows(name, shape, q_rows + kv_rows, kv_rows),
    )


def _mlp(
    claims: TensorClaims, family: Family, spec: ModelSpec, layer: LayerSpec, prefix: str
) -> tuple[GatedMlpTensors | None, TensorSlice | None, tuple[GatedMlpTensors, ...]]:
    """(dense, router, experts) of one layer."""
    hidden, names = spec.hidden_size, family.experts
    if isinstance(layer.mlp, DenseSpec) or names is None:
        make = _fused_dense if family.fused else _dense
        return make(claims, spec, layer.mlp.intermediate_size, prefix), None, ()
    count = layer.mlp.num_experts
    if prefix + _FUSED_GATE_UP in claims:
        experts = tuple(_fused_expert(claims, prefix, layer.mlp, hidden, expert) for expert in range(count))
        return None, claims.matrix(prefix + _FUSED_ROUTER, count, hidden), experts
    experts = tuple(_single_expert(claims, prefix, names, layer.mlp, hidden, expert) for expert in range(count))
    return None, claims.matrix(prefix + names.router, count, hidden), experts


def _dense(claims: TensorClaims, spec: ModelSpec, width: int, prefix: str) -> GatedMlpTensors:
    hidden = spec.hidden_size

    def bias(name: str, size: int) -> TensorSlice | None:
        return claims.vector(f"{prefix}mlp.{name}_proj.bias", size) if spec.mlp_bias else None

    return GatedMlpTensors(
        gate=claims.matrix(f"{prefix}mlp.gate_proj.weight", width, hidden),
        up=claims.matrix(f"{prefix}mlp.up_proj.weight", width, hidden),
        down=claims.matrix(f"{prefix}mlp.down_proj.weight", hidden, width),
        gate_bias=bias("gate", width),
        up_bias=bias("up", width),
        down_bias=bias("down", hidden),
    )


def _fused_dense(claims: TensorClaims, spec: ModelSpec, width: int, prefix: str) -> GatedMlpTensors:
    hidden, gate_up = spec.hidden_size, f"{prefix}mlp.gate_up_proj.weight"
    return GatedMlpTensors(
        gate=claims.rows(gate_up, (2 * width, hidden), 0, width),
        up=claims.rows(gate_up, (2 * width, hidden), width, width),
        down=claims.matrix(f"{prefix}mlp.down_proj.weight", hidden, width),
    )


def _single_expert(
    claims: TensorClaims, prefix: str, names: ExpertNames, moe: MoeSpec, hidden: int, expert: int
) -> GatedMlpTensors:
    width = moe.intermediate_size
    return GatedMlpTensors(
        gate=claims.matrix(prefix + names.gate.format(e=expert), width, hidden),
        up=claims.matrix(prefix + names.up.format(e=expert), width, hidden),
        down=claims.matrix(prefix + names.down.format(e=expert), hidden, width),
    )


def _fused_expert(claims: TensorClaims, prefix: str, moe: MoeSpec, hidden: int, expert: int) -> GatedMlpTensors:
    width = moe.intermediate_size
    gate_up_shape, down_shape = (moe.num_experts, 2 * width, hidden), (moe.num_experts, hidden, width)
    return GatedMlpTensors(
        gate=claims.plane(prefix + _FUSED_GATE_UP, gate_up_shape, expert, 0, width),
        up=claims.plane(prefix + _FUSED_GATE_UP, gate_up_shape, expert, width, width),
        down=claims.plane(prefix + _FUSED_DOWN, down_shape, expert, 0, hidden),
    )
