"""Random-weight Qwen3-MoE and dense Qwen3 checkpoints of any shape, as Hugging Face has them: for benches and tests.

Real checkpoints in every respect but one: they have learned nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from moestro.checkpoint.disk_space import require_space
from moestro.checkpoint.index import CONFIG_FILE, INDEX_FILE
from moestro.checkpoint.safetensors_writer import FileLayout, SafetensorsWriter, TensorEntry, lay_out
from moestro.demo.tokenizer import CHAT_TEMPLATE, END_TOKEN, train_tokenizer

Progress = Callable[[int, int], None]  # (bytes written, bytes in all)

_EMBEDDING = "model.embed_tokens.weight"
_LAYERS_PER_SHARD = 2


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen3-MoE model; without experts, of a dense Qwen3 whose MLP is `expert_width` wide.

    vocab: None for the tokenizer's own; more leaves rows that no text uses.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int
    experts_per_token: int
    expert_width: int
    context: int
    vocab: int | None = None


def write_random_checkpoint(directory: Path, shape: Shape, progress: Progress) -> None:
    """Writes the checkpoint into `directory`, which must not exist.

    Raises StorageError when the disk has no room, before anything is written.
    """
    tokenizer = train_tokenizer()
    vocab = shape.vocab or tokenizer.get_vocab_size()
    shards = [lay_out(entries) for entries in _shards(shape, vocab)]
    require_space(directory, sum(layout.nbytes for layout in shards), "the random model")
    directory.mkdir(parents=True)
    _write_shards(directory, shards, progress)
    _write_json(directory / CONFIG_FILE, _config(shape, vocab, tokenizer.token_to_id(END_TOKEN)))
    _write_tokenizer(directory, tokenizer)


def _write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    _write_json(directory / "tokenizer_config.json", {"eos_token": END_TOKEN, "chat_template": CHAT_TEMPLATE})
    tokenizer.save(str(directory / "tokenizer.json"))


def _shards(shape: Shape, vocab: int) -> Iterator[list[TensorEntry]]:
    yield [_entry(_EMBEDDING, vocab, shape.hidden), _entry("model.norm.weight", shape.hidden)]
    for first in range(0, shape.layers, _LAYERS_PER_SHARD):
        layers = range(first, min(first + _LAYERS_PER_SHARD, shape.layers))
        yield [entry for layer in layers for entry in _layer(shape, f"model.layers.{layer}.")]
    yield [_entry("lm_head.weight", vocab, shape.hidden)]


def _layer(shape: Shape, prefix: str) -> Iterator[TensorEntry]:
    attention = prefix + "self_attn."
    yield _entry(prefix + "input_layernorm.weight", shape.hidden)
    yield _entry(attention + "q_proj.weight", shape.heads * shape.head_dim, shape.hidden)
    yield _entry(attention + "k_proj.weight", shape.kv_heads * shape.head_dim, shape.hidden)
    yield _entry(attention + "v_proj.weight", shape.kv_heads * shape.head_dim, shape.hidden)
    yield _entry(attention + "o_proj.weight", shape.hidden, shape.heads * shape.head_dim)
    yield _entry(attention + "q_norm.weight", shape.head_dim)
    yield _entry(attention + "k_norm.weight", shape.head_dim)
    yield _entry(prefix + "post_attention_layernorm.weight", shape.hidden)
    if not shape.experts:
        yield from _gated_mlp(shape, prefix + "mlp.")
        return
    yield _entry(prefix + "mlp.gate.weight", shape.experts, shape.hidden)
    for expert in range(shape.experts):
        yield from _gated_mlp(shape, f"{prefix}mlp.experts.{expert}.")


def _gated_mlp(shape: Shape, prefix: str) -> Iterator[TensorEntry]:
    yield _entry(prefix + "gate_proj.weight", shape.expert_width, shape.hidden)
    yield _entry(prefix + "up_proj.weight", shape.expert_width, shape.hidden)
    yield _entry(prefix + "down_proj.weight", shape.hidden, shape.expert_width)


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
                writer.append(entry.name, weights(entry.name, entry.shape))
                done += entry.nbytes
                progress(done, total)
    _write_json(directory / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


class _RandomWeights:
    """bf16 bits: ones for norms; for matrices a normal distribution that keeps the size of what passes through them.

    Embeddings are as large as what the layers add to them, so that tokens stay different and every token takes experts
    of its own: the worst case for a cache.
    Values are looked up by 16 random bits in the 65536 quantiles: several times faster than drawing normal numbers.
    """

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        normal = NormalDist()
        self._quantiles = np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)], np.float32)
        self._tables: dict[int, NDArray[np.uint16]] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint16]:
        if len(shape) == 1:
            return np.full(shape, 0x3F80, np.uint16)
        table = self._table(1 if name == _EMBEDDING else shape[1])
        bits: NDArray[np.uint16] = table[self._random.integers(0, 65536, shape, np.uint16)]
        return bits

    def _table(self, columns: int) -> NDArray[np.uint16]:
        if columns not in self._tables:
            scaled = self._quantiles * np.float32(columns**-0.5)
            self._tables[columns] = (scaled.view(np.uint32) >> 16).astype(np.uint16)
        return self._tables[columns]


def _config(shape: Shape, vocab: int, end_token: int | None) -> dict[str, Any]:
    name, model_type = ("Qwen3Moe", "qwen3_moe") if shape.experts else ("Qwen3", "qwen3")
    return {
        "architectures": [f"{name}ForCausalLM"],
        "model_type": model_type,
        "attention_bias": False,
        "attention_dropout": 0.0,
        **(_moe_config(shape) if shape.experts else {}),
        "eos_token_id": end_token,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": (4 if shape.experts else 1) * shape.expert_width,
        "max_position_embeddings": shape.context,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": vocab,
    }


def _moe_config(shape: Shape) -> dict[str, Any]:
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": shape.expert_width,
        "norm_topk_prob": True,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.experts_per_token,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
