"""Configs and tensor names of every family, against transformers' own reading of the same directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.numpy import load_file, save_file
from tiny_configs import plain

from moestro.checkpoint.weights import TensorSlice
from moestro.errors import CheckpointError
from moestro.models import registry
from moestro.models.registry import Checkpoint, open_checkpoint, read_spec, supported_model_types
from moestro.models.spec import DenseSpec, MoeSpec
from moestro.models.spec_json import spec_from_json, spec_to_json

Checkpoints = Callable[[str], Path]


# Families whose modules have the usual names; what the others find where, their logits show.
PLAIN = tuple(name for name in plain.CONFIGS if name in tiny_models.SHORT)


def config_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def changed(directory: Path, target: Path, **changes: Any) -> Path:
    """A copy whose config.json has other values; None removes a key."""
    shutil.copytree(directory, target)
    values = {key: value for key, value in (config_of(directory) | changes).items() if value is not None}
    (target / "config.json").write_text(json.dumps(values))
    return target


def read(tensor: TensorSlice) -> np.ndarray:
    """The float32 values of a slice, read from the file it names."""
    kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[tensor.dtype]
    data = np.fromfile(tensor.path, kind, tensor.rows * tensor.cols, offset=tensor.offset)
    if tensor.dtype == "BF16":
        data = (data.astype(np.uint32) << 16).view(np.float32)
    return data.astype(np.float32).reshape(tensor.rows, tensor.cols)


def hf_weights(directory: Path) -> dict[str, np.ndarray]:
    """HF's parameters by our roles: experts come out of the fused tensors it keeps in memory."""
    names = {
        "input_layernorm": "input_norm",
        "post_attention_layernorm": "post_attention_norm",
        "mlp.gate": "router",
        **{f"self_attn.{name}_proj": name for name in "qkvo"},
        **{f"self_attn.{name}_norm": f"{name}_norm" for name in "qk"},
        **{f"mlp.{name}_proj": name for name in ("gate", "up", "down")},
    }
    roles: dict[str, np.ndarray] = {}
    for name, parameter in tiny_models.reference(directory).state_dict().items():
        value = parameter.numpy()
        if not name.startswith("model.layers."):
            known = {"model.embed_tokens.weight": "embed", "model.norm.weight": "final_norm", "lm_head.weight": "head"}
            roles[known[name]] = value
            continue
        _, _, layer, rest = name.split(".", 3)
        prefix = f"layers.{layer}."
        if rest == "mlp.experts.gate_up_proj":
            for expert, both in enumerate(value):
                roles[f"{prefix}experts.{expert}.gate"], roles[f"{prefix}experts.{expert}.up"] = np.split(both, 2)
        elif rest == "mlp.gate_up_proj.weight":
            roles[prefix + "gate"], roles[prefix + "up"] = np.split(value, 2)
        elif rest == "self_attn.qkv_proj.weight":
            config = tiny_models.reference(directory).config
            head = config.hidden_size // config.num_attention_heads
            queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
            q, k, v = np.split(value, [queries, queries + keys])
            roles |= {f"{prefix}q": q, f"{prefix}k": k, f"{prefix}v": v}
        elif rest == "mlp.experts.down_proj":
            roles |= {f"{prefix}experts.{expert}.down": down for expert, down in enumerate(value)}
        else:
            module, kind = rest.rsplit(".", 1)
            roles[prefix + names[module] + ("_bias" if kind == "bias" else "")] = value
    return roles


@pytest.mark.parametrize("name", PLAIN)
def test_every_weight_is_where_transformers_finds_it(name: str, tiny_checkpoint: Checkpoints) -> None:
    directory = tiny_checkpoint(name)
    weights = open_checkpoint(directory).weights
    expected = hf_weights(directory)
    if weights.tied:
        assert np.array_equal(expected.pop("head"), expected["embed"])
    found = dict(weights.roles())
    assert found.keys() == expected.keys()
    for role, tensor in found.items():
        assert np.array_equal(read(tensor), np.atleast_2d(expected[role])), role


