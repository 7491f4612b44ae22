"""Trains the predictor "path" on a routing trace: a small network that says which experts of which layers a token will
use, and how that changes with what the routers chose so far. csrc/policy/path_model.h defines it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from moestro._core import F32, I32
from moestro.errors import UsageError
from moestro.trace.path_weights import ARRAYS, CONTEXT_DECAY, HORIZON

if TYPE_CHECKING:
    import torch

    Arrays = dict[str, torch.Tensor]

WINDOW = 64  # tokens whose context is computed together: after as many, what went before weighs 0.8 ** 64
_WINDOWS_AT_ONCE = 8
_LEARNING_RATE = 1e-2
_WEIGHT_DECAY = 0.15
_DROPOUT = 0.2  # of embeddings: most tokens of a trace are rare, and would be learnt by heart


def train_path(
    tokens: I32,
    chosen: I32,
    experts: Sequence[int],
    vocabulary: int,
    width: int = 64,
    epochs: int = 30,
    seed: int = 0,
) -> dict[str, F32]:
    """The weights, by the names of `trace.path_weights.ARRAYS`. tokens [tokens], -1: not known; chosen [layers with
    experts, tokens, top_k]; experts: how many each of these layers has. The same seed gives the same weights on the
    same machine.

    Each layer is predicted from the token and its context, corrected by the true choices of the layers before it, as it
    will be in a run, up to three layers ahead. UsageError: the arguments are not of one trace.
    """
    _check(tokens, chosen, experts, vocabulary)
    import torch

    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        weights = _initial(tokens, vocabulary, width, _frequencies(chosen, experts))
        optimiser = torch.optim.AdamW(_groups(weights), lr=_LEARNING_RATE)
        ids, numbers = _windows(tokens, chosen, experts)
        batches = -(-len(ids) // _WINDOWS_AT_ONCE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=epochs * batches)
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(ids)), _WINDOWS_AT_ONCE):
                loss = _loss(weights, ids[batch], numbers[batch], experts)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return {name: weights[name].detach().numpy().astype(np.float32) for name in ARRAYS}


@contextmanager
def _one_thread() -> Iterator[None]:
    """The matrices are small: several threads would wait for each other longer than they compute."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check(tokens: I32, chosen: I32, experts: Sequence[int], vocabulary: int) -> None:
    if tokens.ndim != 1 or chosen.ndim != 3 or chosen.shape[:2] != (len(experts), len(tokens)) or not chosen.size:
        raise UsageError(
            f"a trace of tokens [T] and chosen [{len(experts)} layers, T, top_k] is needed; these have shapes"
            f" {tokens.shape} and {chosen.shape}"
        )
    if tokens.max() >= vocabulary:
        raise UsageError(f"the trace has token {tokens.max()}; the vocabulary has {vocabulary}")
    for layer, (count, of_layer) in enumerate(zip(experts, chosen, strict=True)):
        if not 0 <= of_layer.min() <= of_layer.max() < count:
            raise UsageError(
                f"layer {layer} of the trace uses experts {of_layer.min()} to {of_layer.max()}; the model has {count}"
                " there"
            )


def _frequencies(chosen: I32, experts: Sequence[int]) -> F32:
    """Of every expert, the share of tokens that use it."""
    counts = [np.bincount(of.reshape(-1), minlength=count) for of, count in zip(chosen, experts, strict=True)]
    shares: F32 = (np.concatenate(counts) / chosen.shape[1]).astype(np.float32)
    return shares


def _initial(tokens: I32, vocabulary: int, width: int, frequencies: F32) -> Arrays:
    """At first every expert is as likely as it is frequent, and nothing is corrected. Tokens that the trace lacks are
    zeros, as unknown ones are, and stay so."""
    import torch

    experts = len(frequencies)
    share = torch.from_numpy(frequencies).clamp(1e-3, 1 - 1e-3)
    seen = torch.from_numpy(np.isin(np.arange(vocabulary), tokens)).unsqueeze(1)
    weights = {
        "embedding": torch.randn(vocabulary, width) * 0.5 * seen,
        "hidden": torch.randn(width, 2 * width) * (2 * width) ** -0.5,
        "hidden_bias": torch.zeros(width),
        "output": torch.randn(experts, width) * width**-0.5,
        "output_bias": torch.logit(share),
        "correction": torch.zeros(experts, width),
    }
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def _groups(weights: Arrays) -> list[dict[str, Any]]:
    """What the optimiser is given: biases do not decay."""
    biases = [weight for name, weight in weights.items() if name.endswith("bias")]
    others = [weight for name, weight in weights.items() if not name.endswith("bias")]
    return [{"params": biases, "weight_decay": 0.0}, {"params": others, "weight_decay": _WEIGHT_DECAY}]


def _windows(tokens: I32, chosen: I32, experts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids [windows, WINDOW], numbers of the experts that each used, through all layers [windows, WINDOW, layers *
    top_k]); the last window is filled up with unknown tokens that used an expert after all others."""
    import torch

    count = -(-len(tokens) // WINDOW)
    first = np.cumsum(experts) - experts
    used = (chosen + first[:, None, None]).transpose(1, 0, 2).reshape(len(tokens), -1)
    ids = torch.full((count * WINDOW,), -1, dtype=torch.int64)
    numbers = torch.full((count * WINDOW, used.shape[1]), sum(experts), dtype=torch.int64)
    ids[: len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
    numbers[: len(tokens)] = torch.from_numpy(used.astype(np.int64))
    return ids.view(count, WINDOW), numbers.view(count, WINDOW, -1)


def _loss(weights: Arrays, ids: torch.Tensor, numbers: torch.Tensor, experts: Sequence[int]) -> Any:
    """Cross entropy of the next layers, seen from before every layer, over tokens of the trace."""
    import torch
    from torch.nn import functional

    known = (ids >= 0).unsqueeze(-1)
    embedded = functional.embedding(ids.clamp(min=0), weights["embedding"]) * known
    embedded = functional.dropout(embedded, _DROPOUT)
    age = torch.arange(WINDOW).unsqueeze(1) - torch.arange(WINDOW)
    decay = torch.where(age >= 0, (1 - CONTEXT_DECAY) * CONTEXT_DECAY ** age.clamp(min=0), 0.0)
    context = decay @ embedded
    state = torch.tanh(torch.cat((embedded, context), -1) @ weights["hidden"].T + weights["hidden_bias"])
    there = numbers[..., 0] < sum(experts)
    state, numbers = state[there], numbers[there]
    used = torch.zeros(len(numbers), sum(experts)).scatter_(1, numbers, 1.0)

    last = np.cumsum(experts)
    first = last - experts
    total: Any = 0.0
    for layer in range(len(experts)):
        begin, end = int(first[layer]), int(last[min(layer + HORIZON, len(experts)) - 1])
        logits = state @ weights["output"][begin:end].T + weights["output_bias"][begin:end]
        total += functional.binary_cross_entropy_with_logits(logits, used[:, begin:end])
        here = slice(begin, int(last[layer]))
        error = used[:, here] - torch.sigmoid(logits[:, : experts[layer]])
        state = state + error @ weights["correction"][here]
    return total / len(experts)
