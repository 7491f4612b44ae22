"""The trained models of the package: what they promise, measured; transformers is the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moestro import LLM, SamplingParams
from moestro.checkpoint.built_in import built_in_directory, built_in_models
from moestro.demo.budget import PREFILL_CHUNK, quarter_budget
from moestro.errors import UsageError
from moestro.text.model_text import read_model_text

DATA = Path(__file__).parents[2] / "data" / "demo"
PROMPTS = ("class Queue:\n", "import os\n\ndef read(path):\n", "The experts of this model")
WINDOW = 512


def report(directory: Path) -> dict:
    return json.loads((directory / "report.json").read_text())


def held_out_windows(model: str, count: int) -> np.ndarray:
    """[count, WINDOW + 1] token ids of the held-out text."""
    ids = read_model_text(built_in_directory(model)).encode((DATA / "held_out.txt").read_text())
    return np.stack([ids[at : at + WINDOW + 1] for at in range(0, count * WINDOW, WINDOW)])


def perplexity(llm: LLM, windows: np.ndarray) -> float:
    losses = []
    for window in windows:
        logits = llm.logits(window[:-1].tolist()).astype(np.float64)
        top = logits.max(axis=1)
        log_total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        losses.append(log_total - logits[np.arange(WINDOW), window[1:]])
    return float(np.exp(np.mean(losses)))


def test_names() -> None:
    assert built_in_models() == ("moestro:demo", "moestro:draft")
    for name in ("moestro:", "moestro:nothing", "moestro:../demo"):
        with pytest.raises(UsageError, match="moestro:demo, moestro:draft"):
            built_in_directory(name)


@pytest.mark.parametrize(("model", "limit"), [("moestro:demo", 12_000_000), ("moestro:draft", 4_000_000)])
def test_they_are_small(model: str, limit: int) -> None:
    assert sum(path.stat().st_size for path in built_in_directory(model).rglob("*.safetensors")) <= limit


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("model", ["moestro:demo", "moestro:draft"])
def test_greedy_text_is_that_of_transformers(model: str, prompt: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = built_in_directory(model)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    settings = {"do_sample": False, "temperature": None, "top_p": None, "repetition_penalty": 1.0, "max_new_tokens": 48}
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, ids.shape[1] :].tolist()
    with LLM(model, kv_dtype="f32", host_memory="64MiB", say=None) as llm:
        [output] = llm.generate(prompt, SamplingParams(max_tokens=48, temperature=0.0))
    assert list(output.outputs[0].token_ids) == expected
    assert output.outputs[0].text == tokenizer.decode(expected, skip_special_tokens=True)


def test_it_has_learned_more_than_a_trigram_model_and_rounding_costs_little() -> None:
    found = report(built_in_directory("moestro:demo"))
    assert found["perplexity"] <= found["trigram_perplexity"] / 2
    windows = held_out_windows("moestro:demo", 16)
    results = {}
    for format in ("auto", "q8", "q4"):
        with LLM("moestro:demo", format=format, host_memory="64MiB", say=None) as llm:
            results[format] = perplexity(llm, windows)
    assert results["auto"] <= found["trigram_perplexity"] / 2
    assert results["q8"] <= 1.005 * results["auto"]
    assert results["q4"] <= 1.05 * results["auto"]


def test_a_quarter_of_the_experts_gives_the_same_text_and_real_routing_hits() -> None:
    def run(memory: int | str) -> tuple[str, float]:
        with LLM("moestro:demo", host_memory=memory, prefill_chunk=PREFILL_CHUNK, say=None) as llm:
            [output] = llm.generate(PROMPTS[0], SamplingParams(max_tokens=64, seed=1, temperature=0.7))
            stats = llm.stats()
        assert stats is not None
        return output.outputs[0].text, stats.hit_rate

    text, _ = run("64MiB")
    short, hit_rate = run(quarter_budget(built_in_directory("moestro:demo")))
    assert short == text
    # Above an even draw from a quarter that is resident: routing repeats itself from token to token.
    assert hit_rate > 0.25


def test_routing_is_neither_collapsed_nor_the_same_for_every_token() -> None:
    found = report(built_in_directory("moestro:demo"))
    assert len(found["layers"]) == 8
    trace = np.load(DATA / "routing.npz")
    tokens, chosen, weights = trace["tokens"], trace["chosen"], trace["weights"]
    assert chosen.shape == weights.shape == (8, len(tokens), 4)
    assert np.abs(weights.astype(np.float32).sum(-1) - 1).max() < 0.01
    for layer, row in enumerate(found["layers"]):
        assert row["idlest_share"] >= 0.2  # none collapsed
        assert row["mutual_information_bits"] > 0.1
        shares = np.bincount(chosen[layer].reshape(-1), minlength=32) / chosen[layer].size * 32
        assert shares.min() > 0.1
        assert shares.max() == pytest.approx(row["busiest_share"], rel=0.5)
        spread = np.bincount(chosen[layer][tokens == np.bincount(tokens).argmax()].reshape(-1), minlength=32)
        assert spread.max() / spread.sum() > 2 * shares.max() / 32


def test_the_trace_is_what_transformers_routes() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    trace = np.load(DATA / "routing.npz")
    theirs = AutoModelForCausalLM.from_pretrained(built_in_directory("moestro:demo"), dtype=torch.float32)
    tokens = torch.from_numpy(trace["tokens"][:WINDOW].astype(np.int64))[None]
    with torch.no_grad():
        routers = theirs(tokens, output_router_logits=True).router_logits
    theirs_chosen = np.stack([layer.topk(4).indices.numpy() for layer in routers])
    same = np.sort(theirs_chosen, -1) == np.sort(trace["chosen"][:, :WINDOW], -1)
    assert same.mean() > 0.99  # the trace was recorded before the weights were rounded to bf16


def test_the_pre_gated_model_is_whole_and_small_and_has_learned() -> None:
    from safetensors import safe_open

    config = json.loads((DATA / "pre_gated/config.json").read_text())
    with safe_open(DATA / "pre_gated/model.safetensors", "np") as file:
        names = set(file.keys())
    gates = [f"model.layers.{layer}.mlp.pre_gate.weight" for layer in range(config["num_hidden_layers"] - 1)]
    assert {"model.layers.0.mlp.gate.weight", *gates} == {name for name in names if "gate.weight" in name}
    assert (DATA / "pre_gated/model.safetensors").stat().st_size <= 4_000_000
    with LLM(str(DATA / "pre_gated"), prefetch="pre_gated", kv_dtype="f32", host_memory="64MiB", say=None) as llm:
        measured = perplexity(llm, held_out_windows("moestro:demo", 16))
    assert measured <= 0.8 * report(DATA / "pre_gated")["trigram_perplexity"]