@pytest.mark.parametrize("name", PLAIN)
def test_spec_says_what_the_config_class_says(name: str, tiny_checkpoint: Checkpoints) -> None:
    directory = tiny_checkpoint(name)
    spec, hf = open_checkpoint(directory).spec, tiny_models.reference(directory).config
    attention = tiny_models.reference(directory).model.layers[0].self_attn
    assert (spec.model_type, spec.vocab_size, spec.hidden_size) == (hf.model_type, hf.vocab_size, hf.hidden_size)
    assert (spec.num_heads, spec.num_kv_heads) == (hf.num_attention_heads, hf.num_key_value_heads)
    assert (spec.head_dim, spec.rms_norm_eps) == (attention.head_dim, hf.rms_norm_eps)
    assert spec.tie_word_embeddings == hf.tie_word_embeddings
    assert spec.max_position_embeddings == hf.max_position_embeddings
    assert spec.qk_norm == hasattr(attention, "q_norm")
    queries = attention.qkv_proj if hasattr(attention, "qkv_proj") else attention.q_proj
    assert spec.qkv_bias == (queries.bias is not None)
    assert spec.o_bias == (attention.o_proj.bias is not None)
    assert (spec.dtype, spec.activation) == ("bf16", "silu")
    assert (spec.rope.theta, spec.rope.type) == (hf.rope_parameters["rope_theta"], hf.rope_parameters["rope_type"])
    assert spec.num_layers == hf.num_hidden_layers
    for layer, module in zip(spec.layers, tiny_models.reference(directory).model.layers, strict=True):
        assert layer.sliding_window == getattr(module.self_attn, "sliding_window", hf.to_dict().get("sliding_window"))
        if isinstance(layer.mlp, DenseSpec):
            assert layer.mlp.intermediate_size == module.mlp.down_proj.in_features
            assert spec.mlp_bias == (module.mlp.down_proj.bias is not None)
        else:
            experts, router = module.mlp.experts, module.mlp.gate
            assert (layer.mlp.num_experts, layer.mlp.num_experts_per_tok) == (experts.num_experts, router.top_k)
            assert layer.mlp.intermediate_size == experts.down_proj.shape[2]
            assert layer.mlp.norm_topk_prob == getattr(hf, "norm_topk_prob", True)


def as_version_4(values: dict[str, Any]) -> dict[str, Any]:
    """The same config in the keys of transformers 4, as most of the hub has it."""
    older = dict(values)
    rope = dict(older.pop("rope_parameters"))
    older["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        older["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.pop("rope_type")
    older["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    older["torch_dtype"] = older.pop("dtype")
    if values["model_type"] in WITHOUT_LAYER_TYPES:
        older.pop("layer_types", None)
    if values["model_type"] == "qwen3_moe":
        older["num_experts"] = older.pop("num_local_experts")
    return older


# Families that transformers 4 knew before it had the key.
WITHOUT_LAYER_TYPES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "phi3", "gemma2")
# Those that came with an embedding for each kind of layer, or with nothing but defaults to say in older keys.
NEWER_ONLY = ("gemma3_text", "mellum", "gpt_oss-tied", "dbrx")


@pytest.mark.parametrize(
    "name", [name for name in tiny_models.CONFIGS if not name.removeprefix("long-").startswith(NEWER_ONLY)]
)
def test_configs_of_transformers_4_mean_the_same(name: str, tiny_checkpoint: Checkpoints) -> None:
    values = config_of(tiny_checkpoint(name))
    assert read_spec(as_version_4(values)) == read_spec(values)


@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_spec_survives_json(name: str, tiny_checkpoint: Checkpoints) -> None:
    spec = read_spec(config_of(tiny_checkpoint(name)))
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec))), "model") == spec


