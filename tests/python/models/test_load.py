"""Loading: what the plan says is what the ledger is charged, and what cannot be is refused before a weight is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tiny_models import prompt
from tiny_runtime import logits_of, opened

from moestro import LLM, _core
from moestro.config import EngineConfig
from moestro.errors import BudgetError, CheckpointError, UsageError
from moestro.models import load
from moestro.models.load import LoadedModel, load_model
from moestro.models.opening import open_model
from moestro.pack import pack_checkpoint
from moestro.plan.memory import plan_memory

Checkpoints = Callable[[str], Path]


@pytest.fixture(scope="module")
def packed(tiny_checkpoint: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    made: dict[tuple[str, str], Path] = {}

    def pack(name: str, format: str) -> Path:
        key = name, format
        if key not in made:
            target = tmp_path_factory.mktemp("packed") / f"{name}-{format}"
            made[key] = pack_checkpoint(tiny_checkpoint(name), target, format, threads=2)
        return made[key]

    return pack


def held(model: LoadedModel, name: str) -> int:
    return next(entry["bytes"] for entry in model.runtime.ledger.entries() if entry["name"] == name)


def check_plan(directory: Path, **settings: Any) -> None:
    """The model runs at the least budget, and the ledger holds what the plan's lines say."""
    with opened(directory, host_memory="min", **settings) as model:
        lines = {line.name: line.nbytes for line in model.plan.lines}
        assert model.runtime.ledger.budget == model.plan.least == sum(lines.values())
        for name in ("trunk", "scratch", "staging"):
            assert held(model, name) == lines[name]
        assert model.runtime.ledger.held + model.runtime.ledger.free == model.plan.least
        assert model.kv_pool.block_bytes == model.plan.kv_block_bytes
        if model.plan.expert_slots:
            assert lines["expert slots"] == 2 * model.runtime.residency()["slot_bytes"]
        with opened(directory, **settings) as roomy:
            ids = prompt(40)
            np.testing.assert_array_equal(logits_of(model, ids), logits_of(roomy, ids))


@pytest.mark.parametrize("name", tiny_models.SHORT)
def test_a_checkpoint_takes_what_its_plan_says(name: str, tiny_checkpoint: Checkpoints) -> None:
    check_plan(tiny_checkpoint(name))


@pytest.mark.parametrize("format", ["q8", "q4", "bf16", "f32"])
@pytest.mark.parametrize("name", ["qwen3_moe-dense-layers-biases", "llama-biases-dynamic"])
def test_a_store_takes_what_its_plan_says(name: str, format: str, packed: Callable[[str, str], Path]) -> None:
    check_plan(packed(name, format))


def test_formats_asked_for_in_place(tiny_checkpoint: Checkpoints) -> None:
    """bf16 weights computed as f32 are the same weights, so the same bits; only the memory differs."""
    directory, ids = tiny_checkpoint("qwen3_moe"), prompt(33)
    with opened(directory) as kept, opened(directory, format="f32") as wide:
        assert (kept.facts["expert_format"], wide.facts["expert_format"]) == ("bf16", "f32")
        assert held(wide, "trunk") > 1.5 * held(kept, "trunk")
        np.testing.assert_array_equal(logits_of(wide, ids), logits_of(kept, ids))
    with opened(directory, trunk_format="f32") as mixed:
        assert (mixed.facts["trunk_format"], mixed.facts["expert_format"]) == ("f32", "bf16")


def test_progress_counts_up_to_all_there_is(tiny_checkpoint: Checkpoints, packed: Callable[[str, str], Path]) -> None:
    for directory in (tiny_checkpoint("qwen3_moe-dense-layers-biases"), packed("qwen3_moe-dense-layers-biases", "q8")):
        seen: list[tuple[int, int]] = []
        config = EngineConfig(model=str(directory), host_memory="64MiB", threads=1)
        load_model(directory, config, lambda done, total, seen=seen: seen.append((done, total))).close()
        done, totals = zip(*seen, strict=True)
        assert list(done) == sorted(done)
        assert set(totals) == {done[-1]}


