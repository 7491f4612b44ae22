"""What a step works in: every buffer of the decoder and of the kernels it calls, for a number of rows.

Added up, this is the ledger's "scratch". A buffer that the decoder or a kernel gains is a line here.
"""

from __future__ import annotations

from moestro import core
from moestro.plan.footprint import Footprint

# Logits of at most so many bytes are alive at a time; a step with more rows to sample runs in several.
LOGITS_BYTES = 32 << 20

# Bytes per token of the vocabulary while one row is sampled: float64 logits, probabilities, ids, order and masks.
_SAMPLER_BYTES = 40


def logit_rows(model: Footprint, rows: int) -> int:
    """Rows of a step of `rows` rows whose logits may be asked for together."""
    return max(1, min(rows, LOGITS_BYTES // (4 * model.vocab)))


def work_buffers(model: Footprint, rows: int, threads: int, longest: int) -> dict[str, int]:
    """Bytes by buffer, for steps of up to `rows` rows of sequences of up to `longest` tokens."""
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    sampled = logit_rows(model, rows)
    return {
        "x": 4 * rows * model.hidden,
        "normed": 4 * rows * model.hidden,
        "branch": 4 * rows * model.hidden,
        "q": 4 * rows * queries,
        "k": 4 * rows * keys,
        "v": 4 * rows * keys,
        "attended": 4 * rows * queries,
        "router logits": 4 * rows * model.experts,
        "routing": 8 * rows * model.top_k,  # ids and weights
        "rope tables": 4 * rows * model.head_dim * 2,  # cos, sin, and a set of frequencies per row, made by a copy
        "block tables": 16 * (rows + -(-longest // core.KV_BLOCK)),  # ids and pointers
        "logits": 5 * sampled * model.vocab,  # and whether each is finite
        "sampling": _SAMPLER_BYTES * model.vocab,
        "kernels": _kernel_bytes(model, rows, sampled, threads, longest),
        "experts": _expert_bytes(model, rows),
    }


def work_bytes(model: Footprint, rows: int, threads: int, longest: int) -> int:
    """All of work_buffers."""
    return sum(work_buffers(model, rows, threads, longest).values())


def _kernel_bytes(model: Footprint, rows: int, sampled: int, threads: int, longest: int) -> int:
    """The largest of the calls, which come one after the other."""
    integer, queries = model.trunk_integer, model.heads * model.head_dim
    calls = [
        core.activation_bytes(rows, model.hidden, integer),
        core.activation_bytes(rows, queries, integer),
        core.activation_bytes(sampled, model.hidden, integer),
        core.attention_scratch_bytes(model.kv_heads, model.head_dim, model.heads, rows, longest, threads),
    ]
    if model.dense_width:
        calls.append(
            core.activation_bytes(rows, model.hidden, integer)
            + core.mlp_scratch_bytes(rows, model.dense_width, integer)
        )
    return max(calls)


def _expert_bytes(model: Footprint, rows: int) -> int:
    if not model.moe_layers:
        return 0
    return core.Runtime.scratch_bytes(
        rows, model.top_k, model.hidden, model.expert_width, model.experts_integer, model.moe_layers
    )
