"""A smoothed 3-gram model as the yardstick: interpolated Kneser-Ney with one discount per order
(Kneser and Ney 1995; Chen and Goodman 1999, section 2.7), counted with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def _counts(keys: Ids) -> tuple[Ids, Ids]:
    values, counts = np.unique(keys, return_counts=True)
    return values, counts.astype(np.int64)


def _lookup(keys: Ids, values: NDArray[Any], queries: Ids) -> NDArray[Any]:
    """values[i] where keys[i] == query, else 0."""
    at = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[at] == queries, values[at], 0)


def _discount(counts: Ids) -> float:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once else 0.5  # no estimate: any value leaves a distribution


def trigram_perplexity(train: Ids, held_out: Ids, vocab_size: int) -> float:
    """Perplexity of held_out[2:] under the 3-gram model of `train`; both are streams of token ids."""
    size = vocab_size
    bigrams, _ = _counts(train[:-1] * size + train[1:])
    trigrams, trigram_counts = _counts((train[:-2] * size + train[1:-1]) * size + train[2:])

    # Lower orders count distinct left contexts, not occurrences (Kneser-Ney).
    unigram = np.bincount(bigrams % size, minlength=size).astype(np.float64)
    p1 = (unigram + 0.5) / (unigram.sum() + 0.5 * size)
    pairs, pair_contexts = _counts(trigrams % (size * size))

    a, b, c = held_out[:-2], held_out[1:-1], held_out[2:]

    d2 = _discount(pair_contexts)
    total2 = np.bincount(pairs // size, weights=pair_contexts, minlength=size)
    kinds2 = np.bincount(pairs // size, minlength=size)
    numerator = np.maximum(_lookup(pairs, pair_contexts, b * size + c) - d2, 0.0)
    seen2 = total2[b] > 0
    p2 = np.where(seen2, (numerator + d2 * kinds2[b] * p1[c]) / np.where(seen2, total2[b], 1.0), p1[c])

    d3 = _discount(trigram_counts)
    contexts, where = np.unique(trigrams // size, return_inverse=True)
    total3 = np.bincount(where, weights=trigram_counts)
    kinds3 = np.bincount(where)
    context = a * size + b
    total = _lookup(contexts, total3, context)
    numerator = np.maximum(_lookup(trigrams, trigram_counts, context * size + c) - d3, 0.0)
    seen3 = total > 0
    kinds = _lookup(contexts, kinds3, context)
    p3 = np.where(seen3, (numerator + d3 * kinds * p2) / np.where(seen3, total, 1.0), p2)
    return float(np.exp(-np.log(p3).mean()))
