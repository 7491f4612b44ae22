"""Keys that mixtures share under several names."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader


def read_num_experts(config: ConfigReader) -> int:
    """`num_experts` (transformers 4) or `num_local_experts` (transformers 5); both may be there if they agree."""
    older, newer = config.integer("num_experts", None), config.integer("num_local_experts", None)
    if older is not None and newer is not None and older != newer:
        raise config.wrong("num_experts", older, f"the same as num_local_experts = {newer}")
    count = older if older is not None else newer
    return int(config.integer("num_experts") if count is None else count)


def read_top_k(config: ConfigReader, experts: int) -> int:
    top_k = int(config.integer("num_experts_per_tok"))
    if top_k > experts:
        raise config.wrong("num_experts_per_tok", top_k, f"at most the {experts} experts there are")
    return top_k
