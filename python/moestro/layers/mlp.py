"""The gated MLP that every token goes through."""

from __future__ import annotations

from dataclasses import dataclass

from moestro import _core
from moestro._core import Compute, Matrix
from moestro.layers.work import Work


@dataclass(frozen=True)
class MlpWeights:
    """Biases, where the model has them, are inside the matrices."""

    gate: Matrix  # [intermediate, hidden]
    up: Matrix  # [intermediate, hidden]
    down: Matrix  # [hidden, intermediate]


class Mlp:
    def __init__(self, compute: Compute, weights: MlpWeights) -> None:
        self._compute = compute
        self._weights = weights

    def __call__(self, work: Work) -> None:
        """work.normed -> work.branch."""
        weights = self._weights
        _core.gated_mlp(self._compute, work.normed, weights.gate, weights.up, weights.down, work.branch)
