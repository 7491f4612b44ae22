"""The parts of the training tool that could be wrong without anybody noticing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def test_the_trigram_model_is_a_distribution_and_prefers_what_it_saw() -> None:
    from demo_training.ngram import trigram_perplexity

    random = np.random.default_rng(0)
    train = random.integers(0, 7, 4000)
    contexts = [np.array([a, b]) for a in range(7) for b in range(7)]
    for context in contexts:
        total = sum(1 / trigram_perplexity(train, np.append(context, next_token), 7) for next_token in range(7))
        assert total == pytest.approx(1.0, abs=1e-9)
    assert trigram_perplexity(train, random.integers(0, 7, 4000), 7) == pytest.approx(7, rel=0.05)
    pattern = np.arange(4000) % 7
    assert trigram_perplexity(pattern, pattern[:700], 7) < 1.01


def test_sorted_experts_are_those_of_transformers_with_their_gradients() -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    from demo_training.experts import register

    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tokens = torch.randint(0, 64, (2, 9))
    results = []
    for name in (register(), "eager"):
        model.set_experts_implementation(name)
        model.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for p in model.parameters()]))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert ours == pytest.approx(theirs, rel=1e-6)
    for our, their in zip(our_gradients, their_gradients, strict=True):
        assert (our - their).norm() <= 1e-5 * their.norm()


def test_mutual_information_is_none_for_independence_and_all_for_a_function() -> None:
    from demo_training.routing import mutual_information, usage

    random = np.random.default_rng(0)
    tokens = random.integers(0, 16, 20000)
    apart = random.integers(0, 8, (20000, 2))
    assert abs(mutual_information(tokens, apart, 16, 8)) < 1e-3
    assert mutual_information(tokens, (tokens % 8)[:, None], 16, 8) == pytest.approx(3.0, abs=0.01)
    [row] = usage(tokens, apart[None], 16, 8)
    assert 0.9 < row.idlest_share <= 1 <= row.busiest_share < 1.1
    assert row.expert_entropy_bits == pytest.approx(3.0, abs=0.01)


def test_a_pre_gate_chooses_for_the_next_layer() -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    from demo_training.pre_gated import make_pre_gated

    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
    )
    torch.manual_seed(0)
    model = make_pre_gated(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    inputs, choices = {}, {}
    for index, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda _, given, index=index: inputs.update({index: given[0]}))
        layer.mlp.experts.register_forward_pre_hook(lambda _, given, index=index: choices.update({index: given[1]}))
    model(input_ids=torch.randint(0, 64, (1, 5)))
    expected = [model.model.layers[0].mlp.gate, *(layer.mlp.pre_gate for layer in model.model.layers[:-1])]
    for index, gate in enumerate(expected):
        assert torch.equal(gate(inputs[max(0, index - 1)])[2], choices[index])
    assert not hasattr(model.model.layers[-1].mlp, "pre_gate")


def test_a_resumed_run_is_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    import torch

    from demo_training import training
    from demo_training.variants import VARIANTS, Phase

    monkeypatch.setattr(training, "STEPS_PER_CHECKPOINT", 2)
    phases = (Phase(3, 1e-3, batch=1, window=64, pooled_balance=0.01), Phase(1, 1e-3, batch=1, balance=0.01))
    variant = replace(VARIANTS["pre_gated"], phases=phases)
    ids = np.random.default_rng(0).integers(0, 2048, 2000)
    (tmp_path / "whole").mkdir()
    whole = training.train(variant, ids, tmp_path / "whole")

    real, calls = training.loss_of, []

    def stop_after_three(*arguments):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    (tmp_path / "broken").mkdir()
    monkeypatch.setattr(training, "loss_of", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        training.train(variant, ids, tmp_path / "broken")
    resumed = training.train(variant, ids, tmp_path / "broken")
    assert len(calls) == 6  # three, the one that stopped, and the two after the checkpoint
    for our, their in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(our, their)


def test_the_split_depends_on_names_alone_and_leaves_tests_out() -> None:
    from demo_training.corpus import HELD_OUT_PERCENT, read_corpus

    corpus = read_corpus()
    assert corpus == read_corpus()
    share = len(corpus.held_out) / (len(corpus.held_out) + len(corpus.train))
    assert HELD_OUT_PERCENT / 200 < share < HELD_OUT_PERCENT / 50
    assert not set(corpus.train) & set(corpus.held_out)


@pytest.mark.parametrize("place", ["tests/data/demo/pre_gated", "python/moestro/demo/models/draft"])
def test_the_variants_learned(place: str) -> None:
    found = json.loads((ROOT / place / "report.json").read_text())
    assert found["perplexity"] < 100  # of 2048 tokens
    assert all(row["mutual_information_bits"] > 0 and row["idlest_share"] > 0.2 for row in found["layers"])
