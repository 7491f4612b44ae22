"""What tiny configs start from."""

from __future__ import annotations

from typing import Any


def base(**changes: Any) -> dict[str, Any]:
    """Odd sizes wherever a config allows them; changes replace them."""
    return {
        "vocab_size": 131,
        "hidden_size": 70,
        "intermediate_size": 93,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.25,
        **changes,
    }


def extended(kind: str, original: int, **settings: Any) -> dict[str, Any]:
    """Rotary settings of a model made for `original` tokens and extended to four times as many."""
    scaling = rope(kind, factor=4.0, original_max_position_embeddings=original, **settings)
    return {"max_position_embeddings": 4 * original, "rope_parameters": scaling}


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **settings}
