"""Reading ahead in real runs: the same bits whoever foresees, and counters that agree with each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from moestro import LLM, SamplingParams
from moestro.config import POLICIES
from moestro.gen.stats import RunStats
from moestro.trace.path_weights import write_path_weights
from moestro.trace.routing import write_routing_trace

TOKENS = tiny_models.prompt(40)
PREDICTORS = ("auto", "next_gate", "next_gate with offsets", "impact", "transition", "activation", "path")
MODELS = ("qwen3_moe", "deepseek_v3", "llama4_text")
PARAMS = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
SLOTS = (4, 9)
VOCABULARY, WIDTH = 131, 8


def load(directory: Path, **settings: Any) -> LLM:
    return LLM(directory, **{"host_memory": "256MiB", "threads": 2, "kv_dtype": "f32", "say": None, **settings})


class Known:
    """A model's answers with everything in memory, and what can be learnt from its routing."""

    def __init__(self, directory: Path, folder: Path) -> None:
        self.directory, self.trace, self.weights = directory, folder / "trace.npz", folder / "path.npz"
        with load(directory, prefill_chunk=len(TOKENS), record_tokens=200, record_ahead=3) as llm:
            self.logits = llm.logits(TOKENS)
            self.answer = llm.generate([TOKENS.tolist()], PARAMS)[0].token_ids
            trace = llm.routing()
        write_routing_trace(self.trace, trace)
        self.experts = trace.array("experts").tolist()
        self._write_weights(self.experts)

    def _write_weights(self, experts: list[int]) -> None:
        rng, count = np.random.default_rng(0), sum(experts)
        shapes = {
            "embedding": (VOCABULARY, WIDTH),
            "hidden": (WIDTH, 2 * WIDTH),
            "hidden_bias": (WIDTH,),
            "output": (count, WIDTH),
            "output_bias": (count,),
            "correction": (count, WIDTH),
        }
        weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        write_path_weights(self.weights, weights, experts)

    def settings(self, policy: str, predictor: str) -> dict[str, Any]:
        prefetch, _, offsets = predictor.partition(" with ")
        file = {"path": self.weights, "next_gate": self.trace if offsets else None, "impact": None, "auto": None}.get(
            prefetch, self.trace
        )
        return {
            "policy": policy,
            "policy_trace": self.trace if policy == "static" else None,
            "prefetch": prefetch,
            "prefetch_trace": file,
        }


@pytest.fixture(scope="module")
def known(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Known]:
    made: dict[str, Known] = {}

    def of(name: str) -> Known:
        if name not in made:
            made[name] = Known(tiny_checkpoint(name), tmp_path_factory.mktemp("known"))
        return made[name]

    return of


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_nobody_who_foresees_changes_a_bit(
    name: str, policy: str, predictor: str, known: Callable[[str], Known]
) -> None:
    model = known(name)
    for slots in SLOTS:
        with load(model.directory, expert_slots=slots, prefill_chunk=9, **model.settings(policy, predictor)) as llm:
            np.testing.assert_array_equal(llm.logits(TOKENS), model.logits)
            assert llm.generate([TOKENS.tolist()], PARAMS)[0].token_ids == model.answer
            stats = llm.stats()
            assert stats is not None
            check(stats, len(model.experts))
            assert stats.peak_bytes <= stats.budget_bytes


def check(stats: RunStats, layers: int) -> None:
    """The counters of a predictor agree with each other and with the cache's."""
    assert len(stats.prefetch) == layers
    assert all(layer["steps"] == stats.steps for layer in stats.prefetch)
    for layer in stats.prefetch:
        assert layer["foreseen"] <= min(layer["needed"], layer["hinted"])
        assert layer["regretted"] <= stats.misses + stats.joined
        assert layer["off"] in (0, 1)
    assert sum(layer["needed"] for layer in stats.prefetch) == stats.hits + stats.misses + stats.joined
    started = sum(layer["started"] for layer in stats.prefetch)
    assert stats.reads >= stats.misses
    assert stats.recall is not None and 0 <= stats.recall <= 1
    if started == 0:
        assert not any(layer[name] for layer in stats.prefetch for name in ("used_bytes", "late_bytes", "wasted_bytes"))


def test_next_gate_foresees_what_routers_said(known: Callable[[str], Known]) -> None:
    model = known("qwen3_moe")
    with load(model.directory, expert_slots=9, **model.settings("lru", "next_gate")) as llm:
        llm.generate([TOKENS.tolist()], PARAMS)
        stats = llm.stats()
    assert stats is not None
    first, *others = stats.prefetch
    assert first["hinted"] == 0, "nobody is before the first layer"
    assert all(layer["hinted"] > 0 and layer["foreseen"] > 0 for layer in others)


def test_without_a_predictor_nothing_is_counted(known: Callable[[str], Known]) -> None:
    with load(known("qwen3_moe").directory, expert_slots=9) as llm:
        llm.generate([TOKENS.tolist()], PARAMS)
        stats = llm.stats()
    assert stats is not None
    assert (stats.prefetch, stats.recall, stats.precision) == ((), None, None)
