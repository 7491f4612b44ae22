"""The demo's model, small enough for tests: random weights, but a real tokenizer and a chat template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moestro.demo import model
from moestro.demo.random_moe import Shape

SHAPE = Shape(
    hidden=64,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    experts=8,
    experts_per_token=2,
    expert_width=48,
    context=1024,
)


def shrink(patch: pytest.MonkeyPatch, **changes: int) -> None:
    patch.setattr(model, "SHAPE", replace(SHAPE, **changes))


def make(cache: Path) -> Path:
    """Writes it below `cache`, as MOESTRO_CACHE would have it, and returns its directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOESTRO_CACHE", str(cache))
        shrink(patch)
        return model.make_demo_model(lambda done, total: None)
