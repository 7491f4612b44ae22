"""moestro.json: what a packed store holds and where. Version 1.

A store is a directory of this file, the model's tokenizer files and safetensors files. Records are U8 tensors that
start at multiples of 4096 and have such lengths; each holds matrices in the kernels' own layout, one after the other.
Offsets of records count from the start of their file, offsets of parts from the start of their record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from moestro.checkpoint.dataclass_json import from_json, to_json
from moestro.checkpoint.strict_json import read_object
from moestro.checkpoint.weights import ELEMENT_BYTES
from moestro.errors import CheckpointError

FORMAT_VERSION = 1
MANIFEST_FILE = "moestro.json"
RECORD_ALIGN = 4096
PART_ALIGN = 64

# The plain tensor U64 [vocab] with the XXH64 of every embedding row: rows are read one by one, and verified so.
EMBED_CHECKSUMS = "embed.checksums"

_PLAIN_BYTES = {**ELEMENT_BYTES, "U64": 8}
_CHECKSUM = re.compile(r"[0-9a-f]{16}", re.ASCII)
_SCALES = {"f32": ("none",), "bf16": ("none",), "q8": ("f16", "bf16", "f32"), "q4": ("f16", "bf16", "f32")}


@dataclass(frozen=True)
class PartSpec:
    """One packed matrix [rows, cols] inside a record."""

    name: str
    rows: int
    cols: int
    format: str  # "f32" | "bf16" | "q8" | "q4"
    scale: str  # "none" | "f16" | "bf16" | "f32"
    offset: int  # in the record, a multiple of 64
    nbytes: int


@dataclass(frozen=True)
class StoreFile:
    name: str
    nbytes: int


@dataclass(frozen=True)
class Record:
    """One record of the trunk: a layer's linears, or a slice of the head."""

    parts: tuple[PartSpec, ...]
    record_bytes: int
    file: int  # into StoreManifest.files
    offset: int
    checksum: str  # XXH64 of the record, 16 hexadecimal digits


@dataclass(frozen=True)
class ExpertSpec:
    """The experts of one layer: the same parts in every record, one place and checksum per expert."""

    parts: tuple[PartSpec, ...]  # gate, up, down
    record_bytes: int
    activation: str  # "silu"
    router_weight: str  # "output": the router's weight multiplies the expert's output
    files: tuple[int, ...]
    offsets: tuple[int, ...]
    checksums: tuple[str, ...]


@dataclass(frozen=True)
class StoreLayer:
    trunk: Record  # q, k, v, o, then gate, up, down of a dense layer
    experts: ExpertSpec | None


@dataclass(frozen=True)
class PlainTensor:
    """An ordinary safetensors tensor in the checkpoint's own type: the embedding, norms, biases, routers.

    Its checksum is the XXH64 of its bytes; of "embed", which nobody reads whole, that of the bytes of EMBED_CHECKSUMS.
    """

    name: str  # the role: "embed", "layers.3.router", ...
    dtype: str  # "F32" | "BF16" | "F16"; "U64" of EMBED_CHECKSUMS
    rows: int
    cols: int
    file: int
    offset: int
    checksum: str

    @property
    def nbytes(self) -> int:
        return self.rows * self.cols * _PLAIN_BYTES[self.dtype]


@dataclass(frozen=True)
class StoreManifest:
    format_version: int
    model: Mapping[str, Any]  # the ModelSpec
    config: Mapping[str, Any]  # the checkpoint's config.json
    files: tuple[StoreFile, ...]
    layers: tuple[StoreLayer, ...]
    head: tuple[Record, ...]  # consecutive row slices, one part each
    plain: tuple[PlainTensor, ...]

    def tensor(self, name: str) -> PlainTensor:
        """A plain tensor by role. Raises CheckpointError when the store lacks it."""
        for tensor in self.plain:
            if tensor.name == name:
                return tensor
        raise CheckpointError(f"{MANIFEST_FILE}: the store has no tensor {name!r}; pack the model again")

    def extents(self) -> Iterator[tuple[str, int, int, int]]:
        """(name, file, offset, bytes) of everything stored."""
        for number, layer in enumerate(self.layers):
            yield f"layers.{number}.trunk", layer.trunk.file, layer.trunk.offset, layer.trunk.record_bytes
            if layer.experts is not None:
                places = zip(layer.experts.files, layer.experts.offsets, strict=True)
                for expert, (file, offset) in enumerate(places):
                    yield f"layers.{number}.experts.{expert}", file, offset, layer.experts.record_bytes
        for number, record in enumerate(self.head):
            yield f"head.{number}", record.file, record.offset, record.record_bytes
        for tensor in self.plain:
            yield tensor.name, tensor.file, tensor.offset, tensor.nbytes


def checksum_text(value: int) -> str:
    return f"{value:016x}"


def checksum_value(text: str) -> int:
    return int(text, 16)


def is_store(directory: Path) -> bool:
    return (directory / MANIFEST_FILE).is_file()


