"""A model directory, understood but not loaded: a Hugging Face checkpoint or a packed store behind one face."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from moestro._core import Runtime
from moestro.checkpoint.store_format import is_store
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


class OpenedModel(Protocol):
    """Headers and manifests have been read and checked, no weight has."""

    directory: Path
    spec: ModelSpec
    kind: str  # for the report: what it is and how its bytes are verified
    trunk_formats: str  # as they will be in memory; several are joined by "+"
    expert_formats: str  # the same; "" of a dense model

    def footprint(self) -> Footprint: ...
    def files(self) -> set[Path]: ...  # that hold weights
    def source(self, runtime: Runtime, progress: Progress | None, *, streamed: bool = False) -> WeightSource: ...


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
        weights = self._checkpoint.weights
        linears = [*weights.linears(), weights.head]
        self.trunk_formats = _joined({trunk_format(self._trunk, tensor) for tensor in linears})
        self.expert_formats = _joined(
            {expert_format(self._experts, layer.experts[0]) for layer in weights.layers if layer.experts}
        )

    def files(self) -> set[Path]:
        return {tensor.path for _, tensor in self._checkpoint.weights.roles()}

    def footprint(self) -> Footprint:
        return checkpoint_footprint(self.spec, self._checkpoint.weights, self._trunk, self._experts)

    def source(self, runtime: Runtime, progress: Progress | None, *, streamed: bool = False) -> WeightSource:
        return CheckpointSource(
            runtime,
            self._checkpoint.weights,
            trunk=self._trunk,
            experts=self._experts,
            streamed=streamed,
            progress=progress,
        )


class OpenedStore:
    kind = "a packed store: every record is verified against its checksum"

    def __init__(self, directory: Path, config: EngineConfig) -> None:
        self.directory = directory
        self._packed: PackedModel = open_store(directory)
        self.spec = self._packed.spec
        manifest = self._packed.manifest
        trunk = (*(layer.trunk for layer in manifest.layers), *manifest.head)
        experts = [layer.experts for layer in manifest.layers if layer.experts is not None]
        self.trunk_formats = _joined({part.format for record in trunk for part in record.parts})
        self.expert_formats = _joined({part.format for layer in experts for part in layer.parts})
        # As in packing: without a trunk_format of its own the trunk has `format`, and a dense model has only a trunk.
        if self.expert_formats:
            self._require("format", config.format, self.expert_formats)
        elif config.trunk_format is None:
            self._require("format", config.format, self.trunk_formats)
        self._require("trunk_format", config.trunk_format or "auto", self.trunk_formats)

    def files(self) -> set[Path]:
        return {self.directory / file.name for file in self._packed.manifest.files}

    def footprint(self) -> Footprint:
        return store_footprint(self.spec, self._packed.manifest)

    def source(self, runtime: Runtime, progress: Progress | None, *, streamed: bool = False) -> WeightSource:
        return StoreSource(runtime, self._packed, streamed=streamed, progress=progress)

    def _require(self, argument: str, wanted: str, found: str) -> None:
        if wanted not in ("auto", found):
            raise UsageError(
                f"{argument} {wanted!r}: {self.directory} was packed as {found}; leave it at 'auto' or pack the"
                f" original checkpoint again with --format {wanted}"
            )


def _joined(formats: set[str]) -> str:
    return "+".join(sorted(formats))
