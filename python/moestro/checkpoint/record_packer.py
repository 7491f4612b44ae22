"""Turns source tensors into the bytes of a store: packed records, and the checksums of embedding rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moestro import _core
from moestro._core import U8
from moestro.checkpoint.gather import gather
from moestro.checkpoint.pack_formats import MatrixClass, matrix_class
from moestro.checkpoint.read_ahead import Extent, row_pieces
from moestro.checkpoint.store_format import PartSpec
from moestro.checkpoint.store_plan import PlannedTensor
from moestro.checkpoint.weights import TensorSlice
from moestro.errors import MoestroError, NumericError


class ScaleTooNarrow(MoestroError):
    """A matrix planned with f16 scales needs f32: never seen by users, the plan is made again."""

    def __init__(self, found: MatrixClass) -> None:
        super().__init__(f"f16 scales are too narrow for {found}")
        self.found = found


def pieces_of(tensor: PlannedTensor) -> Iterator[TensorSlice]:
    """What has to be read for `tensor`, in order."""
    for source in tensor.sources:
        yield from row_pieces(source)


def extents_of(tensor: PlannedTensor) -> Iterator[Extent]:
    for piece in pieces_of(tensor):
        yield Extent(piece.path, piece.offset, piece.span)


def pack_record(compute: _core.Compute, tensor: PlannedTensor, data: Iterator[U8], out: U8) -> None:
    """Fills `out` with the record; `data` yields the bytes of `pieces_of(tensor)`.

    Raises ScaleTooNarrow, NumericError naming a matrix with a weight that an integer format cannot hold.
    """
    end = 0
    for part, source in zip(tensor.parts, tensor.sources, strict=True):
        out[end : part.offset] = 0
        end = part.offset
        for piece in row_pieces(source):
            raw = gather(piece, next(data))
            check_scale(tensor, part, piece, raw)
            nbytes = _core.matrix_bytes(part.format, part.scale, piece.rows, piece.cols)
            packed = out[end : end + nbytes]
            kind = (part.format, part.scale)
            _core.pack_matrix(compute, raw, piece.core_type, piece.rows, piece.cols, *kind, packed)
            end += nbytes
    out[end:] = 0


def check_scale(tensor: PlannedTensor, part: PartSpec, piece: TensorSlice, raw: U8) -> None:
    """Raises ScaleTooNarrow where f16 scales are planned and do not do."""
    if part.scale != "f16":
        return
    try:
        scale = _core.choose_scale_type(raw, piece.core_type, piece.rows, piece.cols, part.format)
    except NumericError as error:
        raise NumericError(f"{tensor.name}.{part.name}, from {piece.path}: {error}") from error
    if scale != "f16":
        raise ScaleTooNarrow(matrix_class(tensor, part.name))


def row_checksums(piece: TensorSlice, raw: U8) -> NDArray[np.uint64]:
    """XXH64 of every row of a piece: [rows]."""
    return np.fromiter(map(_core.xxh64, raw.reshape(piece.rows, -1)), dtype=np.uint64, count=piece.rows)
