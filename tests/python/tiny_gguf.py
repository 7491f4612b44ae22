"""What the tests of the benches share: a shape with odd counts, and how a bench is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from moestro.demo.random_model import Shape

_BENCH = Path(__file__).resolve().parents[2] / "bench" / "e2e"

SHAPE = Shape(
    hidden=96,
    layers=3,
    heads=6,
    kv_heads=2,
    head_dim=32,
    experts=7,
    experts_per_token=3,
    expert_width=64,
    context=512,
    vocab=4200,
)


def run_bench(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """bench/e2e/<script>, by the interpreter of the tests."""
    command = [sys.executable, str(_BENCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
