"""Configs of the families with multi-head latent attention, as published: every key of them must have a place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moestro.errors import CheckpointError
from moestro.models.registry import read_spec
from moestro.models.spec import DenseSpec, MlaSpec, MoeSpec, RouterSpec, SharedSpec
from moestro.models.spec_json import spec_from_json, spec_to_json

# The weights of the large ones are published in eight bits; these are the configs of their bf16 versions.
COMMON = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "kv_lora_rank": 512,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
    "qk_rope_head_dim": 64,
    "tie_word_embeddings": False,
    "use_cache": True,
}
SIGMOID = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_shared_experts": 1, "moe_layer_freq": 1}
DEEPSEEK_YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
DEEPSEEK_V3 = {
    **COMMON,
    **SIGMOID,
    "architectures": ["DeepseekV3ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "aux_loss_alpha": 0.001,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "n_routed_experts": 256,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "pretraining_tp": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "rms_norm_eps": 1e-06,
    "rope_scaling": DEEPSEEK_YARN,
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "seq_aux": True,
    "topk_group": 4,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "v_head_dim": 128,
    "vocab_size": 129280,
}
KIMI_K2 = {
    **DEEPSEEK_V3,
    "bos_token_id": 163584,
    "eos_token_id": 163585,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 131072,
    "n_group": 1,
    "n_routed_experts": 384,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "num_nextn_predict_layers": 0,
    "rope_scaling": {**DEEPSEEK_YARN, "beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0},
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.827,
    "topk_group": 1,
    "vocab_size": 163840,
}
MOONLIGHT = {
    **KIMI_K2,
    "hidden_size": 2048,
    "intermediate_size": 11264,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "routed_scaling_factor": 2.446,
}
DEEPSEEK_V32 = {
    **DEEPSEEK_V3,
    "architectures": ["DeepseekV32ForCausalLM"],
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 2048,
    "model_type": "deepseek_v32",
}
DEEPSEEK_V2 = {
    **DEEPSEEK_V3,
    "architectures": ["DeepseekV2ForCausalLM"],
    "first_k_dense_replace": 1,
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "model_type": "deepseek_v2",
    "moe_intermediate_size": 1536,
    "n_routed_experts": 160,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 60,
    "num_nextn_predict_layers": None,
    "rope_scaling": {**DEEPSEEK_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    "routed_scaling_factor": 16.0,
    "scoring_func": "softmax",
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
    "vocab_size": 102400,
}
DEEPSEEK_V2_LITE = {
    **DEEPSEEK_V2,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 64,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "routed_scaling_factor": 1.0,
    "topk_group": 1,
    "topk_method": "greedy",
}
GLM_4_7_FLASH = {
    **COMMON,
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "dtype": "bfloat16",
    "eos_token_id": [154820, 154827, 154829],
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "max_position_embeddings": 202752,
    "model_type": "glm4_moe_lite",
    "moe_intermediate_size": 1536,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "num_attention_heads": 20,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 47,
    "num_key_value_heads": 20,
    "pad_token_id": 154820,
    "partial_rotary_factor": 1.0,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.8,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "transformers_version": "5.0.0rc0",
    "v_head_dim": 256,
    "vocab_size": 154880,
}
GLM_5 = {
    **GLM_4_7_FLASH,
    **SIGMOID,
    "architectures": ["GlmMoeDsaForCausalLM"],
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "head_dim": 64,
    "hidden_size": 6144,
    "index_head_dim": 128,
    "index_n_heads": 32,
    "index_topk": 2048,
    "indexer_rope_interleave": True,
    "intermediate_size": 12288,
    "model_type": "glm_moe_dsa",
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_attention_heads": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 78,
    "num_key_value_heads": 64,
    "partial_rotary_factor": None,
    "pretraining_tp": 1,
    "q_lora_rank": 2048,
    "qk_head_dim": 256,
    "rope_interleave": True,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "rope_theta": None,
    "routed_scaling_factor": 2.5,
}
# Indexers in every fourth layer only, and a list of which layers are mixtures.
GLM_5_LATER = {
    **GLM_5,
    "index_share_for_mtp_iteration": True,
    "index_skip_topk_offset": 3,
    "index_topk_freq": 4,
    "indexer_types": ["full"] * 3 + ["shared"] * 75,
    "max_position_embeddings": 1048576,
    "mlp_layer_types": ["dense"] * 3 + ["sparse"] * 75,
    "moe_router_dtype": "float32",
    "rope_parameters": {"rope_theta": 8000000, "rope_type": "default"},
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "deepseek_v3": DEEPSEEK_V3,
    "kimi_k2": KIMI_K2,
    "moonlight": MOONLIGHT,
    "deepseek_v32": DEEPSEEK_V32,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v2_lite": DEEPSEEK_V2_LITE,
    "glm_4_7_flash": GLM_4_7_FLASH,
    "glm_5": GLM_5,
    "glm_5_later": GLM_5_LATER,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_cached_is_one_latent_and_one_rotated_key(name: str) -> None:
    config = PUBLISHED[name]
    spec = read_spec(config)
    sizes = [config[key] for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")]
    assert spec.mla == MlaSpec(*sizes, q_lora_rank=config["q_lora_rank"])
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.value_dim) == (
        *(config["num_attention_heads"], 1, 512 + 64, 512),
    )
    assert (spec.rope_pairs, spec.rope.rotary_dim, spec.dtype) == (True, None, "bf16")
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec))), "model") == spec


def test_mixtures() -> None:
    v3 = read_spec(DEEPSEEK_V3)
    router = RouterSpec("sigmoid", correction=True, groups=8, kept_groups=4, group_best=2, norm_eps=1e-20, scale=2.5)
    moe = MoeSpec(256, 8, 2048, True, router=router, shared=SharedSpec(2048))
    assert [layer.mlp for layer in v3.layers] == [DenseSpec(18432)] * 3 + [moe] * 58
    assert [layer.mlp for layer in read_spec(DEEPSEEK_V32).layers] == [layer.mlp for layer in v3.layers]
    moonlight = read_spec(MOONLIGHT).layers[1].mlp
    assert isinstance(moonlight, MoeSpec)
    assert (moonlight.router.groups, moonlight.router.scale, moonlight.shared) == (1, 2.446, SharedSpec(2816))
    groups = RouterSpec("softmax", groups=8, kept_groups=3, scale=16.0)
    assert read_spec(DEEPSEEK_V2).layers[1].mlp == MoeSpec(160, 6, 1536, False, groups, SharedSpec(3072))
    assert read_spec(DEEPSEEK_V2_LITE).layers[1].mlp == MoeSpec(64, 6, 1408, False, RouterSpec(), SharedSpec(2816))
    glm = read_spec(GLM_4_7_FLASH)
    assert [isinstance(layer.mlp, MoeSpec) for layer in glm.layers] == [False] + [True] * 46
    assert [layer.mlp for layer in read_spec(GLM_5_LATER).layers] == [layer.mlp for layer in read_spec(GLM_5).layers]


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("deepseek_v3", 192**-0.5 * (0.1 * 1.0 * 3.6888794541139363 + 1) ** 2),
        ("deepseek_v2", 192**-0.5 * (0.1 * 0.707 * 3.6888794541139363 + 1) ** 2),
        ("moonlight", 192**-0.5),
        ("glm_5", 256**-0.5),
    ],
)
def test_attention_scale_grows_with_the_context(name: str, scale: float) -> None:
    assert read_spec(PUBLISHED[name]).attention_scale == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "context"),
    [("deepseek_v3", 163840), ("kimi_k2", 131072), ("deepseek_v32", 2048), ("glm_5", 2048), ("glm_5_later", 2048)],
)
def test_sparse_attention_is_run_as_far_as_it_is_dense(name: str, context: int) -> None:
    assert read_spec(PUBLISHED[name]).context_length == context


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("deepseek_v3", {"scoring_func": "softmax"}, ["scoring_func", "softmax", "sigmoid"]),
        ("deepseek_v3", {"topk_method": "greedy"}, ["topk_method", "greedy"]),
        ("deepseek_v3", {"moe_layer_freq": 2}, ["moe_layer_freq", "2"]),
        ("deepseek_v3", {"n_group": 7}, ["n_group", "7", "256"]),
        ("deepseek_v3", {"topk_group": 9}, ["topk_group", "9", "n_group = 8"]),
        ("deepseek_v3", {"num_key_value_heads": 8}, ["num_key_value_heads", "8", "128"]),
        ("deepseek_v3", {"kv_lora_rank": 511}, ["kv_lora_rank", "511"]),
        ("deepseek_v3", {"kv_lora_rank": None}, ["kv_lora_rank"]),
        ("deepseek_v3", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ("deepseek_v3", {"quantization_config": {"quant_method": "fp8"}}, ["quantization_config", "fp8"]),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, ["topk_method", "noaux_tc", "greedy"]),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, ["scoring_func", "sigmoid"]),
        ("deepseek_v2", {"rope_interleave": False}, ["rope_interleave", "False"]),
        ("deepseek_v32", {"rope_interleave": False}, ["rope_interleave", "False"]),
        ("deepseek_v32", {"layer_types": ["full_attention"] * 61}, ["layer_types", "indexed_attention"]),
        ("glm_4_7_flash", {"first_k_dense_replace": 2}, ["first_k_dense_replace", "2", "mlp_layer_types"]),
        ("glm_5", {"mlp_layer_types": ["sparse"]}, ["mlp_layer_types", "78"]),
        ("glm_5", {"index_topk": 0}, ["index_topk", "0"]),
    ],
)
def test_what_a_config_must_not_say(name: str, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_spec(PUBLISHED[name] | changes)
    assert all(word in str(caught.value) for word in words), caught.value


def test_halves_are_turned_where_the_config_says_so() -> None:
    assert not read_spec(DEEPSEEK_V3 | {"rope_interleave": False}).rope_pairs
    assert not read_spec(DEEPSEEK_V3 | {"rope_interleave": None}).rope_pairs, "as transformers takes null"
