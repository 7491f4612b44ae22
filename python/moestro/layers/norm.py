"""RMS norm with its weight bound."""

from __future__ import annotations

from moestro import _core
from moestro._core import F32, Compute


class RmsNorm:
    """out = x / rms(x) * weight over the last dimension. Raises NumericError when x is not finite."""

    def __init__(self, compute: Compute, weight: F32, eps: float) -> None:
        self._compute = compute
        self._weight = weight  # [n]
        self._eps = eps

    def __call__(self, x: F32, out: F32) -> None:
        """x, out: [..., n]; out may be x."""
        _core.rms_norm(self._compute, x, self._weight, self._eps, out)
