"""Repetition, presence and frequency penalties: a few logits change, so only those are touched."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from moestro.config import SamplingParams


class Penalties:
    """What has been said so far, for one answer. Repetition counts the prompt too; the others only the answer."""

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int]) -> None:
        self._repetition = params.repetition_penalty
        self._presence = params.presence_penalty
        self._frequency = params.frequency_penalty
        self.active = (self._repetition, self._presence, self._frequency) != (1.0, 0.0, 0.0)
        self._counts: dict[int, int] = {}  # token of the answer -> occurrences
        self._seen = set(prompt_ids) if self._repetition != 1.0 else set()

    def note(self, token: int) -> None:
        if self.active:
            self._counts[token] = self._counts.get(token, 0) + 1
            self._seen.add(token)

    def apply(self, logits: NDArray[np.float64]) -> None:
        """Changes logits [vocab] in place, in vLLM's order: repetition, then frequency, then presence."""
        if self._repetition != 1.0 and self._seen:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            values = logits[seen]
            logits[seen] = np.where(values > 0, values / self._repetition, values * self._repetition)
        if (self._presence or self._frequency) and self._counts:
            ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float64, len(self._counts))
            logits[ids] -= self._frequency * counts
            logits[ids] -= self._presence
