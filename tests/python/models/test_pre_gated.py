"""Models whose routers choose the next layer's experts: the trained one against its definition in
tools/demo_training/pre_gated.py, which transformers' own reading of everything else surrounds."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import nmse, prompt
from tiny_runtime import greedy, logits_of, opened

from moestro import LLM, SamplingParams, core
from moestro.errors import CheckpointError, UsageError
from moestro.models.registry import open_checkpoint, read_spec
from moestro.models.spec import MoeSpec
from moestro.models.spec_check import impossible_values
from moestro.models.spec_json import spec_from_json, spec_to_json
from moestro.models.work_sizes import work_sizes
from moestro.pack import pack_checkpoint
from moestro.trace.routing import write_routing_trace

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "tests" / "data" / "demo" / "pre_gated"
VOCAB, LAYERS, EXPERTS = 2048, 6, 16
TOKENS = prompt(44, vocab=VOCAB)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Any]:
    """The torch model with the checkpoint's tensors, in float32."""
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from demo_training.pre_gated import make_pre_gated
    finally:
        sys.path.pop(0)
    torch.set_num_threads(1)
    values = json.loads((MODEL / "config.json").read_text())
    config = Qwen3MoeConfig(**{key: values[key] for key in values.keys() - {"model_type", "architectures", "dtype"}})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")
    model = make_pre_gated(model)
    model.load_state_dict(state_of(MODEL))
    yield model


