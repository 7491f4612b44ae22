"""Rotary frequencies against transformers' own functions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from moestro.models.registry import read_spec
from moestro.models.rope import attention_factor, depends_on_length, effective_length, inv_freq

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 1.1},
    LLAMA3 | {"original_max_position_embeddings": 128},
    LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 64},
    YARN,
    YARN | {"truncate": False},
    YARN | {"beta_fast": 20, "beta_slow": 2.0},
    YARN | {"attention_factor": 1.25},
    YARN | {"mscale": 0.707, "mscale_all_dim": 1.0},
    {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 512},
    {"rope_type": "longrope", "original_max_position_embeddings": 128},
    {"rope_type": "longrope", "factor": 32.0, "original_max_position_embeddings": 400},
    {"rope_type": "longrope", "attention_factor": 1.19, "original_max_position_embeddings": 512},
]
LENGTHS = [None, 3, 512, 513, 700, 4096, 100_001]


def config(scaling: dict, theta: float, head_dim: int) -> dict:
    if scaling["rope_type"] == "longrope":
        steps = np.arange(head_dim // 2)
        factors = {"short_factor": (1 + 0.07 * steps).tolist(), "long_factor": (1.3 + steps**1.3).tolist()}
        scaling = {**scaling, **factors}
    return {
        "model_type": "llama",
        "vocab_size": 32,
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
        "head_dim": head_dim,
        "rope_parameters": {"rope_theta": theta, **scaling},
    }


CASES = [
    (scaling, theta, head_dim)
    for scaling in SCALINGS
    for theta in (1e4, 5e5, 1e6, 12345.678)
    for head_dim in (8, 20, 64, 128)
]


def exact_power(base: object, exponent: object) -> torch.Tensor:
    """base ** exponent with one rounding to float32; a Python number beside a tensor keeps its float64 value."""
    wide = [value.double() if isinstance(value, torch.Tensor) else value for value in (base, exponent)]
    if not isinstance(base, torch.Tensor):
        wide[0] = torch.tensor(base, dtype=torch.float32).double()
    return torch.pow(*wide).float()


def theirs(configs: list[dict]) -> list:
    """transformers' frequencies; lengths are tensors, as in a forward pass."""
    answers = []
    for values in configs:
        made = LlamaConfig(**values)
        kind = made.rope_parameters["rope_type"]
        function = ROPE_INIT_FUNCTIONS.get(kind, LlamaRotaryEmbedding.compute_default_rope_parameters)
        for length in LENGTHS if kind in ("dynamic", "longrope") else [None]:
            # A forward pass asks for another set only once a sequence outgrows the model, or its first training.
            limit = made.rope_parameters.get("original_max_position_embeddings", made.max_position_embeddings)
            grown = length is not None and length > (limit if kind == "longrope" else made.max_position_embeddings)
            frequencies, factor = function(made, device="cpu", seq_len=torch.tensor(length) if grown else None)
            answers.append((frequencies.numpy().view(np.int32), factor))
    return answers


def ours(configs: list[dict]) -> list:
    answers = []
    for values in configs:
        spec = read_spec(values)
        for length in LENGTHS if depends_on_length(spec.rope) else [None]:
            frequencies = inv_freq(spec.rope, spec.head_dim, length)
            assert frequencies.dtype == np.float32 and frequencies.shape == (spec.head_dim // 2,)
            answers.append((frequencies.view(np.int32), attention_factor(spec.rope)))
    return answers


@pytest.fixture(scope="module")
def configs() -> list[dict]:
    return [config(*case) for case in CASES]


def test_bit_equal_to_transformers(configs: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own float32 pow misses the last bit now and then, and where depends on the CPU: it is made exact here."""
    monkeypatch.setattr(torch.Tensor, "__pow__", exact_power)
    monkeypatch.setattr(torch.Tensor, "__rpow__", lambda exponent, base: exact_power(base, exponent))
    pairs = list(zip(ours(configs), theirs(configs), strict=True))
    assert len(pairs) > len(CASES)
    for (bits, factor), (their_bits, their_factor) in pairs:
        assert bits.tolist() == their_bits.tolist()
        assert factor == their_factor


def test_plain_torch_differs_in_last_bits_only(configs: list[dict]) -> None:
    pairs = zip(ours(configs), theirs(configs), strict=True)
    distances = [np.abs(mine.astype(np.int64) - other) for (mine, _), (other, _) in pairs]
    distance = np.concatenate(distances)
    assert distance.max() <= 3
    assert (distance == 0).mean() > 0.95


@given(st.integers(1, 10_000), st.integers(0, 10_000))
@settings(deadline=None)
def test_effective_length_ignores_chunks(prompt: int, position: int) -> None:
    length = effective_length(prompt, position)
    assert length >= prompt and length > position
    assert length in (prompt, position + 1)


def test_dynamic_is_constant_until_the_model_is_outgrown() -> None:
    rope = read_spec(config({"rope_type": "dynamic", "factor": 3.0}, 1e4, 32)).rope
    short = inv_freq(rope, 32, 1)
    assert (inv_freq(rope, 32, 512) == short).all() and (inv_freq(rope, 32) == short).all()
    longer = inv_freq(rope, 32, 513)
    assert (longer[1:] < short[1:]).all() and longer[0] == short[0] == 1