def test_hub_configs_are_read() -> None:
    """As published; every key of them must have a place."""
    qwen = read_spec(
        {
            "architectures": ["Qwen3MoeForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "decoder_sparse_step": 1,
            "eos_token_id": [151645, 151643],
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "initializer_range": 0.02,
            "intermediate_size": 6144,
            "max_position_embeddings": 40960,
            "max_window_layers": 48,
            "mlp_only_layers": [],
            "model_type": "qwen3_moe",
            "moe_intermediate_size": 768,
            "norm_topk_prob": True,
            "num_attention_heads": 32,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_hidden_layers": 48,
            "num_key_value_heads": 4,
            "output_router_logits": False,
            "qkv_bias": False,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.001,
            "shared_expert_intermediate_size": 0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.51.0",
            "use_cache": True,
            "use_qk_norm": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        }
    )
    assert qwen.layers[47].mlp == MoeSpec(128, 8, 768, True)
    assert qwen.rope.theta == 1e6 and qwen.dtype == "bf16"
    mixtral = read_spec(
        {
            "architectures": ["MixtralForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "model_type": "mixtral",
            "num_attention_heads": 32,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "output_router_logits": False,
            "rms_norm_eps": 1e-05,
            "router_aux_loss_coef": 0.02,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.36.0.dev0",
            "use_cache": True,
            "vocab_size": 32000,
        }
    )
    assert (mixtral.head_dim, mixtral.rope.theta) == (128, 1e6)
    assert mixtral.layers[0].mlp == MoeSpec(8, 2, 14336, True)
    # As Mistral-7B-v0.1, and later ones without a window, have them.
    mistral = {
        "architectures": ["MistralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.34.0.dev0",
        "use_cache": True,
        "vocab_size": 32000,
    }
    for change, window in (({}, 4096), ({"sliding_window": None}, None)):
        spec = read_spec(mistral | change)
        assert (spec.head_dim, spec.layers[31].sliding_window, spec.qkv_bias) == (128, window, False)
    del mistral["sliding_window"]
    assert read_spec(mistral).layers[0].sliding_window == 4096, "as transformers has it where the key is missing"
    qwen2 = read_spec(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "hidden_act": "silu",
            "hidden_size": 3584,
            "initializer_range": 0.02,
            "intermediate_size": 18944,
            "max_position_embeddings": 32768,
            "max_window_layers": 28,
            "model_type": "qwen2",
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 131072,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.43.1",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": 152064,
        }
    )
    assert (qwen2.head_dim, qwen2.qkv_bias, qwen2.o_bias, qwen2.layers[27].sliding_window) == (128, True, False, None)


BASE = {
    "llama": "llama",
    "mistral": "mistral-window-tied",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "qwen2": "qwen2",
    "qwen3": "qwen3-tied",
    "qwen3_moe": "qwen3_moe",
    "mixtral": "mixtral",
}


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, ["hidden_act", "gelu", "silu"]),
        ("llama", {"surprise": 3}, ["surprise", "3"]),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, ["quantization_config", "fp8"]),
        ("llama", {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ("llama", {"rope_parameters": {"rope_type": "spiral", "factor": 2}}, ["rope_type", "spiral", "yarn"]),
        ("smollm3", {"no_rope_layers": [1, 0]}, ["no_rope_layers", "5 entries"]),
        ("phi3", {"rope_parameters": {"rope_type": "longrope"}}, ["short_factor"]),
        (
            "phi3",
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
            ["longrope", "7 frequencies"],
        ),
        ("phi3", {"rope_parameters": {"rope_type": "su", "short_factor": 3}}, ["short_factor", "3"]),
        (
            "phi3",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.4}},
            ["partial_rotary_factor", "0.4", "even"],
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, ["factor"]),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, ["factor", "0"]),
        ("llama", {"rope_parameters": {"rope_type": "default", "mystery": 1}}, ["mystery"]),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
            ["partial_rotary", "0.25"],
        ),
        ("llama", {"rope_parameters": [1]}, ["rope_parameters", "[1]"]),
        ("llama", {"rope_scaling": "twice"}, ["rope_scaling", "twice"]),
        ("llama", {"num_key_value_heads": 4}, ["num_key_value_heads", "4", "6"]),
        ("llama", {"head_dim": 7}, ["head_dim", "7", "even"]),
        ("llama", {"hidden_size": "78"}, ["hidden_size", "'78'"]),
        ("llama", {"hidden_size": True}, ["hidden_size", "True"]),
        ("llama", {"num_hidden_layers": 0}, ["num_hidden_layers", "0"]),
        ("llama", {"rms_norm_eps": -1.0}, ["rms_norm_eps"]),
        ("llama", {"dtype": "float8"}, ["dtype", "float8"]),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, ["architectures", "LlamaForCausalLM"]),
        ("llama", {"model_type": "mamba"}, ["mamba", *("llama", "mixtral", "qwen3", "gpt_oss", "deepseek_v3")]),
        ("llama", {"model_type": None}, ["model_type", "None"]),
        ("llama", {"vocab_size": None}, ["vocab_size"]),
        ("llama", {"layer_types": ["sliding_attention"] * 3}, ["layer_types"]),
        ("mistral", {"sliding_window": -3}, ["sliding_window", "-3"]),
        ("mistral", {"attention_bias": True}, ["attention_bias", "True"]),
        ("qwen2", {"qk_norm": True}, ["qk_norm"]),
        ("qwen3", {"layer_types": ["full_attention"]}, ["layer_types", "3"]),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, ["layer_types"]),
        ("qwen3", {"layer_types": ["linear_attention"] * 3}, ["layer_types", "linear_attention"]),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 0}, ["sliding_window", "0"]),
        ("qwen3_moe", {"num_experts": 9}, ["num_experts", "9", "7"]),
        ("qwen3_moe", {"num_experts_per_tok": 8}, ["num_experts_per_tok", "8", "7"]),
        ("qwen3_moe", {"mlp_only_layers": "all"}, ["mlp_only_layers"]),
        ("qwen3_moe", {"decoder_sparse_step": 0}, ["decoder_sparse_step"]),
        ("qwen3_moe", {"shared_expert_intermediate_size": 64}, ["shared_expert_intermediate_size", "64"]),
        ("mixtral", {"sliding_window": -5}, ["sliding_window", "-5"]),
        ("mixtral", {"attention_bias": True}, ["attention_bias"]),
    ],
)
def test_what_a_config_must_not_say(
    family: str, changes: dict[str, Any], words: list[str], tiny_checkpoint: Checkpoints
) -> None:
    values = {k: v for k, v in (config_of(tiny_checkpoint(BASE[family])) | changes).items() if v is not None}
    with pytest.raises(CheckpointError) as caught:
        read_spec(values, "somewhere/config.json")
    assert all(word in str(caught.value) for word in ("somewhere/config.json", *words)), caught.value


