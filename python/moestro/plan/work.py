"""What a step works in: every buffer of the decoder and of the kernels it calls, for a number of rows.

Added up, this is the ledger's "scratch". A buffer that the decoder or a kernel gains is a line here.
"""

from __future__ import annotations

from typing import Any

from moestro import core
from moestro.plan.footprint import Footprint

# Logits of at most so many bytes are alive at a time; a step with more rows to sample runs in several.
LOGITS_BYTES = 32 << 20

# Bytes per expert and thread while rows are routed: scores, those that choose, and those of groups.
_ROUTER_BYTES = 12

# Bytes per token of the vocabulary while one row is sampled: float64 logits, probabilities, ids, order and masks.
_SAMPLER_BYTES = 40


def logit_rows(model: Footprint, rows: int) -> int:
    """Rows of a step of `rows` rows whose logits may be asked for together."""
    return max(1, min(rows, LOGITS_BYTES // (4 * model.vocab)))


def work_buffers(
    model: Footprint,
    rows: int,
    threads: int,
    longest: int,
    math: str = "exact",
    *,
    streamed: bool = False,
    ahead: int = 0,
    device: bool = False,
) -> dict[str, int]:
    """Bytes by buffer, for steps of up to `rows` rows of sequences of up to `longest` tokens.

    math: the one run in. streamed: the head comes slice by slice. ahead: next layers whose routers are asked. device:
    some experts are computed by one.
    """
    sampled = logit_rows(model, rows)
    return {
        "workspace": core.Workspace.nbytes(max_rows=rows, **_work_sizes(model)),
        # a set per row and embedding, made by a copy
        "rotary frequencies": 4 * rows * model.head_dim * len(model.work_sizes.get("rotary_halves", [0])),
        "places": 48 * rows + 16 * -(-longest // core.KV_BLOCK),  # positions, block ids and pointers, given and copied
        # and whether each is finite; of a streamed head, one slice's logits beside them
        "logits": (9 if streamed else 5) * sampled * model.vocab,
        "sampling": _SAMPLER_BYTES * model.vocab,
        "kernels": _kernel_bytes(model, rows, threads, longest, math),
        "experts": _expert_bytes(model, rows, math, ahead),
        # what it reads and writes, in memory that it reaches
        "device rows": 2 * 4096 + 4 * model.hidden * rows * (1 + model.top_k) if device else 0,
    }


def work_bytes(
    model: Footprint,
    rows: int,
    threads: int,
    longest: int,
    math: str = "exact",
    *,
    streamed: bool = False,
    ahead: int = 0,
    device: bool = False,
) -> int:
    """All of work_buffers."""
    buffers = work_buffers(model, rows, threads, longest, math, streamed=streamed, ahead=ahead, device=device)
    return sum(buffers.values())


def _kernel_bytes(model: Footprint, rows: int, threads: int, longest: int, math: str) -> int:
    """What they keep from call to call: one set of activations, of the widest input, and scratch of each kind."""
    integer, queries = model.trunk_integer, model.heads * model.head_dim
    attention = core.attention_scratch_bytes(
        model.kv_heads, model.head_dim, model.heads, rows, longest, threads, model.value_dim
    )
    mlp = core.mlp_scratch_bytes(rows, model.dense_width, integer, math) if model.dense_width else 0
    router = _ROUTER_BYTES * model.experts * threads
    widest = max(model.hidden, queries, model.heads * model.head_inputs)
    activations = core.activation_bytes(rows, widest, integer, math)
    if model.head_inputs:
        by_head = core.activation_bytes(rows * model.heads, model.head_inputs, integer, math)
        activations = max(activations, by_head)
    return activations + attention + mlp + router


def _work_sizes(model: Footprint) -> dict[str, Any]:
    usual = {
        "hidden": model.hidden,
        "heads": model.heads,
        "kv_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "experts": model.experts,
        "top_k": model.top_k,
    }
    return {**usual, **model.work_sizes}


def _expert_bytes(model: Footprint, rows: int, math: str, ahead: int) -> int:
    if not model.moe_layers:
        return 0
    return core.Runtime.scratch_bytes(
        rows, model.top_k, model.hidden, model.expert_width, model.experts_integer, model.moe_layers, math, ahead
    )
