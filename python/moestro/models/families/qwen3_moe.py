"""qwen3_moe: qwen3 with a mixture in most layers; which ones, mlp_only_layers and decoder_sparse_step say."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, qwen_window, read_common
from moestro.models.families.moe_keys import read_num_experts, read_top_k, sparse_step
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec, MoeSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    config.take("max_window_layers", None)  # transformers gives every layer of this family the same window
    return read_common(
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
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        config.integer("moe_intermediate_size"),
        config.flag("norm_topk_prob", False),
    )
    is_moe = sparse_step(config, count)
    # A model without dense layers may leave their width out.
    width = config.integer("intermediate_size", None if all(is_moe) else 6144)
    return [moe if mixed else DenseSpec(width) for mixed in is_moe]


FAMILY = Family(
    "qwen3_moe",
    ("Qwen3MoeForCausalLM",),
    _read,
    "query and key heads normed; some layers may be dense",
    examples="Qwen3-30B-A3B, 235B-A22B",
)
