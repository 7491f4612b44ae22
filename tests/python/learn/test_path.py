"""Training of the predictor "path" on traces whose rule is known, by inference of our own in numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from moestro.errors import UsageError
from moestro.learn.path import train_path

EXPERTS = (8, 6, 7)  # of each layer
TOP_K, TOKENS, VOCABULARY = 2, 2000, 25

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


def drawn(random: np.random.Generator, count: int) -> Ints:
    """Paths [layers, count, TOP_K]."""
    return np.stack(
        [np.stack([random.permutation(experts)[:TOP_K] for _ in range(count)]) for experts in EXPERTS]
    ).astype(np.int32)


def probabilities(weights: dict[str, Floats], tokens: Ints, chosen: Ints) -> Iterator[list[Floats]]:
    """For each token, [a layer's experts] for every layer, seen from before it."""
    context = np.zeros(weights["embedding"].shape[1], np.float32)
    first = np.cumsum((0, *EXPERTS))
    for place, token in enumerate(tokens):
        read = weights["embedding"][token] if token >= 0 else np.zeros_like(context)
        context = 0.8 * context + 0.2 * read
        state = np.tanh(weights["hidden"] @ np.concatenate((read, context)) + weights["hidden_bias"])
        said = []
        for layer, experts in enumerate(EXPERTS):
            here = slice(first[layer], first[layer + 1])
            said.append(1 / (1 + np.exp(-(weights["output"][here] @ state + weights["output_bias"][here]))))
            used = np.isin(np.arange(experts), chosen[layer, place])
            state = state + (used - said[-1]) @ weights["correction"][here]
        yield said


def recall(weights: dict[str, Floats], tokens: Ints, chosen: Ints) -> list[float]:
    """By layer, of as many experts as are used: the likeliest."""
    hits = np.zeros(len(EXPERTS))
    for place, said in enumerate(probabilities(weights, tokens, chosen)):
        for layer, likely in enumerate(said):
            hits[layer] += np.isin(np.argsort(-likely)[:TOP_K], chosen[layer, place]).sum()
    return list(hits / (TOP_K * len(tokens)))


def test_a_path_that_follows_from_the_token_is_learnt() -> None:
    random = np.random.default_rng(1)
    paths = drawn(random, VOCABULARY)
    tokens = random.integers(0, VOCABULARY, TOKENS).astype(np.int32)
    weights = train_path(tokens, paths[:, tokens], EXPERTS, VOCABULARY, width=32, epochs=50)
    fresh = random.integers(0, VOCABULARY, 200).astype(np.int32)
    assert min(recall(weights, fresh, paths[:, fresh])) > 0.99


def test_what_the_router_chose_corrects_what_the_token_leaves_open() -> None:
    """Each token goes one of two ways, at random: the first layer shows which."""
    random = np.random.default_rng(2)
    ways = np.stack((drawn(random, 1)[:, 0], drawn(random, 1)[:, 0]))  # [2, layers, TOP_K]
    ways[1] = (ways[0] + 3) % np.array(EXPERTS)[:, None]
    tokens = random.integers(0, VOCABULARY, TOKENS).astype(np.int32)
    chosen = ways[random.integers(0, 2, TOKENS)].transpose(1, 0, 2)
    weights = train_path(tokens, chosen, EXPERTS, VOCABULARY, width=32)
    first, *later = recall(weights, tokens[:200], chosen[:, :200])
    assert first < 0.8
    assert min(later) > 0.99


def test_unknown_tokens_and_a_short_trace_are_taken() -> None:
    tokens = np.array([3, -1, 4], np.int32)
    chosen = np.zeros((3, 3, 1), np.int32)
    weights = train_path(tokens, chosen, EXPERTS, VOCABULARY, width=4, epochs=2)
    assert {name: array.shape for name, array in weights.items()} == {
        "embedding": (VOCABULARY, 4),
        "hidden": (4, 8),
        "hidden_bias": (4,),
        "output": (21, 4),
        "output_bias": (21,),
        "correction": (21, 4),
    }
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in weights.values())
    assert np.flatnonzero(weights["embedding"].any(axis=1)).tolist() == [3, 4], "others are as unknown as -1"


def test_a_seed_decides() -> None:
    import torch

    random = np.random.default_rng(3)
    tokens = random.integers(0, VOCABULARY, 300).astype(np.int32)
    chosen = drawn(random, 300)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (
        train_path(tokens, chosen, EXPERTS, VOCABULARY, width=8, epochs=3, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random numbers are left alone"
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["hidden"], other["hidden"])


@pytest.mark.parametrize(
    ("tokens", "chosen", "message"),
    [
        (np.zeros(4, np.int32), np.zeros((3, 5, 2), np.int32), r"shapes \(4,\) and \(3, 5, 2\)"),
        (np.zeros(4, np.int32), np.zeros((2, 4, 2), np.int32), r"chosen \[3 layers, T, top_k\]"),
        (np.zeros(0, np.int32), np.zeros((3, 0, 2), np.int32), "is needed"),
        (np.full(4, 25, np.int32), np.zeros((3, 4, 2), np.int32), "token 25; the vocabulary has 25"),
        (np.zeros(4, np.int32), np.full((3, 4, 2), 6, np.int32), "layer 1 of the trace uses experts 6 to 6; the model"),
    ],
)
def test_arrays_that_are_not_of_one_trace_are_refused(tokens: Ints, chosen: Ints, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_path(tokens, chosen, EXPERTS, VOCABULARY)