def manifest_text(manifest: StoreManifest) -> str:
    return json.dumps(to_json(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_manifest(directory: Path) -> StoreManifest:
    """moestro.json of a store, validated, and its files checked for presence and size. Raises CheckpointError."""
    path = directory / MANIFEST_FILE
    try:
        values = read_object(path)
    except FileNotFoundError:
        raise CheckpointError(f"{directory} has no {MANIFEST_FILE}: it is not a packed store") from None
    manifest = parse_manifest(values, str(path))
    for file in manifest.files:
        _check_file(directory / file.name, file.nbytes)
    return manifest


def parse_manifest(values: Mapping[str, Any], where: str = MANIFEST_FILE) -> StoreManifest:
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: store version {version!r}, this moestro reads version {FORMAT_VERSION}: pack the model again"
        )
    manifest = from_json(StoreManifest, dict(values), where)
    _validate(manifest, where)
    return manifest


def _check_file(path: Path, nbytes: int) -> None:
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{path} is linked to {path.readlink()}, which is not there: is its drive mounted?")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing from the store: pack the model again")
    if (size := path.stat().st_size) != nbytes:
        raise CheckpointError(f"{path} has {size} bytes, {nbytes} were packed: pack the model again")


def _validate(manifest: StoreManifest, where: str) -> None:
    for file in manifest.files:
        if set(file.name) & set("/\\\0") or ".." in file.name or not file.name.endswith(".safetensors"):
            raise CheckpointError(f"{where}: {file.name!r} is not a plain .safetensors file name")
    for number, layer in enumerate(manifest.layers):
        _check_record(layer.trunk.parts, layer.trunk.record_bytes, f"{where}: layer {number} trunk")
        if layer.experts is not None:
            _check_experts(layer.experts, f"{where}: layer {number} experts")
    for number, record in enumerate(manifest.head):
        _check_record(record.parts, record.record_bytes, f"{where}: head slice {number}")
        if len(record.parts) != 1:
            raise CheckpointError(f"{where}: head slice {number}: expected one part, got {len(record.parts)}")
    for tensor in manifest.plain:
        types = ("U64",) if tensor.name == EMBED_CHECKSUMS else tuple(ELEMENT_BYTES)
        if tensor.dtype not in types or tensor.rows < 1 or tensor.cols < 1:
            raise CheckpointError(f"{where}: {tensor.name}: impossible type or shape")
    if len({tensor.name for tensor in manifest.plain}) != len(manifest.plain):
        raise CheckpointError(f"{where}: a plain tensor appears twice")
    _check_checksums(manifest, where)
    _check_extents(manifest, where)


def _check_experts(experts: ExpertSpec, where: str) -> None:
    _check_record(experts.parts, experts.record_bytes, where)
    if [part.name for part in experts.parts] != ["gate", "up", "down"]:
        raise CheckpointError(f"{where}: expected the parts gate, up, down")
    if not len(experts.files) == len(experts.offsets) == len(experts.checksums) > 0:
        raise CheckpointError(f"{where}: expected one file, offset and checksum per expert")
    if experts.activation != "silu" or experts.router_weight != "output":
        raise CheckpointError(f"{where}: expected activation silu and router_weight output")


def _check_record(parts: tuple[PartSpec, ...], record_bytes: int, where: str) -> None:
    end = 0
    for part in parts:
        if part.rows < 1 or part.cols < 1 or part.scale not in _SCALES.get(part.format, ()):
            raise CheckpointError(f"{where}: part {part.name!r}: impossible shape, format or scale")
        if part.offset < end or part.offset % PART_ALIGN or part.nbytes < 1:
            raise CheckpointError(f"{where}: part {part.name!r} is misplaced")
        end = part.offset + part.nbytes
    if not parts or end > record_bytes or record_bytes % RECORD_ALIGN:
        raise CheckpointError(
            f"{where}: {record_bytes} bytes do not fit its parts or are no multiple of {RECORD_ALIGN}"
        )


def _check_checksums(manifest: StoreManifest, where: str) -> None:
    texts = [layer.trunk.checksum for layer in manifest.layers]
    texts += [text for layer in manifest.layers if layer.experts for text in layer.experts.checksums]
    texts += [record.checksum for record in manifest.head] + [tensor.checksum for tensor in manifest.plain]
    for text in texts:
        if not _CHECKSUM.fullmatch(text):
            raise CheckpointError(f"{where}: {text!r} is not a checksum of 16 hexadecimal digits")


def _check_extents(manifest: StoreManifest, where: str) -> None:
    """Everything lies inside its file, records on their alignment, and nothing overlaps."""
    plain = {tensor.name for tensor in manifest.plain}
    by_file: dict[int, list[tuple[int, int, str]]] = {}
    for name, file, offset, nbytes in manifest.extents():
        if not 0 <= file < len(manifest.files) or offset < 8 or offset + nbytes > manifest.files[file].nbytes:
            raise CheckpointError(f"{where}: {name} lies outside its file")
        if offset % RECORD_ALIGN and name not in plain:
            raise CheckpointError(f"{where}: {name} does not start at a multiple of {RECORD_ALIGN}")
        by_file.setdefault(file, []).append((offset, nbytes, name))
    for extents in by_file.values():
        extents.sort()
        for (offset, nbytes, name), (following, _, other) in pairwise(extents):
            if offset + nbytes > following:
                raise CheckpointError(f"{where}: {name} and {other} overlap")
