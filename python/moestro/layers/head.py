"""The last norm and the output head: row slices of one [vocab, hidden] matrix, so that no slice needs the memory of the
whole."""

from __future__ import annotations

from collections.abc import Sequence

from moestro import _core
from moestro._core import F32, I64, Compute, Matrix, Workspace


class Head:
    def __init__(self, compute: Compute, norm: F32, slices: Sequence[Matrix], *, eps: float) -> None:
        """norm [hidden]; slices: consecutive rows, together [vocab, hidden]."""
        self._head = _core.Head(compute, norm=norm, eps=eps, slices=list(slices))

    def __call__(self, work: Workspace, rows: I64) -> F32:
        """Rows of work.x -> logits [len(rows), vocab], a new array."""
        return self._head.run(work, rows)
