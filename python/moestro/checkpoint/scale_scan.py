"""Finds every matrix that f16 scales do not do for, once the first has turned up: a pack starts again only once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from moestro.checkpoint.gather import gather
from moestro.checkpoint.pack_formats import MatrixClass
from moestro.checkpoint.read_ahead import read_ahead, row_pieces
from moestro.checkpoint.record_packer import ScaleTooNarrow, check_scale, extents_of
from moestro.checkpoint.store_packer import planned_tensors
from moestro.checkpoint.store_plan import StorePlan


def classes_with_wide_scales(plan: StorePlan, finished: Mapping[str, int]) -> set[MatrixClass]:
    """Reads all that is planned with f16 scales, but for what is finished and so has been found right.

    Raises StorageError, NumericError.
    """
    todo = [
        tensor
        for tensor in planned_tensors(plan)
        if tensor.name not in finished and any(part.scale == "f16" for part in tensor.parts)
    ]
    found: set[MatrixClass] = set()
    with closing(read_ahead(extent for tensor in todo for extent in extents_of(tensor))) as data:
        for tensor in todo:
            for part, source in zip(tensor.parts, tensor.sources, strict=True):
                for piece in row_pieces(source):
                    raw = gather(piece, next(data))
                    try:
                        check_scale(tensor, part, piece, raw)
                    except ScaleTooNarrow as narrow:
                        found.add(narrow.found)
    return found
