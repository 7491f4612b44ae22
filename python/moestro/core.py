"""The C++ core for people who wrap their own models: kernels, packing, reading, and the runtime that streams experts.

Arrays are numpy arrays or anything with ``__dlpack__`` (torch, jax, cupy on host memory), C-contiguous unless said,
taken without a copy and checked: a wrong one is a UsageError naming the argument, what was expected and what came.
Results are defined to the bit by docs/numerics.md. Calls that compute or wait release the GIL.

    compute = core.make_compute(threads=2)
    packed = numpy.empty(core.matrix_bytes("q8", "f16", rows, cols), numpy.uint8)
    core.pack_matrix(compute, weights.view(numpy.uint8).reshape(-1), "f32", rows, cols, "q8", "f16", packed)
    matrix = core.Matrix.from_packed(packed, "q8", "f16", rows, cols)
    core.linear(compute, x, [matrix], [y])  # y = x @ weights.T

Importing this module raises UnsupportedError, in one sentence, on a CPU that moestro does not run on.
"""

from __future__ import annotations

from moestro import knobs
from moestro.errors import UnsupportedError

try:
    from moestro._core import (
        FORMATS,
        KV_BLOCK,
        KV_TYPES,
        POLICIES,
        READERS,
        AttentionLayer,
        Compute,
        Head,
        KvPool,
        Ledger,
        Matrix,
        MlpLayer,
        MoeLayer,
        Runtime,
        Ticket,
        Workspace,
        __version__,
        activation_bytes,
        add,
        attention,
        attention_scratch_bytes,
        choose_scale_type,
        gated_mlp,
        isa_tables,
        kept_units,
        kv_append,
        linear,
        matrix_bytes,
        measure_read_rate,
        mlp_scratch_bytes,
        pack_matrix,
        quantize_activations,
        rms_norm,
        rope,
        rope_table,
        route_softmax_topk,
        unpack_codes,
        unpack_matrix,
        widen,
        xxh64,
    )
except ImportError as error:
    raise UnsupportedError(f"{error}") from error


def make_compute(threads: int = 1, math: str = "exact") -> Compute:
    """Threads to compute with, on the best instruction set of this CPU or the one that MOESTRO_ISA forces.

    math: "exact" or "fast"; where fast cannot be had, the result's `math` is "exact" and its `refused` says why.
    Raises UsageError for an unknown name, UnsupportedError where the CPU lacks the forced one.
    """
    return Compute(threads, knobs.ISA.read(), math)


__all__ = [
    "FORMATS",
    "KV_BLOCK",
    "KV_TYPES",
    "POLICIES",
    "READERS",
    "AttentionLayer",
    "Compute",
    "Head",
    "KvPool",
    "Ledger",
    "Matrix",
    "MlpLayer",
    "MoeLayer",
    "Runtime",
    "Ticket",
    "Workspace",
    "__version__",
    "activation_bytes",
    "add",
    "attention",
    "attention_scratch_bytes",
    "choose_scale_type",
    "gated_mlp",
    "isa_tables",
    "kept_units",
    "kv_append",
    "linear",
    "make_compute",
    "matrix_bytes",
    "measure_read_rate",
    "mlp_scratch_bytes",
    "pack_matrix",
    "quantize_activations",
    "rms_norm",
    "rope",
    "rope_table",
    "route_softmax_topk",
    "unpack_codes",
    "unpack_matrix",
    "widen",
    "xxh64",
]
