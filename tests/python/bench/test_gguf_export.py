"""The exported GGUF, read back by the gguf package, holds the checkpoint's own values under llama.cpp's names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tiny_gguf import SHAPE, run_bench
from tokenizers import Tokenizer


def expected(checkpoint: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """llama.cpp's names and shapes, as its loader for qwen3moe asks for them."""
    have: dict[str, torch.Tensor] = {}
    for shard in checkpoint.glob("*.safetensors"):
        have.update(load_file(shard))
    yield "token_embd.weight", have["model.embed_tokens.weight"]
    yield "output_norm.weight", have["model.norm.weight"]
    yield "output.weight", have["lm_head.weight"]
    for n in range(SHAPE.layers):
        hf = f"model.layers.{n}."
        yield f"blk.{n}.attn_norm.weight", have[hf + "input_layernorm.weight"]
        yield f"blk.{n}.ffn_norm.weight", have[hf + "post_attention_layernorm.weight"]
        for name in "qkv":
            yield f"blk.{n}.attn_{name}.weight", have[f"{hf}self_attn.{name}_proj.weight"]
        for name in "qk":
            yield f"blk.{n}.attn_{name}_norm.weight", have[f"{hf}self_attn.{name}_norm.weight"]
        yield f"blk.{n}.attn_output.weight", have[hf + "self_attn.o_proj.weight"]
        yield f"blk.{n}.ffn_gate_inp.weight", have[hf + "mlp.gate.weight"]
        for name in ("gate", "up", "down"):
            experts = [have[f"{hf}mlp.experts.{e}.{name}_proj.weight"] for e in range(SHAPE.experts)]
            yield f"blk.{n}.ffn_{name}_exps.weight", torch.stack(experts)


def values(tensor: gguf.ReaderTensor) -> NDArray[np.float32]:
    return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])


def test_every_tensor_has_its_name_shape_type_and_values(checkpoint: Path, gguf_file: Path) -> None:
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}
    want = dict(expected(checkpoint))
    assert found.keys() == want.keys()
    for name, tensor in want.items():
        small = tensor.ndim == 1 or "gate_inp" in name
        kind = gguf.GGMLQuantizationType.F32 if small else gguf.GGMLQuantizationType.BF16
        assert found[name].tensor_type == kind
        np.testing.assert_array_equal(values(found[name]), tensor.float().numpy(), err_msg=name)


def test_metadata_are_the_configs(gguf_file: Path) -> None:
    reader = gguf.GGUFReader(gguf_file)
    got = {name: field.contents() for name, field in reader.fields.items() if name.startswith("qwen3moe.")}
    assert reader.fields["general.architecture"].contents() == "qwen3moe"
    assert got.pop("qwen3moe.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    assert got == {
        "qwen3moe.block_count": SHAPE.layers,
        "qwen3moe.context_length": SHAPE.context,
        "qwen3moe.embedding_length": SHAPE.hidden,
        "qwen3moe.feed_forward_length": 4 * SHAPE.expert_width,
        "qwen3moe.attention.head_count": SHAPE.heads,
        "qwen3moe.attention.head_count_kv": SHAPE.kv_heads,
        "qwen3moe.attention.key_length": SHAPE.head_dim,
        "qwen3moe.attention.value_length": SHAPE.head_dim,
        "qwen3moe.rope.dimension_count": SHAPE.head_dim,
        "qwen3moe.rope.freq_base": 1e6,
        "qwen3moe.expert_count": SHAPE.experts,
        "qwen3moe.expert_used_count": SHAPE.experts_per_token,
        "qwen3moe.expert_feed_forward_length": SHAPE.expert_width,
        "qwen3moe.vocab_size": SHAPE.vocab,
    }


def test_the_vocabulary_is_the_tokenizers_and_the_rest_is_unused(checkpoint: Path, gguf_file: Path) -> None:
    fields = gguf.GGUFReader(gguf_file).fields
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    texts = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert SHAPE.vocab == len(texts) == len(kinds) > size
    assert texts[:size] == [tokenizer.id_to_token(number) for number in range(size)]
    assert set(kinds[size:]) == {gguf.TokenType.UNUSED}
    assert [texts[number] for number, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL] == [
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert texts[fields["tokenizer.ggml.eos_token_id"].contents()] == "<|im_end|>"
    merges = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"].contents() == [m if isinstance(m, str) else " ".join(m) for m in merges]


@pytest.mark.parametrize(("key", "value"), [("norm_topk_prob", False), ("rope_scaling", {"rope_type": "linear"})])
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    key: str, value: object, checkpoint: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, key: value}))
    done = run_bench("gguf_export.py", str(other), str(tmp_path / "out.gguf"))
    assert done.returncode == 1
    assert key in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
