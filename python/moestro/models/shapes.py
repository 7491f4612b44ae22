"""What a ModelSpec says every weight of a layer must be: names and shapes, the same for every source of weights."""

from __future__ import annotations

from moestro.models.spec import DenseSpec, ModelSpec

Shape = tuple[int, int]  # rows (outputs), cols (inputs)


def linear_shapes(spec: ModelSpec, layer: int) -> dict[str, Shape]:
    """The trunk's matrices of a layer in the order of their use: q, k, v, o, then a dense MLP's gate, up, down."""
    hidden, queries, keys = spec.hidden_size, spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shapes = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    mlp = spec.layers[layer].mlp
    return shapes | gated_shapes(hidden, mlp.intermediate_size) if isinstance(mlp, DenseSpec) else shapes


def gated_shapes(hidden: int, intermediate: int) -> dict[str, Shape]:
    """gate, up and down of one gated MLP."""
    return {"gate": (intermediate, hidden), "up": (intermediate, hidden), "down": (hidden, intermediate)}


def biased_linears(spec: ModelSpec, layer: int) -> frozenset[str]:
    """Names of `linear_shapes` whose matrix has a bias."""
    names: set[str] = set()
    if spec.qkv_bias:
        names |= {"q", "k", "v"}
    if spec.o_bias:
        names |= {"o"}
    if spec.mlp_bias and isinstance(spec.layers[layer].mlp, DenseSpec):
        names |= {"gate", "up", "down"}
    return frozenset(names)