def test_a_budget_that_is_too_small_reads_nothing(
    tiny_checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny_checkpoint("qwen3_moe")
    config = EngineConfig(model=str(directory), host_memory="min", threads=1)
    least = plan_memory(open_model(directory, config).footprint(), config, 1).least

    def never(*_: Any) -> None:
        raise AssertionError("weights were read")

    with monkeypatch.context() as patch:
        patch.setattr(load, "load_resident", never)
        with pytest.raises(BudgetError, match=r"\(1 bytes\) are missing"):
            load_model(directory, replace(config, host_memory=least - 1))
    load_model(directory, replace(config, host_memory=least)).close()


def test_a_failed_load_gives_everything_back(tiny_checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[_core.Runtime] = []

    def runtime(**options: Any) -> _core.Runtime:
        made.append(_core.Runtime(**options))
        return made[-1]

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "Runtime", runtime)
    monkeypatch.setattr(load, "load_resident", fail)
    directory = tiny_checkpoint("qwen3_moe")
    with pytest.raises(KeyboardInterrupt):
        load_model(directory, EngineConfig(model=str(directory), host_memory="64MiB"))
    with pytest.raises(UsageError, match="closed"):
        made[0].begin_step(1)


def test_formats_that_need_packing_say_so(tiny_checkpoint: Checkpoints, packed: Callable[[str, str], Path]) -> None:
    with pytest.raises(UsageError, match=r"moestro pack .* --format q8"):
        open_model(tiny_checkpoint("llama"), EngineConfig(model="x", format="q8"))
    with pytest.raises(UsageError, match=r"moestro pack .* --format q4"):
        open_model(tiny_checkpoint("llama"), EngineConfig(model="x", trunk_format="q4"))
    store = packed("qwen3_moe-dense-layers-biases", "q8")
    with pytest.raises(UsageError, match=r"format 'q4': .* was packed as q8"):
        open_model(store, EngineConfig(model="x", format="q4"))
    with pytest.raises(UsageError, match=r"trunk_format 'bf16': .* was packed as q8"):
        open_model(store, EngineConfig(model="x", trunk_format="bf16"))
    assert open_model(store, EngineConfig(model="x", format="q8")).expert_formats == "q8"


def test_experts_of_different_types_are_refused(tiny_checkpoint: Checkpoints) -> None:
    opened_model: Any = open_model(tiny_checkpoint("qwen3_moe"), EngineConfig(model="x"))
    weights = opened_model._checkpoint.weights
    layer = weights.layers[1]
    odd = replace(layer.experts[3], up=replace(layer.experts[3].up, dtype="F16"))
    experts = (*layer.experts[:3], odd, *layer.experts[4:])
    layers = (weights.layers[0], replace(layer, experts=experts), *weights.layers[2:])
    opened_model._checkpoint = replace(opened_model._checkpoint, weights=replace(weights, layers=layers))
    runtime = _core.Runtime(threads=1, host_memory=1 << 26)
    with pytest.raises(CheckpointError, match="layer 1: expert 3"):
        opened_model.source(runtime, None).add_experts(1, "silu")
    runtime.close()


def test_a_scaled_context_may_be_used_whole(tiny_checkpoint: Checkpoints) -> None:
    """dynamic scaling starts where max_position_embeddings = 50 ends: what lies beyond must be reachable."""
    directory, ids = tiny_checkpoint("llama-biases-dynamic"), prompt(90)
    with LLM(directory, host_memory="64MiB", threads=1, kv_dtype="f32", max_model_len=100, say=None) as llm:
        assert tiny_models.nmse(llm.logits(ids), tiny_models.reference_logits(directory, ids)) <= 1e-10
    with pytest.raises(UsageError, match="made for 100 tokens"):
        LLM(directory, host_memory="64MiB", max_model_len=101, say=None)


def test_a_dense_model_has_no_expert_format(tiny_checkpoint: Checkpoints, packed: Callable[[str, str], Path]) -> None:
    for directory, format in ((tiny_checkpoint("llama"), "bf16"), (packed("llama", "q8"), "q8")):
        with opened(directory) as model:
            assert (model.facts["trunk_format"], model.facts["expert_format"]) == (format, None)


def test_the_trunk_format_is_all_that_counts_of_a_dense_model(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    """The arguments that packed a store open it."""
    packed = pack_checkpoint(tiny_checkpoint("llama"), tmp_path / "mixed", "q8", trunk_format="bf16", threads=1)
    with opened(packed, format="q8", trunk_format="bf16") as model:
        assert model.facts["trunk_format"] == "bf16"
    with pytest.raises(UsageError, match="packed as bf16"):
        open_model(packed, EngineConfig(model=str(packed), format="q8"))
