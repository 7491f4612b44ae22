"""The demo's model: Qwen3-MoE-shaped, random weights, about 1 GB, written as a Hugging Face checkpoint.

It is a real checkpoint in every respect but one: it has learned nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moestro.cache_dir import PARTIAL, cache_root
from moestro.checkpoint.disk_space import require_space
from moestro.checkpoint.index import CONFIG_FILE, INDEX_FILE
from moestro.checkpoint.safetensors_writer import FileLayout, SafetensorsWriter, TensorEntry, lay_out
from moestro.demo.tokenizer import CHAT_TEMPLATE, END_TOKEN, train_tokenizer

Progress = Callable[[int, int], None]  # (bytes written, bytes in all)

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 768, 8, 12, 4, 64
EXPERTS, EXPERTS_PER_TOKEN, EXPERT_WIDTH = 64, 8, 384
CONTEXT = 4096

_NAME = "random-qwen3-moe-1"  # another shape is another name
_LAYERS_PER_SHARD = 2


def demo_directory() -> Path:
    """Where the demo's checkpoint is, or will be."""
    return cache_root() / "demo" / _NAME


def make_demo_model(progress: Progress) -> Path:
    """Writes the checkpoint unless it is there. Appears whole or not at all; an interrupted one is begun again.

    Raises StorageError when the disk has no room, before anything is written.
    """
    directory = demo_directory()
    if directory.exists():
        return directory
    partial = directory.with_name(f"{directory.name}.{os.getpid()}{PARTIAL}")
    tokenizer = train_tokenizer()
    vocab = tokenizer.get_vocab_size()
    shards = [lay_out(entries) for entries in _shards(vocab)]
    require_space(directory, sum(layout.nbytes for layout in shards), "the demo model")
    partial.mkdir(parents=True)
    try:
        _write_shards(partial, shards, progress)
        _write_json(partial / CONFIG_FILE, _config(vocab, tokenizer.token_to_id(END_TOKEN)))
        _write_json(partial / "tokenizer_config.json", {"eos_token": END_TOKEN, "chat_template": CHAT_TEMPLATE})
        tokenizer.save(str(partial / "tokenizer.json"))
        _publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _publish(partial: Path, directory: Path) -> None:
    try:
        partial.rename(directory)
    except OSError:
        if not directory.exists():  # otherwise another process was first, with the same bytes
            raise


def _shards(vocab: int) -> Iterator[list[TensorEntry]]:
    yield [_entry("model.embed_tokens.weight", vocab, HIDDEN), _entry("model.norm.weight", HIDDEN)]
    for first in range(0, LAYERS, _LAYERS_PER_SHARD):
        layers = range(first, min(first + _LAYERS_PER_SHARD, LAYERS))
        yield [entry for layer in layers for entry in _layer(f"model.layers.{layer}.")]
    yield [_entry("lm_head.weight", vocab, HIDDEN)]


def _layer(prefix: str) -> Iterator[TensorEntry]:
    attention = prefix + "self_attn."
    yield _entry(prefix + "input_layernorm.weight", HIDDEN)
    yield _entry(attention + "q_proj.weight", HEADS * HEAD_DIM, HIDDEN)
    yield _entry(attention + "k_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN)
    yield _entry(attention + "v_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN)
    yield _entry(attention + "o_proj.weight", HIDDEN, HEADS * HEAD_DIM)
    yield _entry(attention + "q_norm.weight", HEAD_DIM)
    yield _entry(attention + "k_norm.weight", HEAD_DIM)
    yield _entry(prefix + "post_attention_layernorm.weight", HIDDEN)
    yield _entry(prefix + "mlp.gate.weight", EXPERTS, HIDDEN)
    for expert in range(EXPERTS):
        yield _entry(f"{prefix}mlp.experts.{expert}.gate_proj.weight", EXPERT_WIDTH, HIDDEN)
        yield _entry(f"{prefix}mlp.experts.{expert}.up_proj.weight", EXPERT_WIDTH, HIDDEN)
        yield _entry(f"{prefix}mlp.experts.{expert}.down_proj.weight", HIDDEN, EXPERT_WIDTH)


def _entry(name: str, *shape: int) -> TensorEntry:
    return TensorEntry(name, "BF16", shape, 2 * int(np.prod(shape)))


def _write_shards(directory: Path, shards: list[FileLayout], progress: Progress) -> None:
    total = sum(entry.nbytes for layout in shards for entry in layout.entries)
    weights, done = _RandomWeights(), 0
    weight_map: dict[str, str] = {}
    for number, layout in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with SafetensorsWriter(directory / name, layout) as writer:
            for entry in layout.entries:
                weight_map[entry.name] = name
                writer.append(entry.name, weights(entry.shape))
                done += entry.nbytes
                progress(done, total)
    _write_json(directory / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


class _RandomWeights:
    """bf16 bits: ones for norms; for matrices a normal distribution that keeps the size of what passes through them.

    Values are looked up by 16 random bits in the 65536 quantiles: several times faster than drawing normal numbers.
    """

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        normal = NormalDist()
        self._quantiles = np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)], np.float32)
        self._tables: dict[int, NDArray[np.uint16]] = {}

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.uint16]:
        if len(shape) == 1:
            return np.full(shape, 0x3F80, np.uint16)
        bits: NDArray[np.uint16] = self._table(shape[1])[self._random.integers(0, 65536, shape, np.uint16)]
        return bits

    def _table(self, columns: int) -> NDArray[np.uint16]:
        if columns not in self._tables:
            scaled = self._quantiles * np.float32(columns**-0.5)
            self._tables[columns] = (scaled.view(np.uint32) >> 16).astype(np.uint16)
        return self._tables[columns]


def _config(vocab: int, end_token: int | None) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "decoder_sparse_step": 1,
        "eos_token_id": end_token,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * EXPERT_WIDTH,
        "max_position_embeddings": CONTEXT,
        "mlp_only_layers": [],
        "moe_intermediate_size": EXPERT_WIDTH,
        "norm_topk_prob": True,
        "num_attention_heads": HEADS,
        "num_experts": EXPERTS,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": vocab,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
