"""The output head: row slices of one [vocab, hidden] matrix, so that no slice needs the memory of the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moestro import _core
from moestro._core import F32, Compute, Matrix


class Head:
    def __init__(self, compute: Compute, slices: Sequence[Matrix]) -> None:
        self._compute = compute
        self._slices = tuple(slices)  # consecutive rows, together [vocab, hidden]
        ends = np.cumsum([matrix.rows for matrix in self._slices]).tolist()
        self._bounds = tuple(zip([0, *ends[:-1]], ends, strict=True))
        self.vocab_size: int = ends[-1]

    def __call__(self, x: F32) -> F32:
        """x [rows, hidden] -> logits [rows, vocab], a new array."""
        logits = np.empty((x.shape[0], self.vocab_size), dtype=np.float32)
        _core.linear(self._compute, x, self._slices, [logits[:, begin:end] for begin, end in self._bounds])
        return logits
