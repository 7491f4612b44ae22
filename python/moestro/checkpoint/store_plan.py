"""Plans a packed store: every file, offset and size, before a byte is written.

So the space check is a comparison, a killed run resumes at the tensor it was at, and the manifest needs nothing from
the packer but checksums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moestro.checkpoint.safetensors_writer import FileLayout, TensorEntry, lay_out
from moestro.checkpoint.store_format import (
    EMBED_CHECKSUMS,
    FORMAT_VERSION,
    PART_ALIGN,
    RECORD_ALIGN,
    ExpertSpec,
    PartSpec,
    PlainTensor,
    Record,
    StoreFile,
    StoreLayer,
    StoreManifest,
    checksum_text,
)
from moestro.checkpoint.weights import ELEMENT_BYTES, LayerTensors, ModelWeights, TensorSlice

MAX_FILE_BYTES = 4 << 30
HEAD_SLICE_BYTES = 8 << 20

# Head slices end on whole panels of every format.
_PANEL_ROWS = 32


@dataclass(frozen=True)
class PartFormat:
    """How one matrix is packed: "f32" | "bf16" | "q8" | "q4" and its scale type ("none" for the float formats)."""

    format: str
    scale: str


# (layer or None, part) -> format. Parts are "q", "k", "v", "o", "gate", "up", "down" (dense), "experts.gate",
# "experts.up", "experts.down" (all experts of a layer alike) and, without a layer, "head".
FormatChoice = Callable[[int | None, str], PartFormat]

# (format, scale, rows, cols) -> bytes of the packed matrix: the core's.
MatrixBytes = Callable[[str, str, int, int], int]


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to write: a record packed from `sources` into `parts`, or (no parts) its one source copied as it is.

    The one named EMBED_CHECKSUMS holds the checksums of its source's rows instead.
    """

    name: str
    nbytes: int
    parts: tuple[PartSpec, ...]
    sources: tuple[TensorSlice, ...]

    @property
    def entry(self) -> TensorEntry:
        if self.parts:
            return TensorEntry(self.name, "U8", (self.nbytes,), self.nbytes)
        source = self.sources[0]
        if self.name == EMBED_CHECKSUMS:
            return TensorEntry(self.name, "U64", (source.rows,), self.nbytes)
        shape = (source.cols,) if source.rows == 1 else (source.rows, source.cols)
        return TensorEntry(self.name, source.dtype, shape, self.nbytes)


@dataclass(frozen=True)
class PlannedFile:
    name: str
    tensors: tuple[PlannedTensor, ...]
    layout: FileLayout
    stripe: int  # of the plan's: files of different ones may lie on different drives


@dataclass(frozen=True)
class StorePlan:
    """`files` in the order they are written. `model` and `config` go into the manifest as they are."""

    model: Mapping[str, Any]
    config: Mapping[str, Any]
    files: tuple[PlannedFile, ...]
    num_layers: int

    @property
    def nbytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.layout.nbytes for file in self.files)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the store would: an interrupted run may go on only under the same one."""
        digest = hashlib.sha256(json.dumps([self.model, self.config], sort_keys=True).encode())
        for file in self.files:
            digest.update(file.layout.header + b"%d" % file.stripe)
            for tensor in file.tensors:
                digest.update(repr((tensor.parts, tensor.sources)).encode())
        return digest.hexdigest()

    def manifest(self, checksums: Mapping[str, int]) -> StoreManifest:
        """The finished store's manifest; `checksums` holds the XXH64 of every tensor by name."""
        places = _places(self.files, checksums)
        heads = sorted((name for name in places if name.startswith("head.")), key=lambda name: int(name[5:]))
        return StoreManifest(
            format_version=FORMAT_VERSION,
            model=self.model,
            config=self.config,
            files=tuple(StoreFile(file.name, file.layout.nbytes) for file in self.files),
            layers=tuple(_layer(places, number) for number in range(self.num_layers)),
            head=tuple(places[name].record() for name in heads),
            plain=tuple(place.plain() for place in places.values() if not place.tensor.parts),
        )


def plan_store(
    model: Mapping[str, Any],
    config: Mapping[str, Any],
    weights: ModelWeights,
    choose: FormatChoice,
    matrix_bytes: MatrixBytes,
    *,
    stripes: int = 1,
    max_file_bytes: int = MAX_FILE_BYTES,
    head_slice_bytes: int = HEAD_SLICE_BYTES,
) -> StorePlan:
    """Lays out `weights` in the formats that `choose` gives. `model` is the ModelSpec as JSON, `config` config.json.

    stripes: experts of a layer, layers of the trunk and slices of the head are dealt out to so many sets of files.
    """
    packer = _Records(choose, matrix_bytes)
    trunk = [packer.trunk(number, layer) for number, layer in enumerate(weights.layers)]
    trunk += packer.head(weights.head, head_slice_bytes)
    groups = []
    for stripe in range(stripes):
        mine = trunk[stripe::stripes]
        if stripe == 0:
            # Last in its file: its length need not be a multiple of 4096, and its rows start on one.
            mine.append(_copy("embed", weights.embed))
        groups += [("trunk", stripe, group) for group in _split(mine, max_file_bytes)]
    groups.append(("trunk", 0, _small_tensors(weights)))
    for stripe in range(stripes):
        experts = [
            packer.expert(number, expert, layer)
            for number, layer in enumerate(weights.layers)
            for expert in range(stripe, len(layer.experts), stripes)
        ]
        groups += [("experts", stripe, group) for group in _split(experts, max_file_bytes)]
    return StorePlan(model, config, tuple(_name_files(groups)), len(weights.layers))


