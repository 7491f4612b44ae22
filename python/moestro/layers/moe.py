"""The mixture of experts of one layer: the only place that asks the runtime for experts."""

from __future__ import annotations

from dataclasses import dataclass

from moestro import _core
from moestro._core import F32, Matrix, Runtime, Workspace


@dataclass(frozen=True)
class RouterWeights:
    router: Matrix  # [experts, hidden], always f32


class Moe:
    """x += experts(norm(x)): routes rows and has the runtime compute their experts, wherever the records are."""

    def __init__(
        self,
        runtime: Runtime,
        layer: int,
        norm: F32,
        weights: RouterWeights,
        *,
        eps: float,
        top_k: int,
        normalise: bool,
    ) -> None:
        """norm [hidden]: weight of the norm before the router. top_k experts per row; normalise divides their weights
        by their sum."""
        self._layer = _core.MoeLayer(
            runtime, layer, norm=norm, eps=eps, router=weights.router, top_k=top_k, normalise=normalise
        )

    def __call__(self, work: Workspace) -> None:
        """Adds to work.x. Errors of a load surface here, naming the expert and its file."""
        self._layer.submit(work)
        self._layer.wait(work)
