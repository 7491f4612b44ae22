"""The gated MLP that every token goes through."""

from __future__ import annotations

from dataclasses import dataclass

from moestro import _core
from moestro._core import F32, Compute, Matrix, Workspace


@dataclass(frozen=True)
class MlpWeights:
    """Biases, where the model has them, are inside the matrices."""

    gate: Matrix  # [intermediate, hidden]
    up: Matrix  # [intermediate, hidden]
    down: Matrix  # [hidden, intermediate]


class Mlp:
    """x += mlp(norm(x)), with the layer's constants bound once."""

    def __init__(self, compute: Compute, layer: int, norm: F32, weights: MlpWeights, *, eps: float) -> None:
        """norm [hidden]: weight of the norm before the MLP."""
        self._layer = _core.MlpLayer(
            compute, layer, norm=norm, eps=eps, gate=weights.gate, up=weights.up, down=weights.down
        )

    def __call__(self, work: Workspace) -> None:
        """Adds to work.x."""
        self._layer.run(work)
