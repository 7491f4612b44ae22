"""Where every weight of a model lies: role -> slice of a file. Plain data for loaders and packers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Element types a weight may have, by their safetensors names, in bytes.
ELEMENT_BYTES = {"F32": 4, "BF16": 2, "F16": 2}

# The same types as the core names them.
CORE_TYPES = {"F32": "f32", "BF16": "bf16", "F16": "f16"}


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A row-major contiguous matrix [rows, cols] in a file; vectors have one row."""

    path: Path
    offset: int  # bytes from the start of the file
    dtype: str  # "F32" | "BF16" | "F16"
    rows: int
    cols: int

    @property
    def nbytes(self) -> int:
        return self.rows * self.cols * ELEMENT_BYTES[self.dtype]

    @property
    def core_type(self) -> str:
        """ "f32" | "bf16" | "f16"."""
        return CORE_TYPES[self.dtype]


def kept_format(tensors: Iterable[TensorSlice]) -> str:
    """What format "auto" means: the one that keeps every value of all of them."""
    return "bf16" if all(tensor.core_type == "bf16" for tensor in tensors) else "f32"


@dataclass(frozen=True, slots=True)
class GatedMlpTensors:
    """gate, up: [intermediate, hidden]; down: [hidden, intermediate]; biases are vectors."""

    gate: TensorSlice
    up: TensorSlice
    down: TensorSlice
    gate_bias: TensorSlice | None = None
    up_bias: TensorSlice | None = None
    down_bias: TensorSlice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTensors:
    """One layer: either `dense`, or `router` [experts, hidden] and `experts`."""

    input_norm: TensorSlice  # [hidden]
    post_attention_norm: TensorSlice  # [hidden]
    q: TensorSlice  # [heads * head_dim, hidden]
    k: TensorSlice  # [kv_heads * head_dim, hidden]
    v: TensorSlice  # [kv_heads * head_dim, hidden]
    o: TensorSlice  # [hidden, heads * head_dim]
    q_bias: TensorSlice | None = None
    k_bias: TensorSlice | None = None
    v_bias: TensorSlice | None = None
    o_bias: TensorSlice | None = None
    q_norm: TensorSlice | None = None  # [head_dim]
    k_norm: TensorSlice | None = None  # [head_dim]
    dense: GatedMlpTensors | None = None
    router: TensorSlice | None = None
    experts: tuple[GatedMlpTensors, ...] = ()

    def linears(self) -> Iterator[tuple[str, TensorSlice]]:
        """The trunk's matrices, in the order a layer uses them."""
        yield from (("q", self.q), ("k", self.k), ("v", self.v), ("o", self.o))
        if self.dense is not None:
            yield from (("gate", self.dense.gate), ("up", self.dense.up), ("down", self.dense.down))

    def small(self) -> Iterator[tuple[str, TensorSlice]]:
        """Norms, biases and the router: what keeps its type in every format."""
        dense = self.dense
        named = (
            ("input_norm", self.input_norm),
            ("q_bias", self.q_bias),
            ("k_bias", self.k_bias),
            ("v_bias", self.v_bias),
            ("q_norm", self.q_norm),
            ("k_norm", self.k_norm),
            ("o_bias", self.o_bias),
            ("post_attention_norm", self.post_attention_norm),
            ("router", self.router),
            ("gate_bias", dense.gate_bias if dense else None),
            ("up_bias", dense.up_bias if dense else None),
            ("down_bias", dense.down_bias if dense else None),
        )
        yield from ((name, tensor) for name, tensor in named if tensor is not None)


@dataclass(frozen=True, slots=True)
class ModelWeights:
    embed: TensorSlice  # [vocab, hidden]
    final_norm: TensorSlice  # [hidden]
    head: TensorSlice  # [vocab, hidden]; `embed` itself where the two are tied
    layers: tuple[LayerTensors, ...]

    @property
    def tied(self) -> bool:
        return self.head == self.embed

    def roles(self) -> Iterator[tuple[str, TensorSlice]]:
        """Every weight once, by role: "embed", "layers.3.q", "layers.3.experts.7.gate", "final_norm", "head"."""
        yield "embed", self.embed
        for number, layer in enumerate(self.layers):
            for name, tensor in (*layer.small(), *layer.linears()):
                yield f"layers.{number}.{name}", tensor
            for expert, mlp in enumerate(layer.experts):
                for name, tensor in (("gate", mlp.gate), ("up", mlp.up), ("down", mlp.down)):
                    yield f"layers.{number}.experts.{expert}.{name}", tensor
        yield "final_norm", self.final_norm
        if not self.tied:
            yield "head", self.head
