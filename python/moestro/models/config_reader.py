"""Reads a config.json so that nothing in it goes unseen: every key is taken by someone or known not to matter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from moestro.errors import CheckpointError

_REQUIRED: Any = object()

_INERT = """
    attention_dropout embd_pdrop resid_pdrop hidden_dropout initializer_range router_aux_loss_coef router_jitter_noise
    output_router_logits gradient_checkpointing problem_type pretraining_tp

    use_cache return_dict output_attentions output_hidden_states torchscript tf_legacy_loss use_bfloat16 _name_or_path
    name_or_path model_name _commit_hash transformers_version tokenizer_class model_max_length max_sequence_length
    _attn_implementation attn_implementation _attn_implementation_internal _attn_implementation_autoset
    _flash_attn_2_enabled chunk_size_feed_forward id2label label2id num_labels finetuning_task task_specific_params
    unsloth_fixed unsloth_version keys_to_ignore_at_inference transformers.js_config auto_map finetuned

    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id
    decoder_start_token_id forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens bad_words_ids
    prefix max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature
    top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    num_return_sequences output_scores return_dict_in_generate exponential_decay_length_penalty remove_invalid_values
"""

# Keys that cannot change what a finished model computes from token ids, whatever their value: training and
# initialisation; what the Python side of transformers returns, caches or calls things, and code of a checkpoint's own,
# which is never run (transformers does not run it either unless told to trust it); and tokens and generation settings,
# which generation_config.json and the tokenizer decide.
INERT_KEYS = frozenset(_INERT.split())

# Keys of other architectures with the value that switches them off; any other value stops the load.
NEUTRAL_VALUES: Mapping[str, Any] = {
    "add_cross_attention": False,
    "attention_bias": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "is_llama_config": True,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "pruned_heads": {},
    "qkv_bias": False,
    "rope_interleaved": False,
    "shared_expert_intermediate_size": 0,
    "tie_encoder_decoder": False,
    "use_mrope": False,
    "use_qk_norm": True,  # written by some Qwen3-MoE checkpoints; the family always has these norms
    "use_sliding_window": False,
}


class ConfigReader:
    """Takes typed values out of a config and remembers which keys were taken. Raises CheckpointError naming the key.

    `where` names the config in errors ("config.json", or a nested object of it). Not thread-safe; use once.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._taken: set[str] = set()
        self.where = where

    def take(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value as it is; null counts as absent."""
        self._taken.add(key)
        value = self._values.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise CheckpointError(f"{self.where} has no {key!r}, which this model type needs")
        return default

    def assume(self, **defaults: Any) -> None:
        """What absent keys mean, null ones among them."""
        absent = {key: value for key, value in defaults.items() if self._values.get(key) is None}
        self._values = {**self._values, **absent}

    def has(self, key: str) -> bool:
        """Whether the key is there, null included."""
        return key in self._values

    def one_of(self, *keys: str) -> str:
        """Which of several names for one thing the config uses, the first where it uses none; others must agree."""
        used = [key for key in keys if self._values.get(key) is not None]
        self._taken.update(keys)
        for key in used[1:]:
            if self._values[key] != self._values[used[0]]:
                raise self.wrong(key, self._values[key], f"the same as {used[0]} = {self._values[used[0]]!r}")
        return used[0] if used else keys[0]

    def integer(self, key: str, default: Any = _REQUIRED, *, low: int = 1) -> Any:
        """An int of at least `low`, or `default` when the key is absent or null."""
        value = self.take(key, default)
        if value is default and default is not _REQUIRED:
            return value
        if type(value) is not int or not low <= value < 2**31:
            raise self.wrong(key, value, f"an integer of at least {low}")
        return value

    def number(self, key: str, default: Any = _REQUIRED, *, low: float = 0.0, inclusive: bool = False) -> Any:
        """A finite float above `low` (or at least `low`, if inclusive), or `default`."""
        value = self.take(key, default)
        if value is default and default is not _REQUIRED:
            return value
        if (
            type(value) not in (int, float)
            or not math.isfinite(value)
            or value < low
            or (value == low and not inclusive)
        ):
            raise self.wrong(key, value, f"a finite number {'of at least' if inclusive else 'above'} {low:g}")
        return float(value)

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        value = self.take(key, default)
        if type(value) is not bool:
            raise self.wrong(key, value, "true or false")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: Any = _REQUIRED) -> str:
        value = self.take(key, default)
        if value not in allowed:
            raise self.wrong(key, value, f"one of {', '.join(allowed)}")
        return str(value)

    def wrong(self, key: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {key} = {value!r} is not supported: expected {expected}")

    def finish(self) -> None:
        """Refuses every key that nobody took and that could matter."""
        for key, value in self._values.items():
            if key in self._taken or key in INERT_KEYS or value is None:
                continue
            if key in NEUTRAL_VALUES and NEUTRAL_VALUES[key] == value:
                continue
            if key == "quantization_config":
                method = value.get("quant_method") if isinstance(value, dict) else value
                raise CheckpointError(
                    f"{self.where}: quantization_config (method {method!r}): quantised checkpoints are not supported;"
                    " use the model in bf16, f16 or f32 and let moestro quantise it"
                )
            raise CheckpointError(f"{self.where}: {key} = {value!r} is not known for this model type")
