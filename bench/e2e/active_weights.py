"""What one token needs of a model: bytes of weights read and multiply-adds done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moestro import core
from moestro.demo.random_model import Shape

_SCALES = {"bf16": "none", "q8": "f16", "q4": "f16"}


@dataclass(frozen=True)
class Matrix:
    rows: int
    cols: int
    times: int  # used per token, over all layers
    router: bool = False


def layer_matrices(shape: Shape) -> Iterator[Matrix]:
    """Every linear that a token passes, but the head."""
    inner, outer = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield Matrix(inner + 2 * outer, shape.hidden, shape.layers)
    yield Matrix(shape.hidden, inner, shape.layers)
    yield Matrix(shape.experts, shape.hidden, shape.layers, router=True)
    used = shape.layers * shape.experts_per_token
    yield Matrix(2 * shape.expert_width, shape.hidden, used)
    yield Matrix(shape.hidden, shape.expert_width, used)


def prefill_operations(shape: Shape, vocab: int, tokens: int) -> float:
    """Two per multiply-add, over `tokens` positions; the head is computed for one."""
    weights = sum(matrix.rows * matrix.cols * matrix.times for matrix in layer_matrices(shape))
    return 2.0 * (weights * tokens + vocab * shape.hidden)


def moestro_bytes(shape: Shape, vocab: int, format: str) -> int:
    """Per token, as moestro packs them; routers are float32."""
    matrices = (*layer_matrices(shape), Matrix(vocab, shape.hidden, 1))
    return sum(_packed_bytes(matrix, format) * matrix.times for matrix in matrices)


def bf16_bytes(shape: Shape, vocab: int) -> int:
    """Per token, where every weight takes two bytes: transformers."""
    return int(prefill_operations(shape, vocab, 1))


def gguf_bytes(path: Path, shape: Shape) -> int:
    """Per token, by the types that this file has: all but the embedding, and of the experts as many as are chosen."""
    import gguf

    total = 0
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "token_embd.weight":
            continue
        share = shape.experts_per_token / shape.experts if "_exps" in tensor.name else 1
        total += int(tensor.n_bytes * share)
    return total


def _packed_bytes(matrix: Matrix, format: str) -> int:
    if matrix.router:
        return core.matrix_bytes("f32", "none", matrix.rows, matrix.cols)
    return core.matrix_bytes(format, _SCALES[format], matrix.rows, matrix.cols)
