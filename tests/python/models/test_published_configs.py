"""Configs as published: every key of them must have a place, and the model that comes out must have the size that its
makers state. Those of latent attention are in test_latent_families.py, some of llama-like
families in test_families.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moestro.models.registry import read_spec
from moestro.models.roles import linear_shapes, mlp_shapes, model_shapes, small_shapes
from moestro.models.spec import ModelSpec, MoeSpec

CONFIGS = json.loads((Path(__file__).parents[2] / "data" / "published_configs.json").read_text())

# family, layers, of these mixtures, experts, experts per token, their width, theta, longest context; billions of
# parameters, where the makers state them.
EXPECTED = {
    "Qwen1.5-MoE-A2.7B": ("qwen2_moe", 24, 24, 60, 4, 1408, 1e6, 8192, 14.3),
    "OLMoE-1B-7B": ("olmoe", 16, 16, 64, 8, 1024, 1e4, 4096, 6.9),
    "FlexOlmo-7x7B": ("flex_olmo", 32, 32, 7, 5, 11008, 5e5, 4096, 33),
    "granite-3.0-1b-a400m": ("granitemoe", 24, 24, 32, 8, 512, 1e4, 4096, 1.3),
    "granitemoeshared": ("granitemoeshared", 32, 32, 62, 8, 512, 1e4, 4096, None),
    "gemma-2-27b": ("gemma2", 46, 0, 0, 0, 0, 1e4, 8192, 27.2),
    "gemma-3-1b": ("gemma3_text", 26, 0, 0, 0, 0, 1e6, 32768, 1.0),
    "gemma-3-270m": ("gemma3_text", 18, 0, 0, 0, 0, 1e6, 32768, 0.27),
    "gemma-3-4b": ("gemma3_text", 34, 0, 0, 0, 0, 1e6, 131072, 3.9),
    "Mellum2": ("mellum", 28, 28, 64, 8, 896, 5e5, 131072, None),
    "Hunyuan-A13B": ("hunyuan_v1_moe", 32, 32, 64, 8, 3072, 11158839.9, 32768, 80),
    "ERNIE-4.5-21B-A3B": ("ernie4_5_moe", 28, 27, 64, 6, 1536, 5e5, 131072, 21.8),
    "Phi-3.5-MoE": ("phimoe", 32, 32, 16, 2, 6400, 1e4, 131072, 41.9),
    "dbrx": ("dbrx", 40, 40, 16, 4, 10752, 5e5, 32768, 132),
    "GLM-4.5": ("glm4_moe", 92, 89, 160, 8, 1536, 1e6, 131072, 355),
    "dots.llm1": ("dots1", 62, 61, 128, 6, 1408, 1e7, 32768, 142),
    "Solar-Open": ("solar_open", 48, 48, 128, 8, 1280, 1e6, 131072, 102),
    "MiniMax-M2": ("minimax_m2", 62, 62, 256, 8, 1536, 5e6, 196608, 229),
    "Hy3": ("hy_v3", 80, 79, 192, 8, 1536, 11158840.0, 262144, None),
    "exaone_moe": ("exaone_moe", 4, 3, 128, 8, 2048, 1e6, 262144, None),
    "afmoe": ("afmoe", 8, 6, 128, 8, 256, 1e4, 131072, None),
    "cohere2_moe": ("cohere2_moe", 49, 48, 128, 8, 768, 5e4, 500000, None),
    "gpt-oss-20b": ("gpt_oss", 24, 24, 32, 4, 2880, 1.5e5, 131072, 20.9),
    "Phi-4-mini": ("phi3", 32, 0, 0, 0, 0, 1e4, 131072, 3.8),
    "SmolLM3-3B": ("smollm3", 36, 0, 0, 0, 0, 5e6, 65536, 3.1),
    "Qwen3-8B": ("qwen3", 36, 0, 0, 0, 0, 1e6, 40960, 8.2),
    "Llama-3.2-1B": ("llama", 16, 0, 0, 0, 0, 5e5, 131072, 1.24),
    "Llama-4-Scout": ("llama4_text", 48, 48, 16, 1, 8192, 5e5, 10485760, 107.8),
}


def parameters(spec: ModelSpec) -> int:
    """From the shapes alone."""
    total = spec.vocab_size * spec.hidden_size * (1 if spec.tie_word_embeddings else 2)
    shapes = list(model_shapes(spec))
    for layer in spec.layers:
        shapes += [*linear_shapes(spec, layer), *small_shapes(spec, layer)]
        if isinstance(layer.mlp, MoeSpec):
            shapes += mlp_shapes(spec.hidden_size, layer.mlp.intermediate_size) * layer.mlp.num_experts
    return total + sum(shape.rows * shape.cols for shape in shapes)


@pytest.mark.parametrize("name", CONFIGS)
def test_published_configs_are_read(name: str) -> None:
    family, layers, mixtures, experts, top_k, width, theta, context, billions = EXPECTED[name]
    spec = read_spec(CONFIGS[name])
    assert (spec.model_type, spec.num_layers, spec.context_length) == (family, layers, context)
    assert spec.rope.theta == pytest.approx(theta)
    moe = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    assert len(moe) == mixtures
    for mlp in moe:
        assert (mlp.num_experts, mlp.num_experts_per_tok, mlp.intermediate_size) == (experts, top_k, width)
    if billions is not None:
        assert parameters(spec) / 1e9 == pytest.approx(billions, rel=0.03)


def test_windows_and_positions_by_layer() -> None:
    """Where families differ most."""
    oss = read_spec(CONFIGS["gpt-oss-20b"])
    assert [layer.sliding_window for layer in oss.layers[:4]] == [128, None, 128, None]
    gemma = read_spec(CONFIGS["gemma-3-4b"])
    assert [layer.sliding_window for layer in gemma.layers[:7]] == [1024] * 5 + [None, 1024]
    assert [layer.rope for layer in gemma.layers[:7]] == [1] * 5 + [0, 1]
    assert (gemma.ropes[0].type, gemma.ropes[0].factor, gemma.ropes[1].theta) == ("linear", 8.0, 1e4)
    scout = read_spec(CONFIGS["Llama-4-Scout"])
    assert [layer.rotary for layer in scout.layers[:5]] == [True, True, True, False, True]
    assert [layer.chunk for layer in scout.layers[:5]] == [8192, 8192, 8192, None, 8192]
    minimax = read_spec(CONFIGS["MiniMax-M2"])
    assert (minimax.rope.rotary_dim, minimax.head_dim, minimax.qk_norm_kind) == (64, 128, "whole")
    exaone = read_spec(CONFIGS["exaone_moe"])
    assert [(layer.sliding_window, layer.rotary) for layer in exaone.layers] == [(128, True)] * 3 + [(None, False)]
    glm = read_spec(CONFIGS["GLM-4.5"])
    assert [isinstance(layer.mlp, MoeSpec) for layer in glm.layers[:4]] == [False, False, False, True]
    assert glm.predicts_further and glm.rope.rotary_dim == 64
