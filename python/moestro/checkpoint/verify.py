"""Reads stored bytes back and compares them with their checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moestro import _core
from moestro.checkpoint.read_ahead import Extent, read_ahead, row_pieces
from moestro.checkpoint.record_packer import row_checksums
from moestro.checkpoint.store_format import EMBED_CHECKSUMS, StoreManifest, checksum_value, read_manifest
from moestro.checkpoint.store_plan import PlannedTensor, StorePlan
from moestro.checkpoint.weights import TensorSlice
from moestro.errors import IntegrityError, StorageError

_SHOWN = 8


@dataclass(frozen=True)
class _Stored:
    name: str
    place: Extent
    checksum: int


def verify_store(directory: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Checks every byte of a packed store; returns how many. `progress` receives (bytes done, bytes in all).

    Raises IntegrityError naming what is damaged, CheckpointError for a broken manifest, StorageError.
    """
    manifest = read_manifest(directory)
    stored = [entry for entry in _stored(directory, manifest) if entry.name != "embed"]
    embed = manifest.tensor("embed")
    total = sum(entry.place.nbytes for entry in stored) + embed.nbytes
    done, damaged = 0, []
    with closing(read_ahead(entry.place for entry in stored)) as data:
        for entry, raw in zip(stored, data, strict=True):
            if _core.xxh64(raw) != entry.checksum:
                damaged.append(f"{entry.name} in {entry.place.path.name}")
            done += entry.place.nbytes
            progress(done, total)
    path = directory / manifest.files[embed.file].name
    sums = _stored_row_checksums(TensorSlice(path, embed.offset, embed.dtype, embed.rows, embed.cols))
    if (
        _core.xxh64(sums) != checksum_value(embed.checksum)
        or embed.checksum != manifest.tensor(EMBED_CHECKSUMS).checksum
    ):
        damaged.append(f"embed in {path.name}")
    progress(total, total)
    if damaged:
        names = ", ".join(damaged[:_SHOWN]) + (", ..." if len(damaged) > _SHOWN else "")
        raise IntegrityError(f"{directory}: {len(damaged)} damaged: {names}; delete it and pack the model again")
    return total


def verify_interrupted(plan: StorePlan, directory: Path, finished: Mapping[str, int]) -> None:
    """A sanity check of what an interrupted run left: files large enough, and the last finished tensor as it was.

    Raises StorageError, IntegrityError.
    """
    last: tuple[PlannedTensor, Extent] | None = None
    for file in plan.files:
        path = directory / file.name
        for tensor, offset in zip(file.tensors, file.layout.offsets, strict=True):
            if tensor.name in finished:
                last = tensor, Extent(path, offset, tensor.nbytes)
        if last is not None and last[1].path == path:
            _require_size(path, last[1].offset + last[1].nbytes)
    if last is None:
        return
    tensor, place = last
    if tensor.name == "embed":
        source = tensor.sources[0]
        found = _core.xxh64(
            _stored_row_checksums(TensorSlice(place.path, place.offset, source.dtype, source.rows, source.cols))
        )
    else:
        with closing(read_ahead([place])) as data:
            found = _core.xxh64(next(data))
    if found != finished[tensor.name]:
        raise IntegrityError(
            f"{place.path}: {tensor.name} changed since it was packed: delete {directory}, start again"
        )


def _require_size(path: Path, nbytes: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    if size < nbytes:
        raise IntegrityError(f"{path} has {size} bytes, {nbytes} were packed: delete {path.parent}, start again")


def _stored_row_checksums(matrix: TensorSlice) -> NDArray[np.uint64]:
    pieces = list(row_pieces(matrix))
    with closing(read_ahead(Extent(piece.path, piece.offset, piece.nbytes) for piece in pieces)) as data:
        return np.concatenate([row_checksums(piece, raw) for piece, raw in zip(pieces, data, strict=True)])


def _stored(directory: Path, manifest: StoreManifest) -> Iterator[_Stored]:
    checksums = _checksums(manifest)
    for name, file, offset, nbytes in manifest.extents():
        place = Extent(directory / manifest.files[file].name, offset, nbytes)
        yield _Stored(name, place, checksum_value(checksums[name]))


def _checksums(manifest: StoreManifest) -> dict[str, str]:
    found = {tensor.name: tensor.checksum for tensor in manifest.plain}
    found.update({f"head.{number}": record.checksum for number, record in enumerate(manifest.head)})
    for number, layer in enumerate(manifest.layers):
        found[f"layers.{number}.trunk"] = layer.trunk.checksum
        experts = layer.experts.checksums if layer.experts else ()
        found.update({f"layers.{number}.experts.{expert}": text for expert, text in enumerate(experts)})
    return found
