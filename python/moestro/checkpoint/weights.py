"""Where every weight of a model lies: role -> slice of a file. Plain data for loaders and packers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

# Element types a weight may have, by their safetensors names, in bytes.
ELEMENT_BYTES = {"F32": 4, "BF16": 2, "F16": 2}

# The same types as the core names them.
CORE_TYPES = {"F32": "f32", "BF16": "bf16", "F16": "f16"}


@dataclass(frozen=True, slots=True)
class Columns:
    """How a matrix [rows, cols] lies as columns of a wider table: element (n, k) is element k * stride + n * step."""

    stride: int
    step: int


@dataclass(frozen=True, slots=True)
class Stack:
    """`count` matrices of `rows` rows, `stride` bytes apart in the file, that are one matrix together: each is followed
    by rows of zeros, as many for all.
    """

    count: int
    rows: int
    stride: int


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A matrix [rows, cols] in a file, vectors have one row: row-major contiguous, or as `columns` say, or a `stack` of
    such matrices, whose rows, padding included, `rows` counts.
    """

    path: Path
    offset: int  # bytes from the start of the file
    dtype: str  # "F32" | "BF16" | "F16"
    rows: int
    cols: int
    columns: Columns | None = None
    stack: Stack | None = None

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Of the matrix, padding included."""
        return self.rows * self.cols * self.element_bytes

    @property
    def elements(self) -> int:
        """In the file."""
        rows = self.rows if self.stack is None else self.stack.count * self.stack.rows
        return rows * self.cols

    @property
    def span(self) -> int:
        """Bytes from the first to behind the last of its elements in the file."""
        if self.stack is not None:
            return (self.stack.count - 1) * self.stack.stride + self.blocks()[0].span
        if self.columns is None:
            return self.nbytes
        last = (self.cols - 1) * self.columns.stride + (self.rows - 1) * self.columns.step
        return (last + 1) * self.element_bytes

    @property
    def core_type(self) -> str:
        """ "f32" | "bf16" | "f16"."""
        return CORE_TYPES[self.dtype]

    def blocks(self) -> list[TensorSlice]:
        """The matrices of a stack, without what is between them; itself where it is none."""
        if self.stack is None:
            return [self]
        stack = self.stack
        return [
            replace(self, offset=self.offset + number * stack.stride, rows=stack.rows, stack=None)
            for number in range(stack.count)
        ]


def kept_format(tensors: Iterable[TensorSlice]) -> str:
    """What format "auto" means: the one that keeps every value of all of them."""
    return "bf16" if all(tensor.core_type == "bf16" for tensor in tensors) else "f32"


@dataclass(frozen=True, slots=True)
class GatedMlpTensors:
    """gate, up: [intermediate, hidden]; down: [hidden, intermediate]."""

    gate: TensorSlice
    up: TensorSlice
    down: TensorSlice


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """One layer, by the roles of moestro.models.roles."""

    linears: Mapping[str, TensorSlice]  # the trunk's matrices, in the order a layer uses them
    small: Mapping[str, TensorSlice]  # norms, biases and the router: what keeps its type in every format
    experts: tuple[GatedMlpTensors, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelWeights:
    embed: TensorSlice  # [vocab, hidden]
    head: TensorSlice  # [vocab, hidden]; `embed` itself where the two are tied
    small: Mapping[str, TensorSlice]  # of no layer: "final_norm", ...
    layers: tuple[LayerTensors, ...]

    @property
    def tied(self) -> bool:
        return self.head == self.embed

    def all_small(self) -> Iterator[tuple[str, TensorSlice]]:
        """What keeps its type, by role: "layers.3.q_norm", "final_norm"."""
        for number, layer in enumerate(self.layers):
            yield from ((f"layers.{number}.{name}", tensor) for name, tensor in layer.small.items())
        yield from self.small.items()

    def linears(self) -> Iterator[TensorSlice]:
        """The matrices of all layers."""
        for layer in self.layers:
            yield from layer.linears.values()

    def roles(self) -> Iterator[tuple[str, TensorSlice]]:
        """Every weight once, by role: "embed", "layers.3.q", "layers.3.experts.7.gate", "final_norm", "head"."""
        yield "embed", self.embed
        yield from self.all_small()
        for number, layer in enumerate(self.layers):
            yield from ((f"layers.{number}.{name}", tensor) for name, tensor in layer.linears.items())
            for expert, mlp in enumerate(layer.experts):
                for name, tensor in (("gate", mlp.gate), ("up", mlp.up), ("down", mlp.down)):
                    yield f"layers.{number}.experts.{expert}.{name}", tensor
        if not self.tied:
            yield "head", self.head
