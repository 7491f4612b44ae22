"""The sampler against a straightforward reference, against transformers' processors, and as a distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from moestro.config import SamplingParams
from moestro.gen.filters import keep_top_p
from moestro.gen.logprobs import log_softmax, token_logprobs
from moestro.gen.penalties import Penalties
from moestro.gen.sampler import Sampler, candidates


def softmax(logits):
    exponents = [math.exp(value - max(logits)) for value in logits]
    return [value / sum(exponents) for value in exponents]


def reference_candidates(logits, params):
    """The documented order, one plain Python step after the other: which ids may be drawn."""
    # From the best: logits that differ by less than it can show are equally likely.
    scaled = [(value - max(logits)) / params.temperature for value in logits]
    ids = list(range(len(scaled)))
    probability = softmax(scaled)
    if params.min_p > 0:
        ids = [i for i in ids if probability[i] >= params.min_p * max(probability)]
    if 0 < params.top_k < len(ids):
        least = sorted((scaled[i] for i in ids), reverse=True)[params.top_k - 1]
        ids = [i for i in ids if scaled[i] >= least]
    if params.top_p < 1:
        total = sum(probability[i] for i in ids)
        kept, gathered = [], 0.0
        for i in sorted(ids, key=lambda i: (-scaled[i], i)):
            if gathered < params.top_p * total:
                kept.append(i)
            gathered += probability[i]
        ids = sorted(kept)
    return ids


logit_rows = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-20, 20, width=32))
settings_strategy = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 2.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    top_k=st.sampled_from([-1, 0, 1, 2, 5, 100]),
    # Odd numbers: sums of equal probabilities must not land on the border, where rounding decides.
    top_p=st.sampled_from([0.10007, 0.33331, 0.50003, 0.90001, 0.99903, 1.0]),
)


@given(logit_rows, settings_strategy)
def test_candidates_equal_the_reference(row, params):
    logits = row.astype(np.float64)
    ids, kept = candidates(logits, params)
    assert ids.tolist() == reference_candidates(logits.tolist(), params)
    expected = (logits[ids] - logits.max()) / params.temperature
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
    ("params", "warper"),
    [
        (SamplingParams(top_k=7), TopKLogitsWarper(7)),
        (SamplingParams(top_p=0.8), TopPLogitsWarper(0.8)),
        (SamplingParams(min_p=0.05), MinPLogitsWarper(0.05)),
        (SamplingParams(temperature=0.6), TemperatureLogitsWarper(0.6)),
    ],
    ids=["top_k", "top_p", "min_p", "temperature"],
)
def test_each_filter_leaves_what_transformers_leaves(params, warper):
    rng = np.random.default_rng(0)
    for _ in range(50):
        row = rng.normal(0, 3, 500)
        scores = warper(None, torch.from_numpy(row)[None]).numpy()[0]
        ids, kept = candidates(row, params)
        np.testing.assert_array_equal(ids, np.flatnonzero(np.isfinite(scores)))
        np.testing.assert_allclose(np.exp(kept) / np.exp(kept).sum(), softmax(scores[ids]), rtol=1e-12)


def test_repetition_penalty_equals_transformers():
    rng = np.random.default_rng(1)
    row, seen = rng.normal(0, 3, 100), [3, 5, 5, 17, 99]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), torch.from_numpy(row)[None]).numpy()[0]
    penalties = Penalties(SamplingParams(repetition_penalty=1.3), seen[:3])
    for token in seen[3:]:
        penalties.note(token)
    logits = row.copy()
    penalties.apply(logits)
    np.testing.assert_allclose(logits, expected, rtol=1e-15)


def test_presence_and_frequency_count_the_answer_only():
    penalties = Penalties(SamplingParams(presence_penalty=0.5, frequency_penalty=0.25), [0, 1])
    for token in (1, 2, 2, 2):
        penalties.note(token)
    logits = np.zeros(4)
    penalties.apply(logits)
    np.testing.assert_array_equal(logits, [0, -0.75, -1.25, 0])


def test_greedy_takes_the_lowest_of_equals():
    sampler = Sampler(SamplingParams(temperature=0), [])
    assert sampler(np.array([0, 3, 3, 1], np.float32)).token == 1


def test_penalties_reach_greedy_sampling():
    sampler = Sampler(SamplingParams(temperature=0, frequency_penalty=1.0), [])
    row = np.array([0, 1.5, 1.0], np.float32)
    assert [sampler(row).token for _ in range(4)] == [1, 2, 1, 0]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1),
        SamplingParams(seed=2, temperature=0.5),
        SamplingParams(seed=3, top_k=3, top_p=0.9, min_p=0.01),
    ],
)
def test_draws_follow_the_distribution(params):
    row = np.random.default_rng(4).normal(0, 1.5, 12).astype(np.float32)
    draws = 8000
    sampler = Sampler(params, [])
    counts = np.bincount([sampler(row).token for _ in range(draws)], minlength=row.size)
    ids = reference_candidates(row.astype(np.float64).tolist(), params)
    expected = np.zeros(row.size)
    expected[ids] = softmax([float(row[i]) / params.temperature for i in ids])
    assert counts[expected == 0].sum() == 0
    spread = np.sqrt(draws * expected * (1 - expected)) + 1e-9
    assert np.abs((counts - draws * expected) / spread)[expected > 0].max() < 4.5


def test_seed_decides_and_answers_differ():
    row = np.random.default_rng(5).normal(0, 1, 50).astype(np.float32)

    def draw(seed, index):
        sampler = Sampler(SamplingParams(seed=seed), [], index)
        return [sampler(row).token for _ in range(30)]

    assert draw(7, 0) == draw(7, 0)
    assert draw(7, 0) != draw(7, 1)
    assert draw(7, 0) != draw(8, 0)
    assert draw(-1, 0) == draw(-1, 0)
    assert draw(None, 0) != draw(None, 0)


def test_tiny_temperature_does_not_overflow():
    sampler = Sampler(SamplingParams(temperature=2e-5, seed=0), [])
    assert sampler(np.array([-3e38, 1e30, 2e30], np.float32)).token == 2


def test_nucleus_wider_than_the_first_look():
    logits = np.zeros(5000)
    logits[4000] = 1.0
    assert keep_top_p(logits, 0.5).size == math.ceil(0.5 * (4999 + math.e) - math.e) + 1


@given(logit_rows, st.integers(0, 45), st.data())
def test_logprobs_are_ranked_and_normalised(row, alternatives, data):
    chosen = data.draw(st.integers(0, row.size - 1))
    entries = token_logprobs(row, chosen, alternatives)
    assert next(iter(entries)) == chosen
    order = sorted(range(row.size), key=lambda token: (-row[token], token))
    assert set(entries) == {chosen, *order[:alternatives]}
    expected = torch.log_softmax(torch.from_numpy(row).double(), 0).numpy()
    for token, entry in entries.items():
        assert entry.logprob == pytest.approx(expected[token], abs=1e-12)
        assert entry.rank == order.index(token) + 1


@settings(max_examples=20)
@given(logit_rows)
def test_log_softmax_sums_to_one(row):
    assert np.exp(log_softmax(row)).sum() == pytest.approx(1, abs=1e-12)


def test_logprobs_describe_the_model_not_the_penalties():
    row = np.array([1.0, 0.5, 0.0], np.float32)
    sampler = Sampler(SamplingParams(temperature=0, logprobs=1, presence_penalty=2.0), [])
    first, second = sampler(row), sampler(row)
    assert (first.token, second.token) == (0, 1)
    assert second.logprobs is not None
    assert list(second.logprobs) == [1, 0]
    assert second.logprobs[1].rank == 2
    assert second.logprobs[1].logprob == pytest.approx(float(log_softmax(row)[1]))
