"""What a ModelSpec may say."""

from __future__ import annotations

from collections.abc import Iterator

from moestro.checkpoint.weights import CORE_TYPES
from moestro.models.rope import ROPE_TYPES
from moestro.models.spec import ACTIVATIONS, BLOCKS, NORMS, QK_NORMS, ROUTER_SCORES, ModelSpec, MoeSpec


def impossible_values(spec: ModelSpec) -> Iterator[str]:
    """What no model can have, by field: families check a config's keys, this what they made of them or a file says."""
    mixtures = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    checks = {
        "activation": spec.activation in ACTIVATIONS,
        "block": spec.block in BLOCKS,
        "norm": spec.norm in NORMS,
        "qk_norm_kind": spec.qk_norm_kind in QK_NORMS,
        "router": all(_possible_router(moe) for moe in mixtures),
        "dtype": spec.dtype in CORE_TYPES.values(),
        "num_kv_heads": spec.num_kv_heads > 0 and spec.num_heads % spec.num_kv_heads == 0,
        "head_dim": spec.head_dim > 0 and spec.head_dim % 2 == 0,
        "rms_norm_eps": spec.rms_norm_eps >= 0,
        "max_position_embeddings": spec.max_position_embeddings > 0,
        "sliding_window": all(layer.sliding_window is None or layer.sliding_window > 0 for layer in spec.layers),
        "num_experts_per_tok": all(1 <= moe.num_experts_per_tok <= moe.num_experts for moe in mixtures),
        "pre_gated": _possible_pre_gates(spec),
        "rope": all(rope.type in ROPE_TYPES and rope.theta > 0 and rope.factor > 0 for rope in spec.ropes),
        "layers": all(0 <= layer.rope < len(spec.ropes) for layer in spec.layers),
    }
    yield from (f"model: {name} is impossible or unknown" for name, possible in checks.items() if not possible)


def _possible_pre_gates(spec: ModelSpec) -> bool:
    """The layer before a pre-gated one has a router input to read."""
    mixtures = [layer.mlp if isinstance(layer.mlp, MoeSpec) else None for layer in spec.layers]
    return all(
        before is not None for before, moe in zip([None, *mixtures], mixtures, strict=False) if moe and moe.pre_gated
    )


def _possible_router(moe: MoeSpec) -> bool:
    router = moe.router
    grouped = router.groups >= 1 and moe.num_experts % router.groups == 0
    if router.score not in ROUTER_SCORES or not grouped or not 1 <= router.kept_groups <= router.groups:
        return False
    # The chosen ones come from the kept groups; a mixer has two rounds.
    enough = moe.num_experts_per_tok <= moe.num_experts // router.groups * router.kept_groups
    weighed = moe.num_experts_per_tok == 1 or not moe.weigh_input
    return enough and weighed and (router.score != "sparsemixer" or moe.num_experts_per_tok == 2)
