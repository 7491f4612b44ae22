"""dbrx: queries, keys and values in one matrix and clamped; layer norms without bias; tensors of all experts in one."""

from __future__ import annotations

from typing import Any

from moestro.errors import CheckpointError
from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, read_dtype
from moestro.models.families.moe_keys import read_num_experts, read_top_k
from moestro.models.family import Family
from moestro.models.rope_config import read_rope
from moestro.models.spec import LayerSpec, ModelSpec, MoeSpec

_NORM_EPS = 1e-5  # no key changes it


def _read(config: ConfigReader) -> ModelSpec:
    for unused in ("emb_pdrop", "num_key_value_heads"):  # the latter repeats attn_config's
        config.take(unused, None)
    hidden, heads = config.integer("d_model"), config.integer("n_heads")
    attention, experts = _part(config, "attn_config"), _part(config, "ffn_config")
    attention.take("attn_pdrop", None)
    # What the model was trained with. transformers 5 reads it from rope_parameters only, which published configs lack.
    theta = attention.number("rope_theta", 1e4, low=1.0)
    kv_heads = attention.integer("kv_n_heads", 1)
    if hidden % heads or heads % kv_heads or (hidden // heads) % 2:
        raise config.wrong("n_heads", heads, f"heads of even size that {kv_heads} key/value heads divide")
    expect(config, "tie_word_embeddings", False)
    longest, head_dim = config.integer("max_seq_len"), hidden // heads
    spec = ModelSpec(
        model_type="dbrx",
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=_NORM_EPS,
        rope=read_rope(config, theta, longest, head_dim=head_dim),
        qk_norm=False,
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        tie_word_embeddings=False,
        max_position_embeddings=longest,
        dtype=read_dtype(config),
        activation="silu",
        layers=(LayerSpec(None, _moe(experts)),) * config.integer("n_layers"),
        norm="layer",
        clip_qkv=attention.number("clip_qkv", None),
    )
    attention.finish()
    experts.finish()
    return spec


def _part(config: ConfigReader, key: str) -> ConfigReader:
    values: Any = config.take(key, {})
    if not isinstance(values, dict):
        raise CheckpointError(f"{config.where}: {key}: expected an object, got {values!r}")
    part = ConfigReader(values, f"{config.where}: {key}")
    # What transformers writes into every object; the head is tied or not for the whole model.
    for own in ("model_type", "dtype", "torch_dtype", "architectures", "tie_word_embeddings"):
        part.take(own, None)
    return part


def _moe(config: ConfigReader) -> MoeSpec:
    for unused in ("hidden_size", "moe_jitter_eps", "moe_loss_weight"):  # a repetition; training
        config.take(unused, None)
    expect(config, "ffn_act_fn", {"name": "silu"})
    expect(config, "uniform_expert_assignment", False)
    power = config.number("moe_normalize_expert_weights", None if config.has("moe_normalize_expert_weights") else 1.0)
    if power not in (None, 1.0):
        raise config.wrong("moe_normalize_expert_weights", power, "1, to divide the weights by their sum, or null")
    experts = read_num_experts(config)
    top_k = read_top_k(config, experts, "moe_top_k")
    return MoeSpec(experts, top_k, config.integer("ffn_hidden_size"), norm_topk_prob=power is not None)


FAMILY = Family(
    "dbrx",
    ("DbrxForCausalLM",),
    _read,
    "queries, keys and values in one matrix and clamped; layer norms; tensors of all experts in one",
    names={
        "embed": "transformer.wte.weight",
        "final_norm": "transformer.norm_f.weight",
        "layer": "transformer.blocks.{l}.",
        "input_norm": "norm_attn_norm.norm_1.weight",
        "post_attention_norm": "norm_attn_norm.norm_2.weight",
        "o": "norm_attn_norm.attn.out_proj.weight",
        "router": "ffn.router.layer.weight",
        "expert_gate": "ffn.experts.mlp.w1",
        "expert_up": "ffn.experts.mlp.v1",
        "expert_down": "ffn.experts.mlp.w2",
    },
    stacked={"norm_attn_norm.attn.Wqkv.weight": ("q", "k", "v")},
    examples="DBRX",
)
