"""How a trained model uses its experts: shares, and what a token says about the experts it gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class LayerUsage:
    """Routing of one layer over the held-out tokens. Shares are relative to an even one: 1.0 is 1 / num_experts."""

    layer: int
    busiest_share: float
    idlest_share: float
    expert_entropy_bits: float  # of the distribution over experts; log2(num_experts) when even
    mutual_information_bits: float  # between a token and an expert chosen for it, bias taken off


def shares(chosen: Ids, num_experts: int) -> NDArray[np.float64]:
    """chosen [tokens, top_k] -> [num_experts], 1.0 is an even share."""
    return np.bincount(chosen.reshape(-1), minlength=num_experts) / chosen.size * num_experts


def mutual_information(tokens: Ids, chosen: Ids, vocab_size: int, num_experts: int) -> float:
    """I(token; expert) in bits over all pairs of a token [tokens] and an expert chosen for it [tokens, top_k].

    The plug-in estimate is biased upwards (rare tokens seem to prefer what they happened to get), so the mean over
    shuffled pairings is taken off: independent ones come out at 0.
    """
    left, right = np.repeat(tokens, chosen.shape[1]), chosen.reshape(-1)
    generator = np.random.default_rng(0)
    chance = [_plug_in(left, generator.permutation(right), vocab_size, num_experts) for _ in range(5)]
    return _plug_in(left, right, vocab_size, num_experts) - float(np.mean(chance))


def _plug_in(left: Ids, right: Ids, lefts: int, rights: int) -> float:
    p = np.bincount(left * rights + right, minlength=lefts * rights).reshape(lefts, rights) / len(left)
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    seen = p > 0
    return float((p[seen] * np.log2(p[seen] / independent[seen])).sum())


def usage(tokens: Ids, chosen: Ids, vocab_size: int, num_experts: int) -> tuple[LayerUsage, ...]:
    """chosen: [layers, tokens, top_k]."""
    rows = []
    for layer, experts in enumerate(chosen):
        share = shares(experts, num_experts)
        p = share[share > 0] / num_experts
        rows.append(
            LayerUsage(
                layer=layer,
                busiest_share=float(share.max()),
                idlest_share=float(share.min()),
                expert_entropy_bits=float(-(p * np.log2(p)).sum()),
                mutual_information_bits=mutual_information(tokens, experts, vocab_size, num_experts),
            )
        )
    return tuple(rows)
