"""The C++ core for people who wrap their own models: kernels, packing, reading, an expert cache and a layer stream.

Arrays are numpy arrays or anything with ``__dlpack__`` (torch, jax, cupy on host memory), C-contiguous unless said,
taken without a copy and checked: a wrong one is a UsageError naming the argument, what was expected and what came.
Results are defined to the bit by docs/numerics.md. Calls that compute or wait release the GIL. docs/core.md is the
guide, with an example that runs somebody's own torch layer.

    compute = core.make_compute(threads=2)
    records = core.write_records(compute, "experts.bin", [[gate, up, down], ...], format="q8")
    runtime = core.Runtime(threads=2, host_memory=64 << 20)
    core.add_experts(runtime, 0, records)      # layer 0
    runtime.set_experts()                      # everything that is left of the budget caches experts
    with core.held(runtime, 0, 5) as (gate, up, down):
        core.gated_mlp(compute, x, gate, up, down, out)

Importing this module raises UnsupportedError, in one sentence, on a CPU that moestro does not run on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moestro import knobs
from moestro.errors import StorageError, UnsupportedError, UsageError

try:
    from moestro._core import (
        FORMATS,
        KV_BLOCK,
        KV_SEGMENT,
        KV_TYPES,
        PLANNERS,
        POLICIES,
        PREDICTORS,
        READERS,
        AttentionLayer,
        Compute,
        CudaMachine,
        EmulatedMachine,
        Head,
        KvPool,
        LaneCosts,
        LatentAttentionLayer,
        Ledger,
        Matrix,
        MlpLayer,
        MoeLayer,
        PredictorSettings,
        Reader,
        RoutingRecord,
        Runtime,
        Ticket,
        Workspace,
        __version__,
        activation_bytes,
        add,
        attention,
        attention_scratch_bytes,
        belady_misses,
        choose_scale_type,
        cuda_info,
        gated_mlp,
        isa_tables,
        kept_units,
        kv_append,
        linear,
        matrix_bytes,
        measure_read_rate,
        mlp_scratch_bytes,
        pack_matrix,
        page_array,
        plan_layer,
        quantize_activations,
        replay,
        rms_norm,
        rope,
        rope_table,
        route_softmax_topk,
        unpack_codes,
        unpack_matrix,
        widen,
        xxh64,
    )
except ImportError as error:
    raise UnsupportedError(f"{error}") from error

_RECORD_ALIGN = 4096
_PART_ALIGN = 64
_SOURCE_TYPES = {"float32": "f32", "float16": "f16"}


def make_compute(threads: int = 1, math: str = "exact") -> Compute:
    """Threads to compute with, on the best instruction set of this CPU or the one that MOESTRO_ISA forces.

    math: "exact" or "fast"; where fast cannot be had, the result's `math` is "exact" and its `refused` says why.
    Raises UsageError for an unknown name, UnsupportedError where the CPU lacks the forced one.
    """
    return Compute(threads, knobs.ISA.read(), math)


@dataclass(frozen=True)
class PackedRecord:
    """Matrices in one extent of a file, in the kernels' layout: read with one request, used where it lands."""

    path: Path
    offset: int  # in the file; a multiple of 4096, like nbytes
    nbytes: int
    checksum: int  # XXH64
    parts: tuple[tuple[int, int, str, str, int], ...]  # rows, cols, format, scale type, offset in the record


def write_records(
    compute: Compute, path: str | os.PathLike[str], records: Iterable[Sequence[Any]], format: str = "q8"
) -> list[PackedRecord]:
    """Packs each record's matrices [rows, cols] (float32 or float16; of bfloat16 tensors give ``w.float()``) and writes
    them to a new file, one record at a time.

    format: "f32", "bf16" (keeps what bfloat16 weights hold), "q8" or "q4". A file that is there is a UsageError; a
    failed write is a StorageError and leaves no file.
    """
    path = Path(path)
    if path.exists():
        raise UsageError(f"{path} exists: name a new file")
    written: list[PackedRecord] = []
    try:
        with path.open("xb") as file:
            for matrices in records:
                record, parts = _pack(compute, matrices, format)
                written.append(PackedRecord(path, file.tell(), record.nbytes, xxh64(record), parts))
                file.write(memoryview(record))
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        raise
    return written


