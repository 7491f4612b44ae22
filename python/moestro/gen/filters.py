"""Which tokens stay candidates. Each filter maps logits [n] (float64, after temperature) to the indices that stay, in
ascending order; at least one always stays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float64]
Indices = NDArray[np.int64]

# A nucleus is nearly always found among this many tokens; sorting the whole vocabulary is the exception.
_FIRST_LOOK = 1024


def keep_min_p(logits: Logits, min_p: float) -> Indices:
    """Tokens with at least `min_p` times the probability of the most likely one."""
    return np.flatnonzero(np.exp(logits - logits.max()) >= min_p)


def keep_top_k(logits: Logits, k: int) -> Indices:
    """The k largest and whatever equals the last of them."""
    least = np.partition(logits, logits.size - k)[logits.size - k] if k < logits.size else -np.inf
    return np.flatnonzero(logits >= least)


def keep_top_p(logits: Logits, p: float) -> Indices:
    """The most likely tokens, ties by id, until their probability reaches `p`; the one that crosses it stays."""
    mass = p * float(np.exp(logits - logits.max()).sum())
    order, gathered = _gather(logits, keep_top_k(logits, _FIRST_LOOK))
    if gathered[-1] < mass:
        order, gathered = _gather(logits, np.arange(logits.size))
    before = np.concatenate([[0.0], gathered[:-1]])
    return np.sort(order[before < mass])


def _gather(logits: Logits, candidates: Indices) -> tuple[Indices, Logits]:
    """The candidates, most likely first, and the (unnormalised) probability gathered up to each."""
    order = candidates[np.argsort(-logits[candidates], kind="stable")]
    return order, np.cumsum(np.exp(logits[order] - logits.max()))
