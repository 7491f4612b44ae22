"""Writes the files of a planned store, in order, from where the journal says an earlier run got to.

Three things overlap: the next piece is read, the current one packed by all threads, and the record before checked and
written. Memory is bounded by two records and two pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import TracebackType

import numpy as np

from moestro import _core
from moestro._core import U8
from moestro.checkpoint.gather import gather
from moestro.checkpoint.pack_journal import PackJournal
from moestro.checkpoint.partial_store import sync_directory
from moestro.checkpoint.read_ahead import read_ahead
from moestro.checkpoint.record_packer import extents_of, pack_record, pieces_of, row_checksums
from moestro.checkpoint.safetensors_writer import SafetensorsWriter
from moestro.checkpoint.store_format import EMBED_CHECKSUMS
from moestro.checkpoint.store_plan import PlannedFile, PlannedTensor, StorePlan
from moestro.checkpoint.weights import TensorSlice

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)

# How much a killed run may have to pack again.
COMMIT_BYTES = 64 << 20

# Page-aligned buffers copy faster.
_ALIGN = 4096


class StorePacker:
    """Packs one plan into `directory`. `compute` does the packing. Used once."""

    def __init__(
        self,
        plan: StorePlan,
        directory: Path,
        journal: PackJournal,
        compute: _core.Compute,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._journal = journal
        self._compute = compute
        self._progress = progress
        self._total = sum(tensor.nbytes for tensor in planned_tensors(plan))
        self._done = finished_bytes(plan, journal)
        largest = max((tensor.nbytes for tensor in self._todo() if tensor.parts), default=0)
        self._buffers = [_aligned(largest), _aligned(largest)]

    def run(self) -> None:
        """Raises StorageError, NumericError, ScaleTooNarrow; what is finished by then is in the journal."""
        self._progress(self._done, self._total)
        with closing(read_ahead(extent for tensor in self._todo() for extent in extents_of(tensor))) as data:
            for file in self._plan.files:
                done = sum(tensor.name in self._journal.finished for tensor in file.tensors)
                if done < len(file.tensors):
                    self._write_file(file, done, data)

    def _todo(self) -> Iterator[PlannedTensor]:
        return (tensor for tensor in planned_tensors(self._plan) if tensor.name not in self._journal.finished)

    def _write_file(self, file: PlannedFile, done: int, data: Iterator[U8]) -> None:
        with SafetensorsWriter(self._directory / file.name, file.layout, done) as writer:
            sync_directory(self._directory)
            # Inside the writer's block: an append at work ends before the file is closed.
            with _WriteBehind(writer, self._journal) as sink:
                for number, tensor in enumerate(file.tensors[done:]):
                    self._write(tensor, data, sink, self._buffers[number % 2])
                    self._done += tensor.nbytes
                    self._progress(self._done, self._total)

    def _write(self, tensor: PlannedTensor, data: Iterator[U8], sink: _WriteBehind, buffer: U8) -> None:
        if tensor.parts:
            out = buffer[: tensor.nbytes]
            pack_record(self._compute, tensor, data, out)
            sink.take(tensor.name, out)
        elif tensor.name == EMBED_CHECKSUMS:
            sums = [row_checksums(piece, next(data)) for piece in pieces_of(tensor)]
            sink.take(tensor.name, np.concatenate(sums).view(np.uint8))
        elif tensor.name == "embed":
            sink.take_rows(tensor.name, ((piece, next(data)) for piece in pieces_of(tensor)))
        else:
            sink.take(tensor.name, np.concatenate([gather(piece, next(data)).copy() for piece in pieces_of(tensor)]))


class _WriteBehind:
    """Writes finished tensors of one file, one at a time while the next is being made; a context manager.

    Every COMMIT_BYTES, and when the block is left without an error, they are made durable and enter the journal.
    """

    def __init__(self, writer: SafetensorsWriter, journal: PackJournal) -> None:
        self._writer = writer
        self._journal = journal
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._finished: list[tuple[str, int]] = []
        self._uncommitted = 0

    def take(self, name: str, data: U8) -> None:
        """`data` is not changed before the next call returns. Raises what writing the tensor before ran into."""
        self._wait()
        self._pending = self._thread.submit(self._append, name, data)

    def take_rows(self, name: str, pieces: Iterator[tuple[TensorSlice, U8]]) -> None:
        """A matrix that need not fit into memory; its checksum is that of its rows' checksums."""
        self._wait()
        sums = []
        for piece, raw in pieces:
            self._writer.extend(name, raw)
            sums.append(row_checksums(piece, raw))
            self._uncommitted += raw.nbytes
        self._note(name, _core.xxh64(np.concatenate(sums)))

    def __enter__(self) -> _WriteBehind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self._wait()
            self._commit()

    def _append(self, name: str, data: U8) -> None:
        self._writer.append(name, data)
        self._uncommitted += data.nbytes
        self._note(name, _core.xxh64(data))

    def _note(self, name: str, checksum: int) -> None:
        self._finished.append((name, checksum))
        if self._uncommitted >= COMMIT_BYTES:
            self._commit()

    def _commit(self) -> None:
        self._writer.flush()
        self._journal.add(self._finished)
        self._finished, self._uncommitted = [], 0

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()


def planned_tensors(plan: StorePlan) -> Iterator[PlannedTensor]:
    """Everything a plan writes, in the order of writing."""
    return (tensor for file in plan.files for tensor in file.tensors)


def finished_bytes(plan: StorePlan, journal: PackJournal) -> int:
    return sum(tensor.nbytes for tensor in planned_tensors(plan) if tensor.name in journal.finished)


def missing_bytes(plan: StorePlan, journal: PackJournal, stripe: int) -> int:
    """Bytes of the stripe's files that are still to be written."""
    return sum(
        tensor.nbytes
        for file in plan.files
        for tensor in file.tensors
        if file.stripe == stripe and tensor.name not in journal.finished
    )


def _aligned(nbytes: int) -> U8:
    memory = np.empty(nbytes + _ALIGN, dtype=np.uint8)
    begin = -memory.ctypes.data % _ALIGN
    return memory[begin : begin + nbytes]
