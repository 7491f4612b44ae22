"""The halves of every decoder layer and its head, made from a ModelSpec and weights: the one place that turns what a
family has into what the core computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moestro import _core
from moestro._core import F32, KvPool, Runtime
from moestro.layers.head import Head, StreamedHead
from moestro.models.resident import ResidentLayer, ResidentWeights
from moestro.models.spec import DenseSpec, LayerSpec, MlaSpec, ModelSpec, MoeSpec
from moestro.plan.memory import MOST_AHEAD

AttentionHalf = _core.AttentionLayer | _core.LatentAttentionLayer


def make_attention(runtime: Runtime, kv: KvPool, spec: ModelSpec, index: int, weights: ResidentLayer) -> AttentionHalf:
    common = {
        "norm": _norm(spec, weights, "input_norm"),
        "norm_after": _norm(spec, weights, "attention_out_norm"),
        "residual": spec.residual_multiplier,
        "eps": spec.rms_norm_eps,
        "scale": attention_scale(spec),
        "neighbours": spec.rope_pairs,
    }
    if spec.mla is not None:
        return _latent(runtime, kv, spec, spec.mla, index, weights, common)
    layer, matrices = spec.layers[index], weights.matrices
    last = spec.qk_norm and spec.qk_norm_kind.endswith("after_rope")
    return _core.AttentionLayer(
        runtime.compute,
        kv,
        index,
        q=matrices["q"],
        k=matrices["k"],
        v=matrices["v"],
        o=matrices["o"],
        gate=matrices.get("attention_gate"),
        q_norm=_head_norm(spec, layer, weights, "q_norm"),
        k_norm=_head_norm(spec, layer, weights, "k_norm"),
        whole_norm=spec.qk_norm_kind == "whole",
        norm_last=last,
        clip=spec.clip_qkv or 0.0,
        rotary=layer.rope if layer.rotary else None,
        temperature=spec.query_temperature is not None and not layer.rotary,
        softcap=spec.attention_softcap or 0.0,
        window=layer.sliding_window or 0,
        chunk=layer.chunk or 0,
        sinks=weights.vectors.get("sinks"),
        **common,
    )


def make_feed_forward(
    runtime: Runtime, spec: ModelSpec, index: int, weights: ResidentLayer
) -> _core.MlpLayer | _core.MoeLayer:
    mlp, matrices = spec.layers[index].mlp, weights.matrices
    common = {
        "norm": _norm(spec, weights, "post_attention_norm"),
        "norm_after": _norm(spec, weights, "mlp_out_norm"),
        "reads_last": spec.block == "parallel",
        "residual": spec.residual_multiplier,
        "eps": spec.rms_norm_eps,
        "activation": spec.activation,
    }
    if isinstance(mlp, DenseSpec):
        gate, up, down = matrices["gate"], matrices["up"], matrices["down"]
        return _core.MlpLayer(runtime.compute, index, gate=gate, up=up, down=down, **common)
    shared = (matrices["shared_gate"], matrices["shared_up"], matrices["shared_down"]) if mlp.shared else None
    return _core.MoeLayer(
        runtime,
        index,
        router=matrices["router"],
        shared=shared,
        shared_weight=matrices.get("shared_weight"),
        correction=weights.vectors.get("router_correction"),
        **_rule(mlp),
        **common,
    )


def make_head(runtime: Runtime, spec: ModelSpec, weights: ResidentWeights) -> Head | StreamedHead:
    settings = {
        "norm": _paired(spec, weights.vectors["final_norm"], weights.vectors.get("final_norm_bias")),
        "eps": spec.rms_norm_eps,
        "multiplier": spec.logit_multiplier,
        "softcap": spec.logit_softcap or 0.0,
    }
    if weights.streamed:
        return StreamedHead(runtime, weights.head, first_unit=len(weights.layers), **settings)
    return Head(runtime.compute, weights.head, **settings)


def attention_scale(spec: ModelSpec) -> float:
    return spec.head_dim**-0.5 if spec.attention_scale is None else spec.attention_scale


def _latent(
    runtime: Runtime,
    kv: KvPool,
    spec: ModelSpec,
    mla: MlaSpec,
    index: int,
    weights: ResidentLayer,
    common: dict[str, Any],
) -> _core.LatentAttentionLayer:
    matrices, vectors = weights.matrices, weights.vectors
    return _core.LatentAttentionLayer(
        runtime.compute,
        kv,
        index,
        q_down=matrices.get("q_down"),
        q_down_norm=vectors.get("q_down_norm"),
        q=matrices["q"],
        kv_down=matrices["kv_down"],
        kv_down_norm=vectors["kv_down_norm"],
        k_up=matrices["k_up"],
        v_up=matrices["v_up"],
        o=matrices["o"],
        values=mla.v_head_dim,
        latent_eps=mla.norm_eps,
        **common,
    )


def look_ahead(layers: Sequence[_core.MoeLayer]) -> None:
    """Makes the later routers known to each layer, so that predictors can ask them about its input, and that it can
    apply the router of a pre-gated one."""
    for index, layer in enumerate(layers):
        layer.look_ahead(layers[index + 1 :][:MOST_AHEAD])


def _rule(moe: MoeSpec) -> dict[str, Any]:
    """How the router chooses and weighs."""
    router = moe.router
    return {
        "top_k": moe.num_experts_per_tok,
        "normalise": moe.norm_topk_prob,
        "score": router.score,
        "groups": router.groups,
        "kept_groups": router.kept_groups,
        "group_best": router.group_best,
        "norm_eps": router.norm_eps,
        "norm_min": router.norm_min,
        "scale": router.scale,
        "jitter": router.jitter,
        "weigh_input": moe.weigh_input,
        "pre_gated": moe.pre_gated,
        "average": moe.average,
    }


def _norm(spec: ModelSpec, weights: ResidentLayer, role: str) -> Any:
    weight = weights.vectors.get(role)
    return None if weight is None else _paired(spec, weight, weights.vectors.get(f"{role}_bias"))


def _paired(spec: ModelSpec, weight: F32, bias: F32 | None) -> Any:
    """As the core takes them: a layer norm is a pair."""
    return (weight, bias) if spec.norm == "layer" else weight


def _head_norm(spec: ModelSpec, layer: LayerSpec, weights: ResidentLayer, role: str) -> Any:
    if not spec.qk_norm:
        return None
    if spec.qk_norm_kind == "plain_after_rope":
        return np.ones(spec.head_dim, np.float32) if layer.rotary else None
    return weights.vectors[role]
