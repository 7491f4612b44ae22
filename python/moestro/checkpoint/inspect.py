"""What a model holds, from headers alone: layers, experts, parameters, bytes by class and format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from moestro.checkpoint.store_format import EMBED_CHECKSUMS, PartSpec, PlainTensor, StoreManifest
from moestro.checkpoint.weights import ModelWeights

# Classes in the order they are shown.
CLASSES = ("experts", "attention", "dense", "head", "embedding", "router", "norm", "bias")


@dataclass(frozen=True)
class ClassSummary:
    """All weights of one class in one format."""

    kind: str  # one of CLASSES
    format: str  # "bf16", "q8", ... ; tensors outside records: their own type
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class ModelSummary:
    model_type: str
    layers: int
    experts: tuple[int, ...]  # per layer; 0: a dense layer
    expert_bytes: tuple[int, ...]  # of one expert, per layer; 0: a dense layer
    tied: bool  # the head is the embedding
    classes: tuple[ClassSummary, ...]

    @property
    def parameters(self) -> int:
        """Each weight once: a tied head counts as the embedding."""
        tied_head = "head" if self.tied else ""
        return sum(entry.parameters for entry in self.classes if entry.kind != tied_head)

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.classes)


def summarise_checkpoint(model_type: str, weights: ModelWeights) -> ModelSummary:
    """A Hugging Face checkpoint, as it lies on disk."""
    return ModelSummary(
        model_type=model_type,
        layers=len(weights.layers),
        experts=tuple(len(layer.experts) for layer in weights.layers),
        expert_bytes=tuple(
            sum(part.nbytes for part in (layer.experts[0].gate, layer.experts[0].up, layer.experts[0].down))
            if layer.experts
            else 0
            for layer in weights.layers
        ),
        tied=weights.tied,
        classes=_total(_checkpoint_items(weights)),
    )


def summarise_store(
    model_type: str, tied: bool, manifest: StoreManifest, padded: Mapping[str, int] = MappingProxyType({})
) -> ModelSummary:
    """A packed store. Bytes are those of the packed matrices, without the padding between records.

    padded: of parts that have rows of padding inside, by name, how many rows are not.
    """
    layers = manifest.layers
    return ModelSummary(
        model_type=model_type,
        layers=len(layers),
        experts=tuple(len(layer.experts.files) if layer.experts else 0 for layer in layers),
        expert_bytes=tuple(layer.experts.record_bytes if layer.experts else 0 for layer in layers),
        tied=tied,
        classes=_total(_store_items(manifest, padded)),
    )


def _checkpoint_items(weights: ModelWeights) -> Iterator[tuple[str, str, int, int]]:
    for role, tensor in weights.roles():
        yield _class_of(role), tensor.core_type, tensor.elements, tensor.elements * tensor.element_bytes


def _store_items(manifest: StoreManifest, padded: Mapping[str, int]) -> Iterator[tuple[str, str, int, int]]:
    for layer in manifest.layers:
        for part in layer.trunk.parts:
            rows = padded.get(part.name, part.rows)
            yield _class_of(f"layers.0.{part.name}"), part.format, rows * part.cols, part.nbytes
        if layer.experts is not None:
            for part in layer.experts.parts:
                yield _packed("experts", part, len(layer.experts.files))
    for record in manifest.head:
        yield _packed("head", record.parts[0], 1)
    for tensor in manifest.plain:
        if tensor.name == EMBED_CHECKSUMS:
            continue
        yield _class_of(tensor.name), _plain_type(tensor), tensor.rows * tensor.cols, tensor.nbytes


def _packed(kind: str, part: PartSpec, count: int) -> tuple[str, str, int, int]:
    return kind, part.format, part.rows * part.cols * count, part.nbytes * count


def _plain_type(tensor: PlainTensor) -> str:
    return tensor.dtype.lower()


def _class_of(role: str) -> str:
    """The class of a weight, from its role."""
    name = role.rsplit(".", 1)[-1]
    if ".experts." in role:
        return "experts"
    if name.endswith("norm"):
        return "norm"
    if name.endswith("bias"):
        return "bias"
    fixed = {"embed": "embedding", "head": "head", "router": "router", "router_correction": "router"}
    mlp = name.removeprefix("shared_") in ("gate", "up", "down", "weight")
    return fixed.get(name, "dense" if mlp else "attention")


def _total(items: Iterator[tuple[str, str, int, int]]) -> tuple[ClassSummary, ...]:
    totals: dict[tuple[str, str], list[int]] = {}
    for kind, format_, parameters, nbytes in items:
        total = totals.setdefault((kind, format_), [0, 0])
        total[0] += parameters
        total[1] += nbytes
    ordered = sorted(totals, key=lambda key: (CLASSES.index(key[0]), key[1]))
    return tuple(ClassSummary(kind, format_, *totals[kind, format_]) for kind, format_ in ordered)
