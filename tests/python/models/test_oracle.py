"""The decoder against transformers in float32 on the same weights: every family, every option of their configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tiny_models import nmse, prompt, reference_logits
from tiny_runtime import batch_of, greedy, logits_of, opened

from moestro.kv.blocks import KvSequence

Checkpoints = Callable[[str], Path]

PROMPTS = (1, 7, 64, 200)


@pytest.mark.parametrize("name", tiny_models.SHORT)
def test_logits_and_greedy_tokens_are_those_of_transformers(name: str, tiny_checkpoint: Checkpoints) -> None:
    directory = tiny_checkpoint(name)
    with opened(directory) as model:
        for length in PROMPTS:
            ids = prompt(length)
            assert nmse(logits_of(model, ids), reference_logits(directory, ids)) <= 1e-10
            assert greedy(model.decoder, ids, 24) == reference_greedy(directory, ids, 24)


@pytest.mark.parametrize("name", tiny_models.LONG)
def test_long_prompts(name: str, tiny_checkpoint: Checkpoints) -> None:
    directory = tiny_checkpoint(name)
    ids = prompt(4096)
    with opened(directory) as model:
        assert nmse(logits_of(model, ids), reference_logits(directory, ids)) <= 1e-8


# One of every shape class, and a dense one.
CLASSES = (
    "qwen2_moe",
    "granitemoeshared",
    "glm4_moe",
    "afmoe",
    "deepseek_v3",
    "gpt_oss",
    "llama4_text",
    "gemma3_text",
)


@pytest.mark.parametrize("name", CLASSES)
def test_prompts_of_unequal_length_in_one_batch(name: str, tiny_checkpoint: Checkpoints) -> None:
    """They step together, the shorter ones end earlier: each as if alone, to the bit, and as transformers has it."""
    directory = tiny_checkpoint(name)
    prompts = [prompt(length, seed=length) for length in (150, 3, 71)]
    with opened(directory) as model:
        alone = [logits_of(model, ids) for ids in prompts]
        sequences = [KvSequence(model.kv_pool) for _ in prompts]
        rows: list[list[Any]] = [[] for _ in prompts]
        for begin in range(0, 150, 50):
            going = [which for which, ids in enumerate(prompts) if begin < len(ids)]
            parts = [(sequences[w], prompts[w][begin : begin + 50], len(prompts[w])) for w in going]
            logits = model.decoder.forward(batch_of(parts))
            for which, part in zip(going, parts, strict=True):
                rows[which].append(logits[: len(part[1])])
                logits = logits[len(part[1]) :]
        for sequence in sequences:
            sequence.close()
    for ids, own, together in zip(prompts, alone, rows, strict=True):
        np.testing.assert_array_equal(np.concatenate(together), own)
        assert nmse(own, reference_logits(directory, ids)) <= 1e-10


def by_family() -> dict[str, str]:
    """model_type -> the first of its tiny configs."""
    names: dict[str, str] = {}
    for name in tiny_models.SHORT:
        names.setdefault(tiny_models.CONFIGS[name]().model_type, name)
    return names


@pytest.mark.parametrize("name", by_family().values())
def test_chunks_of_a_prompt_do_not_change_a_bit(name: str, tiny_checkpoint: Checkpoints) -> None:
    ids = prompt(90)
    with opened(tiny_checkpoint(name)) as model:
        whole = logits_of(model, ids)
        for chunk in (1, 7, 64):
            np.testing.assert_array_equal(logits_of(model, ids, chunk=chunk), whole)


# What rounding keys and values costs: bf16 keeps 8 bits of significand, f16 keeps 11.
@pytest.mark.parametrize(("kv_dtype", "bound"), [("auto", 1e-3), ("bf16", 1e-3), ("f16", 2e-5)])
@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "qwen3-tied", "llama"])
def test_rounded_keys_and_values_cost_what_is_stated(
    name: str, kv_dtype: str, bound: float, tiny_checkpoint: Checkpoints
) -> None:
    directory = tiny_checkpoint(name)
    ids = prompt(200)
    want = reference_logits(directory, ids)
    with opened(directory, kv_dtype=kv_dtype) as model:
        got = logits_of(model, ids)
    row_errors = ((got - want) ** 2).sum(axis=1) / (want**2).sum(axis=1)
    # The median: a row whose router nearly ties may take another expert.
    assert 1e-10 < np.median(row_errors) <= bound


def test_float32_and_float16_checkpoints_keep_their_precision(tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        directory = tiny_models.write("qwen3_moe", tmp_path / dtype, dtype=dtype)
        ids = prompt(64)
        with opened(directory) as model:
            assert nmse(logits_of(model, ids), reference_logits(directory, ids)) <= 1e-10


def test_the_reference_notices_a_wrong_model(tiny_checkpoint: Checkpoints) -> None:
    """The bound means something: the same checkpoint without its head norms is far outside it."""
    ids = prompt(64)
    want = reference_logits(tiny_checkpoint("qwen3_moe"), ids)
    other = reference_logits(tiny_checkpoint("qwen3_moe-window"), ids)
    assert nmse(other, want) > 1e-3


def reference_greedy(directory: Path, ids: object, count: int) -> list[int]:
    import torch

    tokens = torch.tensor(np.asarray(ids, dtype=np.int64))[None]
    with torch.no_grad():
        answer = tiny_models.reference(directory).generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    return answer[0, tokens.shape[1] :].tolist()
