"""Rotary frequencies of a step's rows, for every scaling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moestro._core import F32, I64
from moestro.models import rope
from moestro.models.spec import QueryTemperature, RopeSpec
from moestro.models.step import Segment


class Rotary:
    """Frequencies of a model: computed once, or per row where the scaling depends on the length."""

    def __init__(self, spec: RopeSpec, head_dim: int) -> None:
        self._spec = spec
        self._head_dim = head_dim
        self.factor = rope.attention_factor(spec)  # cos and sin are multiplied by it
        self._fixed = None if rope.depends_on_length(spec) else rope.inv_freq(spec, head_dim)

    def frequencies(self, positions: I64, segments: Sequence[Segment]) -> F32:
        """positions [rows] -> [head_dim / 2] for all rows, or [rows, head_dim / 2]."""
        return self._per_row(positions, segments) if self._fixed is None else self._fixed

    def _per_row(self, positions: I64, segments: Sequence[Segment]) -> F32:
        """Rows of one prompt share a length, so few sets are computed."""
        prompts = np.repeat([s.prompt_length for s in segments], [s.rows for s in segments])
        lengths, row_set = np.unique(np.maximum(prompts, positions + 1), return_inverse=True)
        sets = np.stack([rope.inv_freq(self._spec, self._head_dim, int(length)) for length in lengths])
        return np.ascontiguousarray(sets[row_set])


def query_factors(temperature: QueryTemperature | None, positions: I64) -> F32 | None:
    """What queries are multiplied by where attention sees no positions: [rows], in float32 as transformers does."""
    if temperature is None:
        return None
    steps = np.floor((positions + 1).astype(np.float32) / np.float32(temperature.floor_scale))
    growth = np.log1p(steps.astype(np.float64)).astype(np.float32)
    factors: F32 = growth * np.float32(temperature.scale) + np.float32(1)
    return factors