class _Records:
    """Turns matrices into records."""

    def __init__(self, choose: FormatChoice, matrix_bytes: MatrixBytes) -> None:
        self._choose = choose
        self._matrix_bytes = matrix_bytes

    def trunk(self, number: int, layer: LayerTensors) -> PlannedTensor:
        linears = list(layer.linears.items())
        formats = [self._choose(number, name) for name, _ in linears]
        return self._record(f"layers.{number}.trunk", linears, formats)

    def expert(self, number: int, expert: int, layer: LayerTensors) -> PlannedTensor:
        mlp = layer.experts[expert]
        linears = [("gate", mlp.gate), ("up", mlp.up), ("down", mlp.down)]
        formats = [self._choose(number, f"experts.{name}") for name, _ in linears]
        return self._record(f"layers.{number}.experts.{expert}", linears, formats)

    def head(self, head: TensorSlice, target_bytes: int) -> list[PlannedTensor]:
        """Row slices of about `target_bytes`, so that the head can be read and computed piece by piece."""
        kind = self._choose(None, "head")
        panel_bytes = self._matrix_bytes(kind.format, kind.scale, _PANEL_ROWS, head.cols)
        step = _PANEL_ROWS * max(1, target_bytes // panel_bytes)
        row_bytes = head.cols * ELEMENT_BYTES[head.dtype]
        slices = [
            replace(head, offset=head.offset + first * row_bytes, rows=min(step, head.rows - first))
            for first in range(0, head.rows, step)
        ]
        return [self._record(f"head.{number}", [("head", part)], [kind]) for number, part in enumerate(slices)]

    def _record(
        self, name: str, linears: Sequence[tuple[str, TensorSlice]], formats: Sequence[PartFormat]
    ) -> PlannedTensor:
        parts, end = [], 0
        for (part, source), kind in zip(linears, formats, strict=True):
            nbytes = self._matrix_bytes(kind.format, kind.scale, source.rows, source.cols)
            parts.append(PartSpec(part, source.rows, source.cols, kind.format, kind.scale, end, nbytes))
            end = _round_up(end + nbytes, PART_ALIGN)
        return PlannedTensor(name, _round_up(end, RECORD_ALIGN), tuple(parts), tuple(source for _, source in linears))


@dataclass(frozen=True)
class _Place:
    tensor: PlannedTensor
    file: int
    offset: int
    checksum: str

    def record(self) -> Record:
        return Record(self.tensor.parts, self.tensor.nbytes, self.file, self.offset, self.checksum)

    def plain(self) -> PlainTensor:
        source = self.tensor.sources[0]
        cols = 1 if self.tensor.name == EMBED_CHECKSUMS else source.cols
        dtype = self.tensor.entry.dtype
        return PlainTensor(self.tensor.name, dtype, source.rows, cols, self.file, self.offset, self.checksum)


def _places(files: Sequence[PlannedFile], checksums: Mapping[str, int]) -> dict[str, _Place]:
    return {
        tensor.name: _Place(tensor, number, offset, checksum_text(checksums[tensor.name]))
        for number, file in enumerate(files)
        for tensor, offset in zip(file.tensors, file.layout.offsets, strict=True)
    }


def _layer(places: Mapping[str, _Place], number: int) -> StoreLayer:
    experts: list[_Place] = []
    while (place := places.get(f"layers.{number}.experts.{len(experts)}")) is not None:
        experts.append(place)
    spec = None
    if experts:
        spec = ExpertSpec(
            parts=experts[0].tensor.parts,
            record_bytes=experts[0].tensor.nbytes,
            activation="silu",
            router_weight="output",
            files=tuple(place.file for place in experts),
            offsets=tuple(place.offset for place in experts),
            checksums=tuple(place.checksum for place in experts),
        )
    return StoreLayer(places[f"layers.{number}.trunk"].record(), spec)


def _copy(name: str, source: TensorSlice) -> PlannedTensor:
    return PlannedTensor(name, source.nbytes, (), (source,))


def _small_tensors(weights: ModelWeights) -> list[PlannedTensor]:
    """Checksums, norms, biases and routers, wider types first: every tensor lies on a multiple of its element."""
    checksums = PlannedTensor(EMBED_CHECKSUMS, 8 * weights.embed.rows, (), (weights.embed,))
    named = sorted(weights.all_small(), key=lambda pair: -ELEMENT_BYTES[pair[1].dtype])
    return [checksums, *(_copy(name, tensor) for name, tensor in named)]


def _split(tensors: Sequence[PlannedTensor], max_bytes: int) -> Iterator[list[PlannedTensor]]:
    """Runs of at most `max_bytes`; a tensor larger than that has a file of its own."""
    run: list[PlannedTensor] = []
    size = 0
    for tensor in tensors:
        if run and size + tensor.nbytes > max_bytes:
            yield run
            run, size = [], 0
        run.append(tensor)
        size += tensor.nbytes
    if run:
        yield run


def _name_files(groups: Sequence[tuple[str, int, list[PlannedTensor]]]) -> Iterator[PlannedFile]:
    counts: dict[str, int] = {}
    for kind, stripe, tensors in groups:
        counts[kind] = counts.get(kind, 0) + 1
        layout = lay_out([tensor.entry for tensor in tensors])
        yield PlannedFile(f"{kind}-{counts[kind]:05}.safetensors", tuple(tensors), layout, stripe)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
