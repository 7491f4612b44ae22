"""Log-probabilities of the model itself: before penalties, temperature and filters, as vLLM reports them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Logprob:
    logprob: float  # natural logarithm
    rank: int  # 1 is the most likely token; equal logits rank by id
    decoded_token: str | None = None  # None where the model came without a tokenizer

    def named(self, text: str) -> Logprob:
        return replace(self, decoded_token=text)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """logits [vocab] -> log-probabilities [vocab], in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def token_logprobs(logits: NDArray[np.float32], chosen: int, alternatives: int) -> dict[int, Logprob]:
    """The chosen token first, then the `alternatives` most likely ones (the chosen one is not repeated)."""
    logprobs = log_softmax(logits)
    ids = [chosen, *_most_likely(logits, min(alternatives, logits.size))]
    return {token: Logprob(float(logprobs[token]), _rank(logits, token)) for token in dict.fromkeys(ids)}


def _most_likely(logits: NDArray[np.float32], count: int) -> list[int]:
    """Ids of the `count` largest logits, largest first, ties by id."""
    if count == 0:
        return []
    least = np.partition(logits, logits.size - count)[logits.size - count]
    candidates = np.flatnonzero(logits >= least)
    order = np.argsort(-logits[candidates], kind="stable")
    return [int(token) for token in candidates[order][:count]]


def _rank(logits: NDArray[np.float32], token: int) -> int:
    above = int(np.count_nonzero(logits > logits[token]))
    return 1 + above + int(np.count_nonzero(logits[:token] == logits[token]))
