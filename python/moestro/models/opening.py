"""A model directory, understood but not loaded: a Hugging Face checkpoint or a packed store behind one face."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from moestro._core import Runtime
from moestro.checkpoint.store_format import PartSpec, StoreManifest, is_store
from moestro.config import EngineConfig
from moestro.errors import UsageError
from moestro.models.checkpoint_source import CheckpointSource, expert_format, trunk_format
from moestro.models.footprint import checkpoint_footprint, store_footprint
from moestro.models.packed import PackedModel, open_store
from moestro.models.registry import Checkpoint, open_checkpoint
from moestro.models.resident import Progress, WeightSource
from moestro.models.spec import ModelSpec
from moestro.models.store_source import StoreSource
from moestro.plan.footprint import Footprint

IN_PLACE_FORMATS = ("auto", "f32", "bf16")


@dataclass(frozen=True)
class Formats:
    """Formats of the weights as they will be in memory: one name, or several joined by "+"."""

    trunk: str
    experts: str | None  # None: a dense model


class OpenedModel(Protocol):
    """Headers and manifests have been read and checked, no weight has."""

    directory: Path
    spec: ModelSpec
    kind: str  # for the report: what it is and how its bytes are verified
    formats: Formats

    def source(self, runtime: Runtime, progress: Progress | None) -> WeightSource: ...
    def footprint(self) -> Footprint: ...


def open_model(directory: Path, config: EngineConfig) -> OpenedModel:
    """Raises CheckpointError for a directory that cannot be run, UsageError for formats it cannot be run in."""
    if is_store(directory):
        return OpenedStore(directory, config)
    return OpenedCheckpoint(directory, config)


class OpenedCheckpoint:
    kind = (
        "a Hugging Face checkpoint used in place: it has no checksums, so replaced or changed files are noticed but a"
        " flipped bit on disk is not"
    )

    def __init__(self, directory: Path, config: EngineConfig) -> None:
        self.directory = directory
        self._trunk = config.trunk_format or config.format
        self._experts = config.format
        for wanted in (self._trunk, self._experts):
            if wanted not in IN_PLACE_FORMATS:
                raise UsageError(
                    f"format {wanted!r}: {directory} is a checkpoint, which runs in place as auto, bf16 or f32; for"
                    f" {wanted} pack it first: moestro pack {directory} DST --format {wanted}"
                )
        self._checkpoint: Checkpoint = open_checkpoint(directory)
        self.spec = self._checkpoint.spec
        self.formats = Formats(_joined(self._trunk_formats()), _joined(self._expert_formats()) or None)

    def source(self, runtime: Runtime, progress: Progress | None) -> WeightSource:
        return CheckpointSource(
            runtime, self._checkpoint.weights, trunk=self._trunk, experts=self._experts, progress=progress
        )

    def footprint(self) -> Footprint:
        weights = self._checkpoint.weights
        return checkpoint_footprint(self.spec, weights, trunk=self._trunk, experts=self._experts)

    def _trunk_formats(self) -> Iterator[str]:
        weights = self._checkpoint.weights
        for layer in weights.layers:
            yield from (trunk_format(self._trunk, tensor) for _, tensor in layer.linears())
        yield trunk_format(self._trunk, weights.head)

    def _expert_formats(self) -> Iterator[str]:
        for layer in self._checkpoint.weights.layers:
            if layer.experts:
                yield expert_format(self._experts, layer.experts[0])


class OpenedStore:
    kind = "a packed store: every record is verified against its checksum"

    def __init__(self, directory: Path, config: EngineConfig) -> None:
        self.directory = directory
        self._packed: PackedModel = open_store(directory)
        self.spec = self._packed.spec
        manifest = self._packed.manifest
        self.formats = Formats(
            _joined(part.format for part in _trunk_parts(manifest)),
            _joined(part.format for part in _expert_parts(manifest)) or None,
        )
        self._require("format", config.format, self.formats.experts or self.formats.trunk)
        self._require("trunk_format", config.trunk_format or "auto", self.formats.trunk)

    def source(self, runtime: Runtime, progress: Progress | None) -> WeightSource:
        return StoreSource(runtime, self._packed, progress=progress)

    def footprint(self) -> Footprint:
        return store_footprint(self.spec, self._packed.manifest)

    def _require(self, argument: str, wanted: str, found: str) -> None:
        if wanted not in ("auto", found):
            raise UsageError(
                f"{argument} {wanted!r}: {self.directory} was packed as {found}; leave it at 'auto' or pack the"
                f" original checkpoint again with --format {wanted}"
            )


def _trunk_parts(manifest: StoreManifest) -> Iterator[PartSpec]:
    for record in (*(layer.trunk for layer in manifest.layers), *manifest.head):
        yield from record.parts


def _expert_parts(manifest: StoreManifest) -> Iterator[PartSpec]:
    for layer in manifest.layers:
        if layer.experts is not None:
            yield from layer.experts.parts


def _joined(formats: Iterator[str]) -> str:
    return "+".join(sorted(set(formats)))
