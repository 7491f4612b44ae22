"""cuBLAS in bf16 through torch, as JSON lines: what a library that need not be exact makes of the same shapes."""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import torch

_SAMPLES, _EACH = 11, 5
_SHAPES = [(8192, 8192, 8192), *((rows, 14336, 4096) for rows in (128, 512, 2048)), (2048, 4096, 4096)]


def tflops(m: int, n: int, k: int) -> float:
    """Of x [m, k] times W [n, k] transposed, over weights that caches do not hold."""
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    weights = [
        torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(max(1, (512 << 20) // (2 * n * k)))
    ]
    times: list[float] = []
    for sample in range(_SAMPLES + 2):  # two to warm up
        begun, ended = _event(), _event()
        begun.record()
        for i in range(_EACH):
            torch.nn.functional.linear(x, weights[(sample * _EACH + i) % len(weights)])
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended) / 1e3 / _EACH)
    return 2.0 * m * n * k / statistics.median(times[2:]) / 1e12


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device")
    for m, n, k in _SHAPES:
        print(json.dumps({"name": f"{m} x {n} x {k} bf16", "tflops": tflops(m, n, k)}), flush=True)


if __name__ == "__main__":
    main()
