"""The models this tool makes, as transformers configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCAB_SIZE = 2048
CONTEXT = 512  # tokens the models are made for


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a learning-rate cycle of its own (SGDR: Loshchilov and Hutter, 2017)."""

    steps: int
    learning_rate: float  # the peak
    batch: int  # windows per step
    window: int = CONTEXT  # tokens; short ones are cheaper and teach as much at first
    balance: float = 0.0  # weight of the load-balancing loss, summed over layers
    pooled_balance: float = 0.0  # of the same over all layers' routing taken together


@dataclass(frozen=True)
class Variant:
    """One model: its config, its training, and whether each layer's router chooses the next layer's experts."""

    name: str
    summary: str
    config: dict[str, Any]
    phases: tuple[Phase, ...]
    pre_gated: bool = False

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    @property
    def is_moe(self) -> bool:
        return "num_experts" in self.config


_SHARED = {
    "vocab_size": VOCAB_SIZE,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
_MOE = {"model_type": "qwen3_moe", "norm_topk_prob": True, "moe_intermediate_size": 32}

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
            # Balanced over all layers together, as transformers has it, experts of single layers idle for good. The
            # second phase goes on to whole contexts and balances every layer, the others bring in the last idle ones.
            phases=(
                Phase(steps=3600, learning_rate=3e-3, batch=8, window=256, pooled_balance=0.01),
                Phase(steps=700, learning_rate=1.5e-3, batch=4, balance=0.002),
                Phase(steps=300, learning_rate=1e-3, batch=4, balance=0.01),
                Phase(steps=200, learning_rate=1e-3, batch=4, balance=0.02),
            ),
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
            phases=(
                Phase(steps=700, learning_rate=3e-3, batch=4),
                Phase(steps=400, learning_rate=3e-3, batch=4),
                Phase(steps=600, learning_rate=2e-3, batch=4),
            ),
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
            phases=(
                Phase(steps=600, learning_rate=3e-3, batch=4, balance=0.004),
                Phase(steps=400, learning_rate=3e-3, batch=4, balance=0.004),
                Phase(steps=600, learning_rate=2e-3, batch=4, balance=0.004),
            ),
            pre_gated=True,
        ),
    )
}
