"""Tiny random checkpoints of every family, as transformers writes them: the material of the oracle tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tiny_configs import latent, plain, sigmoid, softmax

SHARD = "60KB"  # several shards even for these


# name -> the config it is made from; "fused" in a name: experts saved as one tensor per layer.
CONFIGS: dict[str, Callable[[], Any]] = {
    **plain.CONFIGS,
    **softmax.CONFIGS,
    **sigmoid.CONFIGS,
    **latent.CONFIGS,
}
SHORT = tuple(name for name in CONFIGS if not name.startswith("long-"))
LONG = tuple(name for name in CONFIGS if name.startswith("long-"))


def write(
    name: str, directory: Path, *, seed: int = 0, dtype: str = "bfloat16", config: Any = None, shard: str = SHARD
) -> Path:
    """Saves the checkpoint `name` (or one of `config`) with random weights of `dtype`; returns the directory.

    Norms, biases and whatever else starts as one value move away from it, so that one that is not applied shows.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config or CONFIGS[name](), dtype=getattr(torch, dtype))
    with torch.no_grad():
        saved = model.state_dict().keys()
        for weight, value in (*model.named_parameters(), *model.named_buffers()):
            if weight in saved and (value.ndim == 1 or bool((value == value.flatten()[0]).all())):
                value.add_(torch.randn_like(value) * 0.3)
    model.save_pretrained(directory, max_shard_size=shard, save_original_format="fused" not in name)
    return directory


@functools.cache
def reference(directory: Path) -> Any:
    """The HF model of a checkpoint, run in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # these models are so small that a second thread makes them ten times slower
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    # The default, a grouped product, refuses odd sizes; transformers 4 has no choice to make.
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model


def reference_logits(directory: Path, token_ids: Any) -> Any:
    """HF's float32 logits [T, vocab] as a numpy float64 array."""
    import torch

    with torch.no_grad():
        ids = torch.tensor(np.asarray(token_ids, dtype=np.int64))[None]
        return reference(directory)(ids).logits[0].numpy().astype(np.float64)


def prompt(length: int, *, vocab: int = 131, seed: int = 0) -> Any:
    """Random token ids, I32 [length]."""
    return np.random.default_rng([seed, length]).integers(0, vocab, length).astype(np.int32)


def nmse(got: Any, want: Any) -> float:
    want = np.asarray(want, dtype=np.float64)
    return float(((np.asarray(got, dtype=np.float64) - want) ** 2).sum() / (want**2).sum())


def by_family() -> dict[str, str]:
    """model_type -> the first of its tiny configs."""
    names: dict[str, str] = {}
    for name in SHORT:
        names.setdefault(CONFIGS[name]().model_type, name)
    return names
