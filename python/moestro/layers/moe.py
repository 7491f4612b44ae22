"""The mixture of experts of one layer: the only place that asks the runtime for experts."""

from __future__ import annotations

from dataclasses import dataclass

from moestro import _core
from moestro._core import Compute, Matrix, Runtime
from moestro.layers.work import Work


@dataclass(frozen=True)
class RouterWeights:
    router: Matrix  # [experts, hidden], always f32


class Moe:
    """Routes rows and has the runtime compute their experts, wherever the records are."""

    def __init__(
        self, runtime: Runtime, compute: Compute, layer: int, weights: RouterWeights, *, top_k: int, normalise: bool
    ) -> None:
        """top_k experts per row; normalise divides their weights by their sum."""
        self._runtime = runtime
        self._compute = compute
        self._layer = layer
        self._router = (weights.router,)
        self._top_k = top_k
        self._normalise = normalise

    def __call__(self, work: Work) -> None:
        """work.normed -> work.branch. Errors of a load surface here, naming the expert and its file."""
        logits = work.router_logits(self._router[0].rows)
        _core.linear(self._compute, work.normed, self._router, (logits,))
        ids, weights = _core.route_softmax_topk(self._compute, logits, self._top_k, self._normalise)
        ticket = self._runtime.submit_experts(self._layer, work.normed, ids, weights)
        self._runtime.wait(ticket, work.branch)
