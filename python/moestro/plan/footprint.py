"""What of a model decides how much memory it takes. Models make it from their own descriptions; plans only read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Footprint:
    trunk: int  # bytes of everything that stays in memory: linears, head, norms, biases, routers
    small: int  # of these, what is never streamed: norms, biases, routers
    units: tuple[int, ...]  # bytes of what can be: a layer's linears, slices of the head; in the order of their use
    in_place: bool  # put together from a checkpoint's tensors, through staging
    record: int  # bytes of the largest expert record; 0 for a dense model
    records: int  # bytes of all expert records

    layers: int
    moe_layers: int
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    dense_width: int  # intermediate size of the widest MLP of the trunk; 0 where there is none
    trunk_integer: bool  # any linear of the trunk in q8 or q4
    bf16: bool  # any linear, of trunk or experts, in bf16

    experts: int  # of the layer with most; 0 for a dense model, like all below
    top_k: int
    expert_width: int  # intermediate size of the widest expert
    experts_integer: bool

    dtype: str  # the model's own precision: "f32" | "bf16" | "f16"
    max_len: int  # longest context the model was made for, tokens

    max_len_reason: str = "the model was made for fewer tokens"
    value_dim: int = 0  # of a cached value; 0: head_dim
    latent: bool = False  # values are parts of keys
    head_inputs: int = 0  # columns of the widest matrix that there is one of per head
    record_sizes: tuple[int, ...] = ()  # bytes of an expert record, by layer with experts
    work_sizes: Mapping[str, Any] = field(default_factory=dict)  # of the workspace, beyond those above
