"""Matrices that do not lie row by row, put in order."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from moestro._core import U8
from moestro.checkpoint.weights import TensorSlice


def gather(source: TensorSlice, raw: U8) -> U8:
    """raw: the `source.span` bytes from its offset on -> the matrix row by row, padding rows of a stack included."""
    if source.stack is None and source.columns is None:
        return raw
    if source.stack is None:
        return np.ascontiguousarray(_view(source, raw)).reshape(-1)
    blocks = source.blocks()
    rows = source.rows // len(blocks)
    out = np.zeros((len(blocks), rows, source.cols * source.element_bytes), np.uint8)
    for number, block in enumerate(blocks):
        begin = block.offset - source.offset
        out[number, : block.rows] = gather(block, raw[begin : begin + block.span]).reshape(block.rows, -1)
    return out.reshape(-1)


def _view(source: TensorSlice, raw: U8) -> U8:
    """[rows, cols, bytes of an element] of a matrix in columns."""
    size, columns = source.element_bytes, source.columns
    if columns is None:
        raise TypeError("a matrix that lies row by row needs no view")
    strides = (columns.step * size, columns.stride * size, 1)
    return as_strided(raw, (source.rows, source.cols, size), strides, writeable=False)