SEEN_ON_THE_HUB = {
    "rope_interleaved": False,
    "is_llama_config": True,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "unsloth_fixed": True,
    "unsloth_version": "2025.1",
    "max_sequence_length": 2048,
    "attn_implementation": "flash_attention_2",
    "_attn_implementation": "sdpa",
    "_flash_attn_2_enabled": True,
    "auto_map": {"AutoModelForCausalLM": "modeling.Model"},
    "pad_token_id": -1,
    "unk_token_id": 0,
    "use_mrope": False,
    "sliding_window": None,
    "quantization_config": None,
}


def test_harmless_keys_are_accepted(tiny_checkpoint: Checkpoints) -> None:
    values = config_of(tiny_checkpoint("llama"))
    extra = {"temperature": 0.6, "pretraining_tp": 2, "_name_or_path": "x", "mystery": None, "use_cache": False}
    assert read_spec(values | extra) == read_spec(values)
    assert read_spec(values | SEEN_ON_THE_HUB) == read_spec(values)
    assert read_spec({k: v for k, v in values.items() if k != "architectures"}) == read_spec(values)


@pytest.mark.parametrize(
    ("limit", "scaling", "expected"),
    [
        (4096, None, 4096),
        (131072, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}, 131072),
        (4096, {"type": "linear", "factor": 4.0}, 16384),  # vicuna-16k
        (2048, {"type": "dynamic", "factor": 2.0}, 4096),
        # Qwen3, as its model card has it, and Yarn-Llama-2, which says so in max_position_embeddings already
        (40960, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        (
            65536,
            {"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "finetuned": True},
            65536,
        ),
    ],
)
def test_rotary_scaling_extends_the_context(
    limit: int, scaling: dict[str, Any] | None, expected: int, tiny_checkpoint: Checkpoints
) -> None:
    values = as_version_4(config_of(tiny_checkpoint("llama")))
    spec = read_spec(values | {"max_position_embeddings": limit, "rope_scaling": scaling})
    assert (spec.max_position_embeddings, spec.context_length) == (limit, expected)


def test_every_supported_model_type_has_its_file_and_a_tiny_config() -> None:
    files = {path.stem for path in Path(registry.__file__).parent.joinpath("families").glob("*.py")}
    helpers = {"__init__", "common", "latent", "moe_keys"}
    assert set(supported_model_types()) == files - helpers
    assert supported_model_types() == tuple(sorted(supported_model_types()))
    made = {config_name(name) for name in tiny_models.CONFIGS}
    # transformers does not know this one; test_pre_gated.py has it.
    assert made == set(supported_model_types()) - {"pre_gated_qwen3_moe"}
    for family in registry.families():
        assert family.examples and family.about and family.architectures, family.model_type


def config_name(name: str) -> str:
    return str(tiny_models.CONFIGS[name]().model_type)


def test_type_comes_from_the_weights_when_the_config_is_silent(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    copy = changed(tiny_checkpoint("llama"), tmp_path / "silent", dtype=None)
    assert open_checkpoint(copy).spec.dtype == "bf16"


def rewritten(
    directory: Path, target: Path, edit: Callable[[dict[str, np.ndarray]], None], config: dict[str, Any] | None = None
) -> Path:
    """The checkpoint as one file of float32 tensors, edited."""
    target.mkdir()
    model = tiny_models.reference(directory)
    model.save_pretrained(target)
    (target / "config.json").write_text(json.dumps(config_of(directory) | {"dtype": "float32"} | (config or {})))
    tensors = load_file(target / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


def refused(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory)
    return str(caught.value)


def test_missing_misshapen_and_leftover_tensors_are_all_named(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        del tensors["model.layers.1.self_attn.q_proj.weight"]
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].copy()
        tensors["model.layers.0.input_layernorm.weight"] = np.zeros(70, np.int32)
        tensors["model.layers.9.input_layernorm.weight"] = np.zeros(70, np.float32)

    message = refused(rewritten(tiny_checkpoint("qwen3_moe"), tmp_path / "edited", edit))
    assert "1 missing: model.layers.1.self_attn.q_proj.weight" in message
    assert "model.norm.weight is F32 [69]" in message and "[70]" in message
    assert "model.layers.0.input_layernorm.weight is I32 [70]" in message
    assert "1 not part of this model: model.layers.9.input_layernorm.weight" in message


def test_an_expert_too_many_or_too_few(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = tiny_checkpoint("mixtral")
    fewer = changed(directory, tmp_path / "fewer", num_local_experts=4)
    assert "not part of this model: model.layers.0.block_sparse_moe.experts.4.w1.weight" in refused(fewer)
    more = changed(directory, tmp_path / "more", num_local_experts=6)
    assert "missing: " in refused(more) and "experts.5.w1.weight" in refused(more)


def test_fused_experts_must_have_the_fused_shape(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    wider = changed(tiny_checkpoint("qwen3_moe-fused"), tmp_path / "wider", moe_intermediate_size=63)
    message = refused(wider)
    # Named once, not once per expert.
    assert message.count("model.layers.0.mlp.experts.gate_up_proj") == 1
    assert "[7, 128, 70]" in message and "[7, 126, 70]" in message


def test_old_rotary_buffers_are_ignored(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(7, np.float32)
        tensors["model.rotary_emb.inv_freq"] = np.ones(7, np.float32)

    assert open_checkpoint(rewritten(tiny_checkpoint("llama"), tmp_path / "old", edit)).spec.num_layers == 3


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_model_with_a_head_uses_it_as_transformers_does(
    same: bool, tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * np.float32(1 if same else 2)

    directory = rewritten(tiny_checkpoint("qwen3-tied"), tmp_path / "tied", edit)
    found: Checkpoint = open_checkpoint(directory)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        model = tiny_models.reference(directory)
        logits, hidden = model(ids).logits[0], model.model(ids).last_hidden_state[0]
    ours = hidden.numpy().astype(np.float64) @ read(found.weights.head).astype(np.float64).T
    assert np.allclose(logits.numpy(), ours, rtol=1e-4, atol=1e-4)
