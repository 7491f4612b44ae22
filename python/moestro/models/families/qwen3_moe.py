"""qwen3_moe: qwen3 with a mixture in most layers; which ones, mlp_only_layers and decoder_sparse_step say."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.moe_keys import read_num_experts, read_top_k
from moestro.models.families.pre_norm import num_layers, qwen_window, read_pre_norm
from moestro.models.family import ExpertNames, Family
from moestro.models.spec import DenseSpec, ModelSpec, MoeSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    config.take("max_window_layers", None)  # transformers gives every layer of this family the same window
    return read_pre_norm(
        config,
        model_type="qwen3_moe",
        mlps=_mlps(config, count),
        windows=[qwen_window(config)] * count,
        rms_norm_eps=1e-6,
        qk_norm=True,
        attention_bias=config.flag("attention_bias", False),
    )


def _mlps(config: ConfigReader, count: int) -> list[DenseSpec | MoeSpec]:
    experts = read_num_experts(config)
    step = config.integer("decoder_sparse_step", 1)
    dense_layers = config.take("mlp_only_layers", [])
    if not isinstance(dense_layers, list) or any(type(layer) is not int for layer in dense_layers):
        raise config.wrong("mlp_only_layers", dense_layers, "a list of layer numbers")
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        config.integer("moe_intermediate_size"),
        config.flag("norm_topk_prob", False),
    )
    is_moe = [layer not in dense_layers and (layer + 1) % step == 0 for layer in range(count)]
    # A model without dense layers may leave their width out.
    width = config.integer("intermediate_size", None if all(is_moe) else 6144)
    return [moe if mixed else DenseSpec(width) for mixed in is_moe]


FAMILY = Family(
    "qwen3_moe",
    ("Qwen3MoeForCausalLM",),
    _read,
    "query and key heads normed; some layers may be dense",
    ExpertNames(
        router="mlp.gate.weight",
        gate="mlp.experts.{e}.gate_proj.weight",
        up="mlp.experts.{e}.up_proj.weight",
        down="mlp.experts.{e}.down_proj.weight",
    ),
)
