"""Runs a model below the text level: tokens in, logits out, in any chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moestro.config import EngineConfig
from moestro.kv.blocks import KvSequence
from moestro.models.decoder import Decoder
from moestro.models.load import LoadedModel, load_model
from moestro.models.step import Segment, StepBatch


@contextmanager
def opened(directory: Path, **settings: Any) -> Iterator[LoadedModel]:
    """The model in `directory`; float32 KV and room for everything unless `settings` of EngineConfig say otherwise."""
    config = EngineConfig(
        **{"model": str(directory), "host_memory": "512MiB", "kv_dtype": "f32", "threads": 2} | settings
    )
    model = load_model(directory, config)
    try:
        yield model
        model.runtime.check_integrity()
    finally:
        model.close()


def batch_of(parts: Sequence[tuple[KvSequence, Any, int]], **changes: Any) -> StepBatch:
    """One step of (sequence, its next tokens, prompt length) parts; logits of every row are wanted."""
    segments, positions, at = [], [], 0
    for sequence, tokens, prompt_length in parts:
        segments.append(Segment(sequence, at, at + len(tokens), prompt_length))
        positions.append(np.arange(sequence.length, sequence.length + len(tokens), dtype=np.int64))
        at += len(tokens)
    tokens = np.concatenate([np.asarray(tokens, dtype=np.int32) for _, tokens, _ in parts])
    fields = {"token_ids": tokens, "positions": np.concatenate(positions), "segments": segments}
    return StepBatch(**{**fields, "logit_rows": range(at), **changes})


def logits_of(model: LoadedModel, token_ids: Any, *, chunk: int | None = None) -> Any:
    """float32 [T, vocab] of a prompt run alone, `chunk` rows at a time."""
    sequence = KvSequence(model.kv_pool)
    step = chunk or model.decoder.max_rows
    try:
        rows = [
            model.decoder.forward(batch_of([(sequence, token_ids[begin : begin + step], len(token_ids))]))
            for begin in range(0, len(token_ids), step)
        ]
    finally:
        sequence.close()
    return np.concatenate(rows)


def greedy(decoder: Decoder, prompt: Any, count: int) -> list[int]:
    """The `count` most likely tokens after the prompt, one at a time."""
    sequence = KvSequence(decoder.kv_pool)
    tokens: list[int] = []
    pending = list(prompt)
    try:
        while len(tokens) < count:
            chunk, pending = pending[: decoder.max_rows], pending[decoder.max_rows :]
            logits = decoder.forward(batch_of([(sequence, chunk, len(prompt))]))
            if not pending:
                tokens.append(int(np.argmax(logits[-1])))
                pending = tokens[-1:]
    finally:
        sequence.close()
    return tokens
