"""The training loop: seeded, with progress, resumable from its last checkpoint."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demo_training.experts import register
from demo_training.pre_gated import make_pre_gated
from demo_training.variants import Phase, Variant

SEED = 2026
WARMUP = 100
STEPS_PER_CHECKPOINT = 200
STEPS_PER_LINE = 20


def build(variant: Variant) -> Any:
    """The untrained model, float32, seeded."""
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

    torch.manual_seed(SEED)
    settings = {key: value for key, value in variant.config.items() if key != "model_type"}
    config = (Qwen3MoeConfig if variant.is_moe else Qwen3Config)(**settings)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    if variant.is_moe:
        model.set_experts_implementation(register())
    return make_pre_gated(model) if variant.pre_gated else model


def phase_at(step: int, variant: Variant) -> tuple[Phase, int]:
    """The phase that global step `step` belongs to, and the step within it."""
    for phase in variant.phases:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise IndexError(f"{variant.name} has {variant.steps} steps")


def learning_rate(step: int, phase: Phase) -> float:
    """Linear warm-up, then a cosine down to 5 % of the peak."""
    if step < WARMUP:
        return phase.learning_rate * (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, phase.steps - WARMUP)
    return phase.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def batch(ids: NDArray[np.int64], step: int, phase: Phase) -> Tensor:
    """[batch, window + 1] tokens from random places, a function of (SEED, step): a resumed run sees what an unbroken
    one does."""
    starts = np.random.default_rng((SEED, step)).integers(0, len(ids) - phase.window - 1, size=phase.batch)
    return torch.from_numpy(np.stack([ids[start : start + phase.window + 1] for start in starts]))


def loss_of(model: Any, tokens: Tensor, phase: Phase) -> Tensor:
    """Next-token loss over the windows plus the phase's load-balancing losses (Switch Transformer's, as transformers
    computes it)."""
    balanced = phase.balance > 0 or phase.pooled_balance > 0
    output = model(input_ids=tokens[:, :-1], **({"output_router_logits": True} if balanced else {}))
    logits = output.logits.reshape(-1, output.logits.shape[-1])
    loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].reshape(-1))
    if balanced:
        from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func as imbalance

        routing = (model.config.num_experts, model.config.num_experts_per_tok)
        layers = output.router_logits
        if phase.pooled_balance > 0:
            loss = loss + phase.pooled_balance * imbalance(layers, *routing)
        if phase.balance > 0:
            loss = loss + phase.balance * sum(imbalance((layer,), *routing) for layer in layers)
    return loss


def train(variant: Variant, ids: NDArray[np.int64], work: Path) -> Any:
    """Trains to variant.steps and returns the model. `work` keeps its state; delete it to start over."""
    model = build(variant)
    optimizer = _optimizer(model)
    state_file = work / f"{variant.name}.pt"
    first = _resume(state_file, model, optimizer)
    if first:
        print(f"{variant.name}: goes on at step {first} of {variant.steps}", flush=True)
    model.train()
    started, average = time.monotonic(), math.nan
    for step in range(first, variant.steps):
        phase, phase_step = phase_at(step, variant)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(phase_step, phase)
        loss = loss_of(model, batch(ids, step, phase), phase)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = loss.item() if math.isnan(average) else 0.95 * average + 0.05 * loss.item()
        if (step + 1) % STEPS_PER_LINE == 0:
            _say(variant, step + 1, average, time.monotonic() - started, step + 1 - first)
        if (step + 1) % STEPS_PER_CHECKPOINT == 0:
            _save(state_file, model, optimizer, step + 1)
    return model.eval()


def _optimizer(model: Any) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95))


def _resume(state_file: Path, model: Any, optimizer: torch.optim.AdamW) -> int:
    if not state_file.exists():
        return 0
    state = torch.load(state_file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _save(state_file: Path, model: Any, optimizer: torch.optim.AdamW, step: int) -> None:
    partial = state_file.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    partial.rename(state_file)


def _say(variant: Variant, done: int, loss: float, spent: float, steps: int) -> None:
    minutes = spent / steps * (variant.steps - done) / 60
    print(f"{variant.name}: step {done}/{variant.steps}, loss {loss:.3f}, {minutes:.1f} min left", flush=True)
