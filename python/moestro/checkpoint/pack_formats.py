"""Which format and scale type every matrix of a store gets."""

from __future__ import annotations

from collections.abc import Iterator

from moestro.checkpoint.store_plan import PartFormat, PlannedTensor
from moestro.checkpoint.weights import ModelWeights, TensorSlice, kept_format
from moestro.errors import UsageError

FORMATS = ("auto", "f32", "bf16", "q8", "q4")
INTEGER_FORMATS = ("q8", "q4")

# (layer, part) as store_plan.FormatChoice has them: the matrices that share one format and scale type.
MatrixClass = tuple[int | None, str]


class PackFormats:
    """A store_plan.FormatChoice. trunk, experts: one of FORMATS; "auto" keeps the values of the checkpoint.

    Scales are f16, except in the classes of `wide`, where f16 would under- or overflow: f32 there.
    """

    def __init__(
        self, weights: ModelWeights, *, trunk: str, experts: str, wide: frozenset[MatrixClass] = frozenset()
    ) -> None:
        for name, value in (("format", experts), ("trunk_format", trunk)):
            if value not in FORMATS:
                raise UsageError(f"{name}: expected one of {', '.join(FORMATS)}, got {value!r}")
        self._weights = weights
        self._trunk = trunk
        self._experts = experts
        self._wide = wide

    def __call__(self, layer: int | None, part: str) -> PartFormat:
        wanted = self._experts if part.startswith("experts.") else self._trunk
        format = kept_format(self._sources(layer, part)) if wanted == "auto" else wanted
        if format not in INTEGER_FORMATS:
            return PartFormat(format, "none")
        return PartFormat(format, "f32" if (layer, part) in self._wide else "f16")

    def _sources(self, layer: int | None, part: str) -> Iterator[TensorSlice]:
        if layer is None:
            yield self._weights.head
        elif part.startswith("experts."):
            # A layer's experts are packed alike in all their parts, as they are where they are used in place.
            for expert in self._weights.layers[layer].experts:
                yield from (expert.gate, expert.up, expert.down)
        else:
            yield self._weights.layers[layer].linears[part]


def matrix_class(tensor: PlannedTensor, part: str) -> MatrixClass:
    """The class of one part of a planned record."""
    words = tensor.name.split(".")
    if words[0] == "head":
        return None, "head"
    return int(words[1]), f"experts.{part}" if words[2] == "experts" else part
