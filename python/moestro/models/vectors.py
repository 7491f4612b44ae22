"""Small tensors read whole: norm weights and biases, kept as float32, and whatever else is not streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from moestro import _core
from moestro._core import F32, U8
from moestro.checkpoint.gather import gather
from moestro.checkpoint.weights import TensorSlice
from moestro.errors import IntegrityError, NumericError, StorageError


class HasShape(Protocol):
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...


def read_bytes(role: str, path: Path, offset: int, nbytes: int, checksum: int | None = None) -> U8:
    """`nbytes` bytes at `offset` of `path`, verified against their XXH64 where there is one.

    Raises StorageError or IntegrityError naming the role, the file and the cause.
    """
    raw = np.empty(nbytes, dtype=np.uint8)
    done = 0
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while done < nbytes and (count := file.readinto(raw.data[done:])):
                done += count
    except OSError as error:
        raise StorageError(f"{role}: cannot read {path}: {error.strerror or error}") from error
    if done != nbytes:
        raise StorageError(f"{role}: {path} ends early: expected {nbytes} bytes at {offset}, found {done}")
    if checksum is not None and (found := _core.xxh64(raw)) != checksum:
        raise IntegrityError(
            f"{role}: {nbytes} bytes at {offset} of {path} have checksum {found:016x}, expected {checksum:016x}: the"
            " bytes on disk changed; pack the model again"
        )
    return raw


def read_vector(role: str, tensor: TensorSlice, checksum: int | None = None) -> F32:
    """The elements of `tensor`, widened: float32 [rows * cols]. Raises also NumericError where one is not finite."""
    raw = gather(tensor, read_bytes(role, tensor.path, tensor.offset, tensor.span, checksum))
    values = _core.widen(raw, tensor.core_type, tensor.rows * tensor.cols)
    if not np.isfinite(values).all():
        raise NumericError(f"{role}: {tensor.path} holds a value that is not finite")
    return values


def vector_bytes(tensor: HasShape) -> int:
    """Bytes of its elements as float32."""
    return 4 * tensor.rows * tensor.cols
