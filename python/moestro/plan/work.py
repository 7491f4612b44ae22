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

# Of a device: floats of attention's states at most, csrc/kernels/cuda/attention.cu; arguments of launches on their way,
# per stream; and those of a layer's recorded calls.
_MOST_STATES = 1 << 22
_RINGS = 1 << 20
_MOST_SEQUENCES = 64  # of the longest length, in one step; with more, memory is looked for then
_RECORDINGS = 64 << 10

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
    there: bool = False,
) -> dict[str, int]:
    """Bytes by buffer, for steps of up to `rows` rows of sequences of up to `longest` tokens.

    math: the one run in. streamed: the head comes slice by slice. ahead: next layers whose routers are asked. device:
    some experts are computed by one; there: it computes the trunk too.
    """
    sampled = logit_rows(model, rows)
    workspace = core.Workspace.nbytes_beside if there else core.Workspace.nbytes
    return {
        "workspace": workspace(max_rows=rows, **_work_sizes(model)),
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
    there: bool = False,
) -> int:
    """All of work_buffers."""
    buffers = work_buffers(
        model, rows, threads, longest, math, streamed=streamed, ahead=ahead, device=device, there=there
    )
    return sum(buffers.values())


def device_launch_bytes(model: Footprint, rows: int, longest: int, *, trunk: bool) -> int:
    """What launches on a device need themselves: codes of what they read, what is between two of their kernels, and
    arguments on their way. trunk: the whole model computes there, not experts alone.

    Scratch grows to the largest step and stays. Experts of a step go in parts where they find less.
    """
    pairs = rows * max(1, model.top_k)
    experts = _RINGS + (4 + 2) * rows * model.hidden + 11 * pairs * model.expert_width if model.moe_layers else 0
    if not trunk:
        return 2 * experts  # one stream may take half
    widest = max(model.hidden, model.heads * model.head_dim)
    values = model.value_dim or model.head_dim
    states = min(rows * model.heads * -(-longest // core.KV_SEGMENT) * (values + 2), _MOST_STATES)
    dense = (rows * (2 * model.hidden + 11 * model.dense_width)) if model.dense_width else 0
    linears = 2 * max(rows * widest, rows * model.heads * model.head_inputs)
    return 2 * max(experts, dense) + linears + 8 * states + _RINGS + _RECORDINGS * model.layers


def device_blocks(rows: int, longest: int) -> int:
    """Entries of block tables that a device has room for, in steps of up to `rows` rows."""
    return min(rows, _MOST_SEQUENCES) * -(-longest // core.KV_BLOCK)


def device_array_bytes(model: Footprint, rows: int, longest: int) -> int:
    """What a device that computes the whole model keeps of a step, beside weights and KV."""
    blocks = device_blocks(rows, longest)
    vectors = model.layers * (8 * model.hidden + 2 * model.heads * model.head_dim + model.experts) * 4
    buffers = {
        "workspace": core.Workspace.nbytes_there(max_rows=rows, blocks=blocks, **_work_sizes(model)),
        "vectors": vectors + model.layers * 16 * 256,  # norms, sinks, corrections
        "logits": 4 * logit_rows(model, rows) * model.vocab + 4096,
        "rows": 4 * rows * max(1, model.top_k) * model.hidden + 4096,
    }
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
