"""What a model takes in memory, from what was read of it: the bridge from models to memory plans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from moestro import core
from moestro.checkpoint.store_format import EMBED_CHECKSUMS, StoreManifest
from moestro.checkpoint.weights import ModelWeights
from moestro.models.checkpoint_source import expert_format, trunk_format
from moestro.models.spec import DenseSpec, ModelSpec, MoeSpec
from moestro.plan.footprint import Footprint

_PAGE = 4096
_PART = 64
_INTEGER = ("q8", "q4")


def checkpoint_footprint(spec: ModelSpec, weights: ModelWeights, *, trunk: str, experts: str) -> Footprint:
    """Of a checkpoint used in place. trunk, experts: formats as CheckpointSource takes them."""
    records = [
        (len(layer.experts), _round_up(_record_bytes(spec, moe, expert_format(experts, layer.experts[0])), _PAGE))
        for layer, moe in zip(weights.layers, (layer.mlp for layer in spec.layers), strict=True)
        if isinstance(moe, MoeSpec)
    ]
    return _footprint(spec, sum(_checkpoint_trunk(weights, trunk)), records, trunk_formats=(), expert_formats=())


def store_footprint(spec: ModelSpec, manifest: StoreManifest) -> Footprint:
    """Of a packed store."""
    trunk_records = [*(layer.trunk for layer in manifest.layers), *manifest.head]
    expert_specs = [layer.experts for layer in manifest.layers if layer.experts is not None]
    return _footprint(
        spec,
        sum(record.record_bytes for record in trunk_records) + sum(_store_small(manifest)),
        [(len(experts.files), experts.record_bytes) for experts in expert_specs],
        trunk_formats=(part.format for record in trunk_records for part in record.parts),
        expert_formats=(part.format for experts in expert_specs for part in experts.parts),
    )


def _checkpoint_trunk(weights: ModelWeights, wanted: str) -> Iterator[int]:
    """Bytes by tensor: matrices in pages of their own; vectors as float32, biases also once inside their matrix."""
    for layer in weights.layers:
        for _, tensor in layer.linears():
            yield _matrix_pages(tensor.rows, tensor.cols, trunk_format(wanted, tensor))
        for name, tensor in layer.small():
            if name == "router":
                yield _matrix_pages(tensor.rows, tensor.cols, "f32")
            else:
                yield 4 * tensor.cols * (2 if name.endswith("_bias") else 1)
    yield _matrix_pages(weights.head.rows, weights.head.cols, trunk_format(wanted, weights.head))
    yield 4 * weights.final_norm.cols


def _store_small(manifest: StoreManifest) -> Iterator[int]:
    """The same of a store's plain tensors; its embedding is read by row and verified with a table that stays."""
    for tensor in manifest.plain:
        if tensor.name == EMBED_CHECKSUMS:
            yield tensor.nbytes
        elif tensor.name.endswith(".router"):
            yield core.matrix_bytes("f32", "none", tensor.rows, tensor.cols)
        elif tensor.name != "embed":
            yield 4 * tensor.cols * (2 if tensor.name.endswith("_bias") else 1)


def _footprint(
    spec: ModelSpec,
    trunk: int,
    records: list[tuple[int, int]],
    *,
    trunk_formats: Iterable[str],
    expert_formats: Iterable[str],
) -> Footprint:
    """records: (experts, bytes of each) by MoE layer."""
    dense = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, DenseSpec)]
    moe = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    return Footprint(
        trunk=trunk,
        record=max((nbytes for _, nbytes in records), default=0),
        records=sum(count * nbytes for count, nbytes in records),
        layers=spec.num_layers,
        moe_layers=len(moe),
        hidden=spec.hidden_size,
        vocab=spec.vocab_size,
        heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        dense_width=max((mlp.intermediate_size for mlp in dense), default=0),
        trunk_integer=any(name in _INTEGER for name in trunk_formats),
        experts=max((mlp.num_experts for mlp in moe), default=0),
        top_k=max((mlp.num_experts_per_tok for mlp in moe), default=0),
        expert_width=max((mlp.intermediate_size for mlp in moe), default=0),
        experts_integer=any(name in _INTEGER for name in expert_formats),
        dtype=spec.dtype,
        max_len=spec.max_position_embeddings,
    )


def _record_bytes(spec: ModelSpec, moe: MoeSpec, format: str) -> int:
    """gate, up and down in one record, each on its alignment."""
    hidden, width = spec.hidden_size, moe.intermediate_size
    shapes = ((width, hidden), (width, hidden), (hidden, width))
    return sum(_round_up(core.matrix_bytes(format, "none", rows, cols), _PART) for rows, cols in shapes)


def _matrix_pages(rows: int, cols: int, format: str) -> int:
    return _round_up(core.matrix_bytes(format, "none", rows, cols), _PAGE)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
