"""Routing traces made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moestro.trace.routing import RoutingTrace

RECORD = 4096  # bytes of an expert


def routing(
    chosen: Any, experts: int, *, rows: Sequence[int] | None = None, distances: int = 0, **more: Any
) -> RoutingTrace:
    """chosen [L, T, k], whose routers think of nothing else, and foresee themselves at `distances` distances.

    rows: tokens of each step; one each where it is None. more: further arrays.
    """
    chosen = np.asarray(chosen, np.int32)
    layers, tokens, _ = chosen.shape
    rows = [1] * tokens if rows is None else rows
    arrays = {
        "layers": np.arange(layers, dtype=np.int32),
        "experts": np.full(layers, experts, np.int32),
        "record_bytes": np.full(layers, RECORD, np.int64),
        "step_rows": np.asarray(rows, np.int32),
        "step_bytes": np.full(len(rows), layers * experts * RECORD, np.int64),
        "tokens": np.arange(tokens, dtype=np.int32),
        "accepted": np.ones(tokens, np.uint8),
        "best_ids": chosen,
        "best_scores": np.full(chosen.shape, 1 / chosen.shape[2], np.float32),
        "ahead_ids": np.repeat(chosen[:, None], distances, axis=1),
        "ahead_scores": np.full((layers, distances, *chosen.shape[1:]), 1 / chosen.shape[2], np.float32),
        "offsets": np.zeros((layers, distances, experts), np.float32),
    }
    for distance in range(1, distances + 1):
        arrays["ahead_ids"][:distance, distance - 1] = -1
        arrays["ahead_scores"][:distance, distance - 1] = 0
    return RoutingTrace(chosen, arrays | more, "a model")