def _pack(
    compute: Compute, matrices: Sequence[Any], format: str
) -> tuple[Any, tuple[tuple[int, int, str, str, int], ...]]:
    sources, parts, end = [], [], 0
    for matrix in matrices:
        array = np.ascontiguousarray(matrix if isinstance(matrix, np.ndarray) else np.from_dlpack(matrix))
        if array.ndim != 2 or array.dtype.name not in _SOURCE_TYPES:
            raise UsageError(
                f"write_records: expected float32 or float16 [rows, cols], got {array.dtype} {array.shape}"
            )
        source, dtype, (rows, cols) = array.view(np.uint8).reshape(-1), _SOURCE_TYPES[array.dtype.name], array.shape
        scale = choose_scale_type(source, dtype, rows, cols, format) if format in ("q8", "q4") else "none"
        sources.append((source, dtype))
        parts.append((rows, cols, format, scale, end))
        end += -(-matrix_bytes(format, scale, rows, cols) // _PART_ALIGN) * _PART_ALIGN
    record = np.zeros(-(-end // _RECORD_ALIGN) * _RECORD_ALIGN, np.uint8)
    for (source, dtype), (rows, cols, _, scale, offset) in zip(sources, parts, strict=True):
        nbytes = matrix_bytes(format, scale, rows, cols)
        pack_matrix(compute, source, dtype, rows, cols, format, scale, record[offset : offset + nbytes])
    return record, tuple(parts)


def add_experts(runtime: Runtime, layer: int, records: Sequence[PackedRecord]) -> None:
    """Tells a runtime the experts of one layer: records of gate [I, H], up [I, H] and down [H, I], all alike.

    Reads none. After the last layer comes ``runtime.set_experts()``.
    """
    first = records[0]
    for number, record in enumerate(records):
        if (record.parts, record.nbytes) != (first.parts, first.nbytes):
            raise UsageError(f"add_experts: expert {number} is {record.parts}, expert 0 {first.parts}")
    runtime.add_expert_layer_packed(
        layer,
        first.parts,
        first.nbytes,
        np.array([runtime.open_file(str(record.path)) for record in records], np.int32),
        np.array([record.offset for record in records], np.uint64),
        np.array([record.checksum for record in records], np.uint64),
    )


def add_unit(runtime: Runtime, name: str, record: PackedRecord) -> list[Matrix]:
    """The next unit of the runtime's layer stream; its matrices are in memory while the unit is held.

    After the last one comes ``runtime.set_stream(window=2, batch=1, keep_bytes=0)``.
    """
    file = runtime.open_file(str(record.path))
    return runtime.stream_record(name, file, record.offset, record.nbytes, record.checksum, record.parts, [])


@contextmanager
def held(runtime: Runtime, layer: int, expert: int) -> Iterator[tuple[Matrix, Matrix, Matrix]]:
    """An expert's gate, up and down, in memory for the body of the with. Raises as `Runtime.acquire` does."""
    matrices = runtime.acquire(layer, expert)
    try:
        yield matrices
    finally:
        runtime.release(layer, expert)


@contextmanager
def held_unit(runtime: Runtime, unit: int) -> Iterator[None]:
    """A unit of the layer stream, in memory for the body of the with; one at a time, in order."""
    runtime.hold_unit(unit)
    try:
        yield
    finally:
        runtime.release_unit(unit)


__all__ = [
    "FORMATS",
    "KV_BLOCK",
    "KV_SEGMENT",
    "KV_TYPES",
    "PLANNERS",
    "POLICIES",
    "PREDICTORS",
    "READERS",
    "AttentionLayer",
    "Compute",
    "CudaMachine",
    "EmulatedMachine",
    "Head",
    "KvPool",
    "LaneCosts",
    "LatentAttentionLayer",
    "Ledger",
    "Matrix",
    "MlpLayer",
    "MoeLayer",
    "PackedRecord",
    "PredictorSettings",
    "Reader",
    "RoutingRecord",
    "Runtime",
    "Ticket",
    "Workspace",
    "__version__",
    "activation_bytes",
    "add",
    "add_experts",
    "add_unit",
    "attention",
    "attention_scratch_bytes",
    "belady_misses",
    "choose_scale_type",
    "cuda_info",
    "gated_mlp",
    "held",
    "held_unit",
    "isa_tables",
    "kept_units",
    "kv_append",
    "linear",
    "make_compute",
    "matrix_bytes",
    "measure_read_rate",
    "mlp_scratch_bytes",
    "pack_matrix",
    "page_array",
    "plan_layer",
    "quantize_activations",
    "replay",
    "rms_norm",
    "rope",
    "rope_table",
    "route_softmax_topk",
    "unpack_codes",
    "unpack_matrix",
    "widen",
    "write_records",
    "xxh64",
]