def state_of(directory: Path) -> dict[str, Any]:
    """The checkpoint's tensors under the names that transformers has in memory: experts in two tensors per layer."""
    tensors = {name: tensor.to(torch.float32) for name, tensor in load_file(directory / "model.safetensors").items()}
    state = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}.mlp.experts."

        def every(part: str, prefix: str = prefix) -> list[Any]:
            return [tensors[f"{prefix}{expert}.{part}_proj.weight"] for expert in range(EXPERTS)]

        pairs = zip(every("gate"), every("up"), strict=True)
        state[prefix + "gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
        state[prefix + "down_proj"] = torch.stack(every("down"))
    return state


def oracle_logits(oracle: Any, ids: Any) -> Any:
    with torch.no_grad():
        return oracle(torch.tensor(np.asarray(ids, np.int64))[None], use_cache=False).logits[0].numpy()


def oracle_greedy(oracle: Any, ids: Any, count: int) -> list[int]:
    tokens = [int(token) for token in ids]
    for _ in range(count):
        tokens.append(int(oracle_logits(oracle, tokens)[-1].argmax()))
    return tokens[len(ids) :]


def logits(directory: Path, **settings: Any) -> Any:
    given = {"host_memory": "64MiB", "threads": 2, "kv_dtype": "f32", "say": None, **settings}
    with LLM(directory, **given) as llm:
        return llm.logits(TOKENS)


@pytest.mark.parametrize("length", [1, 7, 64])
def test_logits_and_greedy_tokens_are_those_of_the_definition(length: int, oracle: Any) -> None:
    ids = prompt(length, vocab=VOCAB)
    with opened(MODEL) as model:
        assert nmse(logits_of(model, ids), oracle_logits(oracle, ids)) <= 1e-10
        assert greedy(model.decoder, ids, 24) == oracle_greedy(oracle, ids, 24)


def test_the_definition_is_not_that_of_qwen3_moe(tmp_path: Path, oracle: Any) -> None:
    """The bound means something: the same weights, each layer's router reading its own input, are far outside it."""
    copy = tmp_path / "own_input"
    shutil.copytree(MODEL, copy)
    tensors = load_file(copy / "model.safetensors")
    for layer in range(LAYERS - 1):
        gate = tensors.pop(f"model.layers.{layer}.mlp.pre_gate.weight")
        tensors[f"model.layers.{layer + 1}.mlp.gate.weight"] = gate
    save_file(tensors, copy / "model.safetensors")
    change(copy, model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"])
    with opened(copy) as model:
        assert nmse(logits_of(model, TOKENS), oracle_logits(oracle, TOKENS)) > 1e-3


def test_chunks_of_a_prompt_do_not_change_a_bit() -> None:
    ids = prompt(90, vocab=VOCAB)
    with opened(MODEL) as model:
        whole = logits_of(model, ids)
        for chunk in (1, 7, 64):
            np.testing.assert_array_equal(logits_of(model, ids, chunk=chunk), whole)


@pytest.mark.parametrize("format", ["in place", "bf16", "q8"])
def test_placement_does_not_change_a_bit(format: str, tmp_path: Path) -> None:
    in_place = format == "in place"
    directory = MODEL if in_place else pack_checkpoint(MODEL, tmp_path / format, format, threads=2)
    whole = logits(directory)
    if format == "bf16":
        np.testing.assert_array_equal(whole, logits(MODEL))
    placements: tuple[dict[str, Any], ...] = (
        {"threads": 1, "expert_slots": 2},
        {"expert_slots": 2, "prefetch": "pre_gated"},
        {"threads": 3, "stream": "interleave", "prefill_chunk": 9, "prefetch": "pre_gated"},
        {"host_memory": "min"},
    )
    for settings in placements:
        np.testing.assert_array_equal(logits(directory, **settings), whole)


@pytest.mark.parametrize("slots", [2, 20, 96])
@pytest.mark.parametrize("chunk", [1, 16])
def test_what_is_read_ahead_is_what_is_used(slots: int, chunk: int) -> None:
    def run(**settings: Any) -> tuple[Any, Any, Any]:
        given = {"host_memory": "64MiB", "threads": 2, "kv_dtype": "f32", "say": None, "prefill_chunk": chunk}
        with LLM(MODEL, **given, **settings) as llm:
            scores = llm.logits(TOKENS)
            sampling = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
            # Two prompts: some steps have rows of both.
            outputs = llm.generate([TOKENS.tolist(), TOKENS[:9].tolist()], sampling)
            return scores, [output.outputs[0].token_ids for output in outputs], llm.stats()

    plain, plain_answers, _ = run()
    scores, answers, stats = run(prefetch="pre_gated", expert_slots=slots)
    np.testing.assert_array_equal(scores, plain)
    assert answers == plain_answers
    first, *later = stats.prefetch
    assert len(later) == LAYERS - 1
    assert first["steps"] > 0 and first["hinted"] == first["foreseen"] == 0
    for layer in later:
        assert layer["steps"] == first["steps"]
        assert layer["foreseen"] == layer["needed"] == layer["hinted"] > 0
    assert stats.precision == 1.0
    assert replace(stats, prefetch=tuple(later)).recall == 1.0


@pytest.mark.parametrize("prefetch", ["next_gate", "impact"])
def test_who_looks_ahead_sees_the_choices_themselves(prefetch: str, tmp_path: Path) -> None:
    """Recorded logits are off by nothing, and what was recorded is of use; further than one layer nobody can see."""
    given = {"host_memory": "64MiB", "threads": 2, "kv_dtype": "f32", "say": None, "prefill_chunk": 16}
    with LLM(MODEL, **given, record_tokens=len(TOKENS), record_ahead=3) as llm:
        plain = llm.logits(TOKENS)
        trace = llm.routing()
    assert trace.offsets is not None and not trace.offsets.any()
    ahead = trace.arrays["ahead_ids"]
    np.testing.assert_array_equal(np.sort(ahead[1:, 0, :, :2], axis=-1), np.sort(trace.chosen[1:], axis=-1))
    assert ahead.shape[1] == 1 or bool((ahead[:, 1:] == -1).all())
    write_routing_trace(tmp_path / "trace.npz", trace)
    with LLM(MODEL, **given, prefetch=prefetch, prefetch_trace=tmp_path / "trace.npz", expert_slots=20) as llm:
        np.testing.assert_array_equal(llm.logits(TOKENS), plain)


def test_the_plan_counts_what_layers_hand_on() -> None:
    spec = open_checkpoint(MODEL).spec
    with_it, without = work_sizes(spec), work_sizes(spec) | {"pre_gated": False}
    rows = 4096
    more = core.Workspace.nbytes(max_rows=rows, **with_it) - core.Workspace.nbytes(max_rows=rows, **without)
    assert more == 4 * rows * EXPERTS
    with opened(MODEL, host_memory="min", prefetch="pre_gated") as model:
        assert model.runtime.ledger.held + model.runtime.ledger.free == model.plan.least


def test_other_models_refuse_the_predictor(tiny_checkpoint: Callable[[str], Path]) -> None:
    for name in ("qwen3_moe", "llama"):
        with pytest.raises(UsageError, match=rf"prefetch: 'pre_gated' needs a model .* and {name} is none"):
            LLM(tiny_checkpoint(name), prefetch="pre_gated", say=None)
    with pytest.raises(UsageError, match="prefetch_trace: 'pre_gated' asks the model itself"):
        LLM(MODEL, prefetch="pre_gated", prefetch_trace="trace.npz", say=None)


def test_the_spec_says_which_layers_are_pre_gated() -> None:
    spec = open_checkpoint(MODEL).spec
    moe = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    assert [mlp.pre_gated for mlp in moe] == [False, True, True, True, True, True]
    assert spec.model_type == "pre_gated_qwen3_moe"
    assert spec_from_json(spec_to_json(spec), "spec") == spec
    assert not list(impossible_values(spec))
    assert list(impossible_values(replace(spec, layers=spec.layers[1:]))) == [
        "model: pre_gated is impossible or unknown"
    ]


@pytest.mark.parametrize("changes", [{"mlp_only_layers": [2]}, {"decoder_sparse_step": 2}])
def test_a_dense_layer_is_refused(changes: dict[str, Any]) -> None:
    config = json.loads((MODEL / "config.json").read_text())
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        read_spec(config | changes)


def test_a_missing_and_a_leftover_gate_are_named(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "copy")
    path = tmp_path / "copy" / "model.safetensors"
    tensors = load_file(path)
    gate = tensors.pop("model.layers.2.mlp.pre_gate.weight")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.mlp\.pre_gate\.weight"):
        open_checkpoint(path.parent)
    tensors |= {"model.layers.2.mlp.pre_gate.weight": gate, "model.layers.5.mlp.pre_gate.weight": gate.clone()}
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"model\.layers\.5\.mlp\.pre_gate\.weight"):
        open_checkpoint(path.parent)


def change(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
