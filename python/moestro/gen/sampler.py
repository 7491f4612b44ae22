"""The sampler: finished float32 logits of one row -> one token. float64 inside, vLLM's meanings and order:
penalties, temperature, min_p, top_k, top_p, draw.

Every answer draws from its own counter-based generator, one number per token, so what it says depends on its seed and
its logits only, never on what else runs in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moestro.config import SamplingParams
from moestro.gen.filters import keep_min_p, keep_top_k, keep_top_p
from moestro.gen.logprobs import Logprob, token_logprobs
from moestro.gen.penalties import Penalties


@dataclass(frozen=True)
class Sampled:
    token: int
    logprobs: dict[int, Logprob] | None  # where SamplingParams.logprobs asks for them


class Sampler:
    """The sampler of answer number `index` to one prompt. Used by one thread."""

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], index: int = 0) -> None:
        self._params = params
        self._penalties = Penalties(params, prompt_ids)
        seed = None if params.seed is None else params.seed % 2**128
        self._random = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(index,))))

    def __call__(self, logits: NDArray[np.float32]) -> Sampled:
        """logits [vocab], finite, not changed."""
        token = self._choose(logits)
        self._penalties.note(token)
        if self._params.logprobs is None:
            return Sampled(token, None)
        return Sampled(token, token_logprobs(logits, token, self._params.logprobs))

    def _choose(self, logits: NDArray[np.float32]) -> int:
        if self._params.greedy and not self._penalties.active:
            return int(np.argmax(logits))  # the first of equals: the lowest id
        penalised = logits.astype(np.float64)
        self._penalties.apply(penalised)
        if self._params.greedy:
            return int(np.argmax(penalised))
        ids, kept = candidates(penalised, self._params)
        gathered = np.cumsum(np.exp(kept - kept.max()))
        place = np.searchsorted(gathered, self._random.random() * gathered[-1], side="right")
        return int(ids[min(int(place), ids.size - 1)])


def candidates(logits: NDArray[np.float64], params: SamplingParams) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Penalised logits [vocab] -> ids of the tokens that may be drawn (ascending) and their logits over temperature."""
    kept = (logits - logits.max()) / params.temperature  # at most 0, so a tiny temperature cannot overflow to +inf
    ids = np.arange(kept.size)
    if params.min_p > 0.0:
        stay = keep_min_p(kept, params.min_p)
        ids, kept = ids[stay], kept[stay]
    if 0 < params.top_k < kept.size:
        stay = keep_top_k(kept, params.top_k)
        ids, kept = ids[stay], kept[stay]
    if params.top_p < 1.0:
        stay = keep_top_p(kept, params.top_p)
        ids, kept = ids[stay], kept[stay]
    return ids, kept
