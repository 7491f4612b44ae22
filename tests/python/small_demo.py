"""The demo's model, small enough for tests: random weights, but a real tokenizer and a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from moestro.demo import model

SIZES = {
    "LAYERS": 3,
    "EXPERTS": 8,
    "EXPERTS_PER_TOKEN": 2,
    "HIDDEN": 64,
    "HEADS": 4,
    "KV_HEADS": 2,
    "HEAD_DIM": 16,
    "EXPERT_WIDTH": 48,
    "CONTEXT": 1024,
}


def shrink(patch: pytest.MonkeyPatch) -> None:
    for name, value in SIZES.items():
        patch.setattr(model, name, value)


def make(cache: Path) -> Path:
    """Writes it below `cache`, as MOESTRO_CACHE would have it, and returns its directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOESTRO_CACHE", str(cache))
        shrink(patch)
        return model.make_demo_model(lambda done, total: None)
