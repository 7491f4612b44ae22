"""What the decoder needs to know of a model: plain, frozen data. Families make it from config.json.

The block is the same for every family here: x += attention(norm(x)); x += mlp(norm(x)), RMS norms with a weight, rotary
embedding over the whole head in the half-split layout, softmax scale head_dim ** -0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from moestro.checkpoint.dataclass_json import later


@dataclass(frozen=True)
class RopeSpec:
    """Rotary embedding. `moestro.models.rope` turns it into frequencies; fields a type does not use keep defaults."""

    theta: float  # base wavelength
    type: str = "default"  # "default" | "linear" | "dynamic" | "llama3" | "yarn" | "longrope"
    factor: float = 1.0  # context extension (all but default)
    max_position_embeddings: int = 0  # dynamic: the length from which the base grows
    original_max_position_embeddings: int | None = None  # llama3, yarn, longrope: the length before extension
    low_freq_factor: float | None = None  # llama3
    high_freq_factor: float | None = None  # llama3
    attention_factor: float | None = None  # yarn, longrope: multiplies cos and sin; None derives it
    beta_fast: float = 32.0  # yarn: rotations above which a frequency is kept
    beta_slow: float = 1.0  # yarn: rotations below which a frequency is interpolated
    mscale: float | None = None  # yarn: with mscale_all_dim, derives the attention factor
    mscale_all_dim: float | None = None  # yarn
    truncate: bool = True  # yarn: round the correction range to whole dimensions
    short_factor: tuple[float, ...] = later(
        ()
    )  # longrope, [head_dim / 2]: divides frequencies up to the original length
    long_factor: tuple[float, ...] = later(())  # the same beyond it


@dataclass(frozen=True)
class DenseSpec:
    """A gated MLP used by every token: down(act(gate x) * up x)."""

    intermediate_size: int  # rows of gate and up


@dataclass(frozen=True)
class MoeSpec:
    """A mixture of gated MLPs: softmax over all experts, the k most probable ones, a weighted sum of their outputs."""

    num_experts: int
    num_experts_per_tok: int  # k
    intermediate_size: int  # rows of each expert's gate and up
    norm_topk_prob: bool  # divide the k kept probabilities by their sum


@dataclass(frozen=True)
class LayerSpec:
    sliding_window: int | None  # w: key j is visible to query i iff i - w < j <= i; None: iff j <= i
    mlp: DenseSpec | MoeSpec
    rotary: bool = later(True)  # positions enter queries and keys; False: attention sees no positions


@dataclass(frozen=True)
class ModelSpec:
    model_type: str  # the family, as config.json names it
    vocab_size: int  # rows of embedding and head
    hidden_size: int
    num_heads: int  # query heads
    num_kv_heads: int  # key/value heads; divides num_heads, each serves num_heads / num_kv_heads query heads in a row
    head_dim: int  # even; num_heads * head_dim may differ from hidden_size
    rms_norm_eps: float
    rope: RopeSpec
    qk_norm: bool  # RMS norm of every query and key head, before the rotary embedding
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool  # biases on gate, up and down of dense layers
    tie_word_embeddings: bool  # the head is the embedding
    max_position_embeddings: int  # longest context before the rotary scaling extends it, tokens; see context_length
    dtype: str  # the checkpoint's own precision: "f32" | "bf16" | "f16"
    activation: str  # of gated MLPs: "silu"
    layers: tuple[LayerSpec, ...]

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def context_length(self) -> int:
        """The longest context in tokens, rotary scaling included.

        linear and dynamic stretch max_position_embeddings; yarn stretches the original length, which configs may or
        may not have written into max_position_embeddings already; llama3 configs always have.
        """
        rope, limit = self.rope, self.max_position_embeddings
        if rope.type in ("linear", "dynamic"):
            return max(limit, int(limit * rope.factor))
        if rope.type == "yarn":
            return max(limit, int((rope.original_max_position_embeddings or limit) * rope.factor))
        return limit
