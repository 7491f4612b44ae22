"""Keys that mixtures share under several names."""

from __future__ import annotations

from collections.abc import Sequence

from moestro.models.config_reader import ConfigReader
from moestro.models.spec import DenseSpec, MoeSpec, RouterSpec, SharedSpec


def read_num_experts(config: ConfigReader) -> int:
    """The hub and transformers 5 call it by different names; several may be there if they agree."""
    key = config.one_of("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return int(config.integer(key))


def read_top_k(config: ConfigReader, experts: int, *names: str) -> int:
    """names: what a family calls it besides num_experts_per_tok."""
    key = config.one_of("num_experts_per_tok", *names)
    top_k = int(config.integer(key))
    if top_k > experts:
        raise config.wrong(key, top_k, f"at most the {experts} experts there are")
    return top_k


def read_shared(
    config: ConfigReader, width: int, *, key: str = "n_shared_experts", default: int = 1
) -> SharedSpec | None:
    """A shared expert as wide as `key` routed ones; none where it is 0 or null."""
    count = config.integer(key, None if config.has(key) else default, low=0)
    return SharedSpec(count * width) if count else None


def read_groups(config: ConfigReader, experts: int, *, groups: int = 1, kept: int = 1) -> tuple[int, int]:
    """Into how many groups the experts are cut and how many of them take part; both are given as defaults."""
    groups, kept = config.integer("n_group", groups), config.integer("topk_group", kept)
    if experts % groups:
        raise config.wrong("n_group", groups, f"a divisor of the {experts} experts")
    if kept > groups:
        raise config.wrong("topk_group", kept, f"at most n_group = {groups}")
    return groups, kept


def read_sigmoid_router(
    config: ConfigReader, experts: int, *, scale: float = 1.0, groups: int = 1, kept: int = 1
) -> RouterSpec:
    """Sigmoid scores, chosen with a correction, by groups (2412.19437). scale: routed_scaling_factor's default; groups
    and kept are those of n_group and topk_group."""
    groups, kept = read_groups(config, experts, groups=groups, kept=kept)
    if experts < 2 * groups:
        raise config.wrong("n_group", groups, f"at most half of the {experts} experts: a group counts by its best two")
    return RouterSpec(
        score="sigmoid",
        correction=True,
        groups=groups,
        kept_groups=kept,
        group_best=2,
        norm_eps=1e-20,
        scale=config.number("routed_scaling_factor", scale),
    )


def dense_first(
    config: ConfigReader, count: int, moe: MoeSpec, *, default: int, key: str = "first_k_dense_replace"
) -> list[DenseSpec | MoeSpec]:
    """Dense layers first, then mixtures; `mlp_layer_types` (transformers 5) says the same layer by layer."""
    first = config.integer(key, default, low=0)
    is_moe = [layer >= first for layer in range(count)]
    types = config.take("mlp_layer_types", None)
    if types is not None:
        if not isinstance(types, list) or len(types) != count or any(kind not in ("dense", "sparse") for kind in types):
            raise config.wrong("mlp_layer_types", types, f"{count} entries of dense or sparse")
        is_moe = [kind == "sparse" for kind in types]
    return mixed(config, is_moe, moe)


def mixed(config: ConfigReader, is_moe: Sequence[bool], moe: MoeSpec) -> list[DenseSpec | MoeSpec]:
    """The layers that are mixtures are `moe`, the others as wide as `intermediate_size`, which may be missing where
    there are none."""
    width = config.integer("intermediate_size", None) if all(is_moe) else config.integer("intermediate_size")
    return [moe if mixture else DenseSpec(width) for mixture in is_moe]


def sparse_step(config: ConfigReader, count: int) -> list[bool]:
    """Which layers are mixtures: every decoder_sparse_step-th, but none of mlp_only_layers."""
    step = config.integer("decoder_sparse_step", 1)
    dense_layers = config.take("mlp_only_layers", [])
    if not isinstance(dense_layers, list) or any(type(layer) is not int for layer in dense_layers):
        raise config.wrong("mlp_only_layers", dense_layers, "a list of layer numbers")
    return [layer not in dense_layers and (layer + 1) % step == 0 for layer in range(count)]
