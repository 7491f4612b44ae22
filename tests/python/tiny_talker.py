"""A random model, small enough for tests, that can read and talk: a real tokenizer and a chat template."""

from __future__ import annotations

from pathlib import Path

from moestro.demo.random_model import Shape, write_random_checkpoint

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


def make(parent: Path) -> Path:
    """Writes it below `parent` and returns its directory."""
    directory = parent / "random-moe"
    write_random_checkpoint(directory, SHAPE, lambda done, total: None)
    return directory
