"""Every eviction policy in real runs: the same bits, within the same slots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from moestro import LLM, SamplingParams
from moestro.config import POLICIES
from moestro.errors import CheckpointError, StorageError, UsageError

TOKENS = tiny_models.prompt(60)
SLOTS = 7  # a third of the experts


def load(directory: Path, **settings: Any) -> LLM:
    return LLM(directory, **{"host_memory": "256MiB", "threads": 2, "kv_dtype": "f32", "say": None, **settings})


def trace(directory: Path, layers: int = 3, experts: int = 7) -> Path:
    """Of a model whose layers use their first experts most."""
    chosen = np.random.default_rng(1).integers(0, experts, (layers, 50, 3))
    path = directory / "trace.npz"
    np.savez(path, chosen=np.minimum(chosen, chosen[:, ::-1]).astype(np.uint8))
    return path


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "llama4_text"])
def test_no_policy_changes_a_bit(
    name: str, policy: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = tiny_checkpoint(name)
    with load(directory, prefill_chunk=len(TOKENS)) as llm:
        plain = llm.logits(TOKENS)
        answer = llm.generate([TOKENS.tolist()], SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True))
    settings: dict[str, Any] = {"policy": policy}
    if policy == "static":
        settings["policy_trace"] = trace(tmp_path, *moe_shape(name))
    with load(directory, expert_slots=SLOTS, prefill_chunk=9, **settings) as llm:
        np.testing.assert_array_equal(llm.logits(TOKENS), plain)
        same = llm.generate([TOKENS.tolist()], SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True))
        stats = llm.stats()
        assert same[0].outputs[0].token_ids == answer[0].outputs[0].token_ids
        assert stats is not None and stats.evictions > 0


def moe_shape(name: str) -> tuple[int, int]:
    """Layers with experts, and experts of each."""
    from moestro.models.registry import read_spec
    from moestro.models.spec import MoeSpec

    values = tiny_models.CONFIGS[name]().to_dict()
    spec = read_spec({key: value for key, value in values.items() if value is not None})
    counts = [layer.mlp.num_experts for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    return len(counts), counts[0]


def test_static_goes_with_a_trace_and_a_trace_with_static(tiny_checkpoint: Callable[[str], Path]) -> None:
    directory = tiny_checkpoint("qwen3_moe")
    for settings in ({"policy": "static"}, {"policy_trace": "somewhere.npz"}):
        with pytest.raises(UsageError, match="policy_trace"):
            load(directory, **settings)
    with pytest.raises(UsageError, match=", ".join(POLICIES)):
        load(directory, policy="newest")


def test_a_trace_must_be_of_the_model(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    directory = tiny_checkpoint("qwen3_moe")
    with pytest.raises(CheckpointError, match="a trace of 2 layers with experts; the model has 3"):
        load(directory, policy="static", policy_trace=trace(tmp_path, layers=2))
    with pytest.raises(CheckpointError, match=r"layer 0 of the trace uses experts 0 to 3\d; the model has 7 there"):
        load(directory, policy="static", policy_trace=trace(tmp_path, experts=40))
    with pytest.raises(StorageError, match=r"nowhere\.npz"):
        load(directory, policy="static", policy_trace=tmp_path / "nowhere.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    np.savez(tmp_path / "other.npz", tokens=np.zeros(3))
    for name in ("broken.npz", "other.npz"):
        with pytest.raises(CheckpointError, match="not a routing trace"):
            load(directory, policy="static", policy_trace=tmp_path / name)
