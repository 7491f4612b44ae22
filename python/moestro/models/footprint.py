"""How much memory a model will take, to the byte that the ledger will be charged, before any weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from moestro import _core
from moestro.checkpoint.pack_formats import INTEGER_FORMATS
from moestro.checkpoint.store_format import EMBED_CHECKSUMS, PART_ALIGN, StoreManifest
from moestro.checkpoint.weights import GatedMlpTensors, ModelWeights
from moestro.models.checkpoint_source import UnitPiece, checkpoint_units, expert_format, trunk_format
from moestro.models.roles import F32_MATRICES
from moestro.models.spec import DenseSpec, ModelSpec, MoeSpec
from moestro.models.vectors import HasShape, vector_bytes
from moestro.models.work_sizes import work_sizes
from moestro.plan.footprint import Footprint

_PAGE = 4096  # matrices start on pages of their own, and records are whole pages


def make_footprint(
    spec: ModelSpec,
    *,
    trunk: int,
    small: int,
    units: list[int],
    in_place: bool,
    records: list[int],
    trunk_formats: set[str],
    expert_formats: set[str],
) -> Footprint:
    """trunk, small, units, in_place: see `Footprint`. records: bytes of every expert record."""
    dense = [layer.mlp.intermediate_size for layer in spec.layers if isinstance(layer.mlp, DenseSpec)]
    moe = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    shared = [mlp.shared.intermediate_size for mlp in moe if mlp.shared is not None]
    first = list(accumulate((mlp.num_experts for mlp in moe), initial=0))[:-1]
    return Footprint(
        trunk=trunk,
        small=small,
        units=tuple(units),
        in_place=in_place,
        record=max(records, default=0),
        records=sum(records),
        record_sizes=tuple(records[number] for number in first),
        layers=spec.num_layers,
        moe_layers=len(moe),
        hidden=spec.hidden_size,
        vocab=spec.vocab_size,
        heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        value_dim=spec.value_dim,
        latent=spec.mla is not None,
        head_inputs=max(spec.mla.qk_nope_head_dim, spec.mla.kv_lora_rank) if spec.mla else 0,
        work_sizes=work_sizes(spec),
        dense_width=max([*dense, *shared], default=0),
        trunk_integer=not trunk_formats.isdisjoint(INTEGER_FORMATS),
        bf16="bf16" in trunk_formats | expert_formats,
        experts=max((layer.num_experts for layer in moe), default=0),
        top_k=max((layer.num_experts_per_tok for layer in moe), default=0),
        expert_width=max((layer.intermediate_size for layer in moe), default=0),
        experts_integer=not expert_formats.isdisjoint(INTEGER_FORMATS),
        dtype=spec.dtype,
        max_len=spec.context_length,
        max_len_reason=spec.context_reason,
    )


def checkpoint_footprint(spec: ModelSpec, weights: ModelWeights, trunk: str, experts: str) -> Footprint:
    """Of a checkpoint in place; trunk, experts: the formats asked for."""
    linears = [*weights.linears(), weights.head]
    formats = [trunk_format(trunk, tensor) for tensor in linears]
    matrices = sum(_matrix_pages(tensor, name) for tensor, name in zip(linears, formats, strict=True))
    small = sum(small_bytes(name, tensor) for name, tensor in weights.all_small())
    firsts = [(layer.experts[0], len(layer.experts)) for layer in weights.layers if layer.experts]
    kept = [expert_format(experts, expert) for expert, _ in firsts]
    records = [
        _record_bytes(expert, name) for (expert, count), name in zip(firsts, kept, strict=True) for _ in range(count)
    ]
    return make_footprint(
        spec,
        trunk=matrices + small,
        small=small,
        units=[_unit_bytes(pieces) for pieces in checkpoint_units(weights, trunk)],
        in_place=True,
        records=records,
        trunk_formats=set(formats),
        expert_formats=set(kept),
    )


def store_footprint(spec: ModelSpec, manifest: StoreManifest) -> Footprint:
    """Of a packed store."""
    trunk = [layer.trunk for layer in manifest.layers] + list(manifest.head)
    experts = [layer.experts for layer in manifest.layers if layer.experts is not None]
    small = 0
    for tensor in manifest.plain:
        if tensor.name == EMBED_CHECKSUMS:
            small += tensor.nbytes
        elif tensor.name != "embed":
            small += small_bytes(tensor.name, tensor)
    return make_footprint(
        spec,
        trunk=sum(record.record_bytes for record in trunk) + small,
        small=small,
        units=[record.record_bytes for record in trunk],
        in_place=False,
        records=[layer.record_bytes for layer in experts for _ in layer.files],
        trunk_formats={part.format for record in trunk for part in record.parts},
        expert_formats={part.format for layer in experts for part in layer.parts},
    )


def small_bytes(role: str, tensor: HasShape) -> int:
    """Of a norm, bias or router as it is held: float32, routers as matrices."""
    return _matrix_pages(tensor, "f32") if role.rsplit(".", 1)[-1] in F32_MATRICES else vector_bytes(tensor)


def _record_bytes(expert: GatedMlpTensors, format: str) -> int:
    parts = (expert.gate, expert.up, expert.down)
    return _pages(sum(_core.matrix_bytes(format, "none", part.rows, part.cols) for part in parts))


def _unit_bytes(pieces: Sequence[UnitPiece]) -> int:
    end = 0
    for piece in pieces:
        end += _core.matrix_bytes(piece.format, "none", piece.tensor.rows, piece.tensor.cols)
        end = -(-end // PART_ALIGN) * PART_ALIGN
    return _pages(end)


def _matrix_pages(tensor: HasShape, format: str) -> int:
    return _pages(_core.matrix_bytes(format, "none", tensor.rows, tensor.cols))


def _pages(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE
