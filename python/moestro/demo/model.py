"""The demo's model: Qwen3-MoE-shaped, random weights, about 1 GB, written once and kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from moestro.cache_dir import PARTIAL, cache_root
from moestro.demo.random_moe import Progress, Shape, write_random_checkpoint

SHAPE = Shape(
    hidden=768,
    layers=8,
    heads=12,
    kv_heads=4,
    head_dim=64,
    experts=64,
    experts_per_token=8,
    expert_width=384,
    context=4096,
)
_NAME = "random-qwen3-moe-2"  # another shape or filling is another name


def demo_directory() -> Path:
    """Where the demo's checkpoint is, or will be."""
    return cache_root() / "demo" / _NAME


def make_demo_model(progress: Progress) -> Path:
    """Writes the checkpoint unless it is there. Appears whole or not at all; an interrupted one is begun again.

    Raises StorageError when the disk has no room, before anything is written.
    """
    directory = demo_directory()
    if directory.exists():
        return directory
    partial = directory.with_name(f"{directory.name}.{os.getpid()}{PARTIAL}")
    try:
        write_random_checkpoint(partial, SHAPE, progress)
        _publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _publish(partial: Path, directory: Path) -> None:
    try:
        partial.rename(directory)
    except OSError:
        if not directory.exists():  # otherwise another process was first, with the same bytes
            raise
