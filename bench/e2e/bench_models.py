"""The benches' random models, Qwen3-MoE and dense Qwen3: written once into a working folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from moestro.cache_dir import PARTIAL, cache_root
from moestro.demo.random_model import Shape, write_random_checkpoint
from moestro.pack import pack_checkpoint

_LARGE = Shape(
    hidden=1024,
    layers=24,
    heads=16,
    kv_heads=4,
    head_dim=128,
    experts=64,
    experts_per_token=8,
    expert_width=768,
    context=4096,
    vocab=32000,
)
_SMALL = Shape(
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
# Widths are multiples of 256: llama.cpp's K formats need whole super-blocks.
_TINY = Shape(
    hidden=256,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=64,
    experts=8,
    experts_per_token=2,
    expert_width=256,
    context=1024,
)
_DENSE = Shape(
    hidden=2048,
    layers=24,
    heads=16,
    kv_heads=8,
    head_dim=128,
    experts=0,
    experts_per_token=0,
    expert_width=6144,
    context=4096,
    vocab=32000,
)
SHAPES = {"tiny": _TINY, "1gb": _SMALL, "4gb": replace(_LARGE, layers=14), "8gb": _LARGE, "dense": _DENSE}


def default_work() -> Path:
    """Where the models are kept unless somebody names another folder."""
    return cache_root() / "bench"


def checkpoint_directory(name: str, work: Path) -> Path:
    """Where `random_checkpoint` writes the shape `name`."""
    return work / f"random-{name}"


def random_checkpoint(name: str, work: Path) -> Path:
    """The bf16 checkpoint of SHAPES[name] in `work`. Made unless it is there."""
    directory = checkpoint_directory(name, work)
    if not directory.exists():
        work.mkdir(parents=True, exist_ok=True)
        partial = directory.with_name(f"{directory.name}.{os.getpid()}{PARTIAL}")
        try:
            write_random_checkpoint(partial, SHAPES[name], _quiet)
            partial.rename(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return directory


def packed_store(checkpoint: Path, format: str, work: Path) -> Path:
    """The checkpoint packed into `work`, unless that is done."""
    store = work / f"{checkpoint.name}-{format}"
    return store if store.exists() else pack_checkpoint(checkpoint, store, format)


def _quiet(done: int, total: int) -> None:
    pass
