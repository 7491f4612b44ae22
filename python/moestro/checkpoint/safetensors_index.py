"""Reads and validates the header of a safetensors file without touching its data.

The checks are those of the format's specification: header within its cap, a JSON object without duplicate keys, known
types, checked sizes, and data that covers the rest of the file exactly, without holes or overlaps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moestro.checkpoint.strict_json import parse_object
from moestro.errors import CheckpointError, StorageError

MAX_HEADER_BYTES = 100_000_000

# Bits per element; types below a byte must fill whole bytes.
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}

_MAX_BYTES = 1 << 63


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `nbytes` of row-major data at `offset` from the start of `file`."""

    name: str
    file: Path
    dtype: str  # as safetensors writes it: "F32", "BF16", ...
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """All tensors of a safetensors file, by name, in the order of their data.

    Raises CheckpointError naming the file and what is wrong with it, StorageError when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > MAX_HEADER_BYTES or 8 + length > size:
                raise CheckpointError(_prefix_problem(path, size, prefix, length))
            header = file.read(length)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    if len(header) != length:
        raise CheckpointError(f"{path}: the file shrank while its header was read")
    return parse_header(header, size, path)


def parse_header(header: bytes, file_size: int, path: Path) -> dict[str, TensorInfo]:
    """The same from the header's JSON bytes; `file_size` is the whole file's, prefix and header included."""
    if header[:1] != b"{":
        raise CheckpointError(f"{path}: a safetensors header starts with '{{', got {header[:1]!r}")
    entries = parse_object(header, f"{path}: safetensors header")
    _check_metadata(entries.pop("__metadata__", {}), path)
    start = 8 + len(header)
    tensors = [_tensor(name, entry, start, path) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_coverage(tensors, start, file_size, path)
    return {tensor.name: tensor for tensor in tensors}


def element_bits(dtype: str) -> int:
    """Bits of one element of a safetensors type known to this module (KeyError otherwise)."""
    return _BITS[dtype]


def _prefix_problem(path: Path, size: int, prefix: bytes, length: int) -> str:
    if len(prefix) < 8:
        return f"{path}: {size} bytes are too few for a safetensors file"
    if length > MAX_HEADER_BYTES:
        return f"{path}: header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed; is this a safetensors file?"
    return f"{path}: header of {length} bytes does not fit a file of {size}; the file is truncated or not safetensors"


def _check_metadata(metadata: Any, path: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map texts to texts")


def _tensor(name: str, entry: Any, start: int, path: Path) -> TensorInfo:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError(f"{where}: unknown dtype {dtype!r}")
    if not _are_sizes(shape):
        raise CheckpointError(f"{where}: shape must be a list of integers of at least 0, got {shape!r}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where}: data_offsets must be [begin, end], got {offsets!r}")
    nbytes = _data_bytes(dtype, shape, where)
    if offsets[1] - offsets[0] != nbytes:
        got = offsets[1] - offsets[0]
        raise CheckpointError(f"{where}: {dtype} of shape {shape} takes {nbytes} bytes, data_offsets give {got}")
    return TensorInfo(name, path, dtype, tuple(shape), start + offsets[0], nbytes)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _MAX_BYTES for item in value)


def _data_bytes(dtype: str, shape: list[int], where: str) -> int:
    bits = _BITS[dtype]
    # Partial products are bounded too, as in the reference implementation: [2^40, 2^40, 0] is nonsense, not empty.
    for size in shape:
        bits *= size
        if bits >= 8 * _MAX_BYTES:
            raise CheckpointError(f"{where}: shape {shape} is larger than any file")
    if bits % 8:
        raise CheckpointError(f"{where}: {dtype} of shape {shape} does not fill whole bytes")
    return bits // 8


def _check_coverage(tensors: list[TensorInfo], start: int, file_size: int, path: Path) -> None:
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            problem = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {tensor.name!r} {problem}")
        end += tensor.nbytes
    if end > file_size:
        raise CheckpointError(f"{path}: {file_size} bytes, but its tensors end at {end}: the file is truncated")
    if end < file_size:
        raise CheckpointError(f"{path}: {file_size - end} bytes after the last tensor belong to nothing")
