"""The last norm and the output head: row slices of one [vocab, hidden] matrix, so that no slice needs the memory of the
whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moestro import _core
from moestro._core import F32, I64, Compute, Matrix, Runtime, Workspace


class Head:
    units = 0  # of the layer stream

    def __init__(self, compute: Compute, slices: Sequence[Matrix], **settings: Any) -> None:
        """slices: consecutive rows, together [vocab, hidden]. settings: norm, eps, multiplier and softcap of
        _core.Head."""
        self._head = _core.Head(compute, slices=list(slices), **settings)

    def __call__(self, work: Workspace, rows: I64) -> F32:
        """Rows of work.x -> logits [len(rows), vocab], a new array."""
        return self._head.run(work, rows)


class StreamedHead:
    """The same, one slice in memory at a time: slice i is unit first_unit + i of the runtime's layer stream."""

    def __init__(self, runtime: Runtime, slices: Sequence[Matrix], *, first_unit: int, **settings: Any) -> None:
        self._runtime = runtime
        self._first = first_unit
        self._heads = [_core.Head(runtime.compute, slices=[matrix], **settings) for matrix in slices]
        self.units = len(self._heads)

    def __call__(self, work: Workspace, rows: I64) -> F32:
        """Rows of work.x -> logits [len(rows), vocab], a new array."""
        logits = np.empty((len(rows), sum(head.vocab for head in self._heads)), np.float32)
        if not len(rows):
            return logits
        at = 0
        for unit, head in enumerate(self._heads, self._first):
            self._runtime.hold_unit(unit)
            logits[:, at : at + head.vocab] = head.run(work, rows)
            self._runtime.release_unit(unit)
            at += head.vocab
        return logits
