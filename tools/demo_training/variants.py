"""The models this tool makes, as transformers configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCAB_SIZE = 2048
CONTEXT = 256  # tokens of a training window


@dataclass(frozen=True)
class Variant:
    """One model: its config, how long it trains, and whether each layer's router chooses the next layer's experts."""

    name: str
    summary: str
    config: dict[str, Any]
    steps: int
    learning_rate: float = 3e-3
    batch: int = 8  # windows per step
    pre_gated: bool = False

    @property
    def is_moe(self) -> bool:
        return "num_experts" in self.config


_SHARED = {
    "vocab_size": VOCAB_SIZE,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
_MOE = {"model_type": "qwen3_moe", "norm_topk_prob": True, "moe_intermediate_size": 32, "router_aux_loss_coef": 0.01}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            name="demo",
            summary="Qwen3-MoE, 8 layers of 32 experts, top-4: the model of `moestro demo`",
            config=_SHARED
            | _MOE
            | {
                "hidden_size": 192,
                "intermediate_size": 512,
                "num_attention_heads": 6,
                "num_hidden_layers": 8,
                "num_experts": 32,
                "num_experts_per_tok": 4,
            },
            steps=3600,
        ),
        Variant(
            name="draft",
            summary="a dense Qwen3 of a quarter of the size with the same tokenizer, to draft for it",
            config=_SHARED
            | {
                "model_type": "qwen3",
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_attention_heads": 4,
                "num_hidden_layers": 5,
            },
            steps=3000,
        ),
        Variant(
            name="pre_gated",
            summary="Qwen3-MoE, 6 layers of 16 experts, top-2, each layer's gate choosing the next layer's experts",
            config=_SHARED
            | _MOE
            | {
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_attention_heads": 4,
                "num_hidden_layers": 6,
                "num_experts": 16,
                "num_experts_per_tok": 2,
            },
            steps=2400,
            pre_gated=True,
        ),
    )
}
