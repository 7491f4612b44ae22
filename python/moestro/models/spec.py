"""What the decoder needs to know of a model: plain, frozen data. Families make it from config.json.

One decoder runs every family. Where a field keeps its default, the model is llama-like in that respect: x +=
attention(norm(x)); x += mlp(norm(x)), RMS norms with a weight, the rotary embedding over the whole head in the
half-split layout, softmax scale head_dim ** -0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from moestro.checkpoint.dataclass_json import later

# What fields of the same names may say; what each means is said there.
ACTIVATIONS = ("silu", "gelu_tanh", "clamped_swiglu")
BLOCKS = ("pre", "sandwich", "post", "parallel")
NORMS = ("rms", "rms_plus_one", "layer")
QK_NORMS = ("head", "whole", "head_after_rope", "plain_after_rope")
ROUTER_SCORES = ("softmax", "sigmoid", "chosen", "sigmoid_of_chosen", "sparsemixer")


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
    # longrope, [rotated dimensions / 2]: divides frequencies up to the original length
    short_factor: tuple[float, ...] = later(())
    long_factor: tuple[float, ...] = later(())  # the same beyond it
    rotary_dim: int | None = later(None)  # leading dimensions of a head that are rotated, even; None: all


@dataclass(frozen=True)
class DenseSpec:
    """A gated MLP used by every token: down(act(gate x) * up x)."""

    intermediate_size: int  # rows of gate and up


@dataclass(frozen=True)
class RouterSpec:
    """How experts are chosen and weighed from the router's logits.

    score: "softmax" and "sigmoid" of all logits; "chosen": the k largest logits, weighed by their softmax;
    "sigmoid_of_chosen": the same, weighed by their sigmoid; "sparsemixer": two rounds of arg max (2310.00811), two
    experts always.
    """

    score: str = "softmax"
    bias: bool = False  # on the logits
    correction: bool = False  # a bias per expert on the scores that choose; weights are the scores without it
    groups: int = 1  # experts are cut into so many groups in a row ...
    kept_groups: int = 1  # ... of which so many take part
    group_best: int = 1  # a group counts as the sum of so many best scores of it
    norm_eps: float = 0.0  # added to the sum that divides the weights
    norm_min: float = 0.0  # the least that sum may be
    scale: float = 1.0  # multiplies the weights
    jitter: float = 0.0  # sparsemixer: logits further than twice this below the best, relatively, are left out


@dataclass(frozen=True)
class SharedSpec:
    """A gated MLP beside the experts, used by every token."""

    intermediate_size: int
    gated: bool = False  # its output is multiplied by the sigmoid of one more linear's output


@dataclass(frozen=True)
class MoeSpec:
    """A mixture of gated MLPs: the router chooses k of them, a weighted sum of whose outputs is added."""

    num_experts: int
    num_experts_per_tok: int  # k
    intermediate_size: int  # rows of each expert's gate and up
    norm_topk_prob: bool  # divide the k kept weights by their sum
    router: RouterSpec = later(RouterSpec())
    shared: SharedSpec | None = later(None)
    expert_bias: bool = later(False)  # biases on gate, up and down of every expert
    weigh_input: bool = later(False)  # the router's weight multiplies the expert's input, not its output
    average: bool = later(False)  # half of routed and shared outputs together
    pre_gated: bool = later(False)  # the router reads what the router of the layer before read


@dataclass(frozen=True)
class LayerSpec:
    sliding_window: int | None  # w: key j is visible to query i iff i - w < j <= i; None: iff j <= i
    mlp: DenseSpec | MoeSpec
    rotary: bool = later(True)  # positions enter queries and keys; False: attention sees no positions
    rope: int = later(0)  # which embedding: 0 is ModelSpec.rope, i is ModelSpec.other_ropes[i - 1]
    chunk: int | None = later(None)  # c: key j is visible to query i <= j only in the same run of c positions


@dataclass(frozen=True)
class MlaSpec:
    """Multi-head latent attention (2405.04434): what is cached of a token is one latent and one rotated key.

    A head's query is [nope | rope], its key [W_uk latent | the rotated key that all share], its value W_uv latent.
    """

    kv_lora_rank: int  # of the latent
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None  # queries come through a latent of their own
    norm_eps: float = 1e-6  # of the latents' norms


@dataclass(frozen=True)
class QueryTemperature:
    """Queries of layers without rotary embedding grow with their position (2501.19399): times
    1 + scale * log(1 + floor((position + 1) / floor_scale)).
    """

    floor_scale: float
    scale: float


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
    qk_norm: bool  # RMS norm of queries and keys: of every head, before the rotary embedding, unless qk_norm_kind
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool  # biases on gate, up and down of dense layers and shared experts
    tie_word_embeddings: bool  # the head is the embedding
    max_position_embeddings: int  # longest context before the rotary scaling extends it, tokens; see context_length
    dtype: str  # the checkpoint's own precision: "f32" | "bf16" | "f16"
    activation: str  # of gated MLPs: "silu" | "gelu_tanh" | "clamped_swiglu"
    layers: tuple[LayerSpec, ...]
    # Where norms stand. "pre": before attention and mlp. "sandwich": before and after each. "post": after each.
    # "parallel": one before both, which read the same and are added together.
    block: str = later("pre")
    norm: str = later("rms")  # "rms" | "rms_plus_one" (the weight counts from one) | "layer"
    norm_bias: bool = later(False)  # of layer norms
    # "head": see qk_norm. "whole": over all heads together. "head_after_rope". "plain_after_rope": no weight, and in
    # layers with rotary embedding only.
    qk_norm_kind: str = later("head")
    clip_qkv: float | None = later(None)  # queries, keys and values are clamped to so much either way
    attention_scale: float | None = later(None)  # of scores; None: head_dim ** -0.5
    attention_softcap: float | None = later(None)  # c: a score s becomes c * tanh(s / c)
    attention_gate: bool = later(False)  # heads' outputs are multiplied by the sigmoid of one more linear of the input
    sinks: bool = later(False)  # one logit per head that takes part in the softmax and counts for nothing
    rope_pairs: bool = later(False)  # the rotary embedding turns neighbours, not halves of the head
    other_ropes: tuple[RopeSpec, ...] = later(())
    query_temperature: QueryTemperature | None = later(None)
    mla: MlaSpec | None = later(None)  # num_heads heads of it; num_kv_heads and head_dim are those of what is cached
    embedding_multiplier: float = later(1.0)
    residual_multiplier: float = later(1.0)  # of what attention and mlp add
    logit_multiplier: float = later(1.0)
    logit_softcap: float | None = later(None)
    head_bias: bool = later(False)
    predicts_further: bool = later(False)  # checkpoints may hold layers that guess the tokens after the next; unused
    dense_context: int | None = later(None)  # tokens up to which the model's sparse attention sees everything

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def ropes(self) -> tuple[RopeSpec, ...]:
        return (self.rope, *self.other_ropes)

    @property
    def value_dim(self) -> int:
        """Elements of a cached value."""
        return self.head_dim if self.mla is None else self.mla.kv_lora_rank

    @property
    def context_length(self) -> int:
        """The longest context in tokens, rotary scaling included.

        linear and dynamic stretch max_position_embeddings, unless each kind of layer has an embedding of its own; yarn
        stretches the original length, which configs may or may not have written into max_position_embeddings already;
        llama3 configs always have.
        """
        rope, limit = self.rope, self.max_position_embeddings
        if rope.type in ("linear", "dynamic") and not self.other_ropes:
            limit = max(limit, int(limit * rope.factor))
        if rope.type == "yarn":
            limit = max(limit, int((rope.original_max_position_embeddings or limit) * rope.factor))
        return limit if self.dense_context is None else min(limit, self.dense_context)

    @property
    def context_reason(self) -> str:
        """Why the context can be no longer, in the words of an error message."""
        if self.dense_context == self.context_length:
            return (
                f"beyond {self.dense_context} tokens {self.model_type} attends to chosen tokens only (sparse attention,"
                " index_topk in config.json), which moestro does not do yet"
            )
        return f"the model was made for {self.context_length} tokens"
