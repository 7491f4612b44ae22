"""A bf16 qwen3_moe checkpoint as a BF16 GGUF, value for value, with its vocabulary.

Only what the benches' random models are made of: anything else that a config may say is refused.

    python bench/e2e/gguf_export.py CHECKPOINT OUT.gguf
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from gguf_tensors import GgufTensor, gguf_tensors
from moestro.checkpoint.index import read_config, read_index
from moestro.errors import CheckpointError

_ARCHITECTURE = "qwen3moe"
# What llama.cpp's qwen3moe takes for granted.
_FIXED = {
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "hidden_act": "silu",
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}


def export_gguf(checkpoint: Path, target: Path) -> Path:
    """Writes `target`, whole or not at all. Raises CheckpointError for a checkpoint of another kind."""
    config, index = read_config(checkpoint), read_index(checkpoint)
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"{checkpoint}: config.json has {key}={config[key]!r}; the exporter knows {value!r}")
    tensors = list(gguf_tensors(index, config))
    wrong = sorted({part.dtype for tensor in tensors for part in tensor.parts} - {"BF16"})
    if wrong:
        raise CheckpointError(f"{checkpoint}: the exporter reads BF16 tensors, found {', '.join(wrong)}")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        _write(partial, checkpoint, config, tensors)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _write(path: Path, checkpoint: Path, config: dict[str, Any], tensors: list[GgufTensor]) -> None:
    writer = gguf.GGUFWriter(path, _ARCHITECTURE)
    _add_sizes(writer, config)
    _add_vocabulary(writer, json.loads((checkpoint / "tokenizer.json").read_text()), config)
    for tensor in tensors:
        kind, width = (gguf.GGMLQuantizationType.F32, 4) if tensor.widened else (gguf.GGMLQuantizationType.BF16, 2)
        dtype = np.dtype(np.float32 if tensor.widened else np.uint16)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, width * int(np.prod(tensor.shape)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:  # one in memory at a time
        writer.write_tensor_data(tensor.read())
    writer.close()


def _add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("moestro bench model")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_vocab_size(config["vocab_size"])


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """Byte-level BPE with GPT-2's splitting; ids beyond the tokenizer's are marked as unused."""
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    known = {number: text for text, number in tokenizer["model"]["vocab"].items()} | added
    size = config["vocab_size"]
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.NORMAL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([known.get(number, f"[unused{number}]") for number in range(size)])
    writer.add_token_types([kinds[n in added] if n in known else gguf.TokenType.UNUSED for n in range(size)])
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    )
    writer.add_add_bos_token(False)
    if config.get("eos_token_id") is not None:
        writer.add_eos_token_id(config["eos_token_id"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    try:
        export_gguf(arguments.checkpoint, arguments.target)
    except CheckpointError as error:
        sys.exit(f"gguf_export: {error}")


if __name__ == "__main__":
    main()
