"""The tensors of a qwen3_moe checkpoint as llama.cpp names and stacks them, read from safetensors one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moestro.checkpoint.index import CheckpointIndex
from moestro.checkpoint.safetensors_index import TensorInfo

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
}
_EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
_ROUTER = "ffn_gate_inp"


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the GGUF; `parts` are stacked along a new first axis when there are several."""

    name: str
    parts: tuple[TensorInfo, ...]
    widened: bool  # to F32, as llama.cpp wants norms and routers

    @property
    def shape(self) -> tuple[int, ...]:
        inner = self.parts[0].shape
        return inner if len(self.parts) == 1 else (len(self.parts), *inner)

    def read(self) -> NDArray[Any]:
        """float32 where widened, else the checkpoint's bf16 bits as uint16."""
        pieces = [np.fromfile(part.file, "<u2", part.nbytes // 2, offset=part.offset) for part in self.parts]
        bits = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        values = (bits.astype(np.uint32) << 16).view(np.float32) if self.widened else bits
        return values.reshape(self.shape)


def gguf_tensors(index: CheckpointIndex, config: dict[str, Any]) -> Iterator[GgufTensor]:
    """All of them, in the order of a forward pass. Raises KeyError for a name that the checkpoint lacks."""

    def one(name: str, source: str) -> GgufTensor:
        info = index.tensors[f"{source}.weight"]
        return GgufTensor(f"{name}.weight", (info,), len(info.shape) == 1 or name.endswith(_ROUTER))

    yield one("token_embd", "model.embed_tokens")
    for layer in range(config["num_hidden_layers"]):
        source, target = f"model.layers.{layer}", f"blk.{layer}"
        for name, block in _LAYER.items():
            yield one(f"{target}.{name}", f"{source}.{block}")
        for name, block in _EXPERTS.items():
            experts = (f"{source}.mlp.experts.{expert}.{block}.weight" for expert in range(config["num_experts"]))
            yield GgufTensor(f"{target}.{name}.weight", tuple(index.tensors[expert] for expert in experts), False)
    yield one("output_norm", "model.norm")
    yield one("output", "lm_head")
