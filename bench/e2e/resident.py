"""moestro with all of a model's experts in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moestro import LLM, EngineConfig, SamplingParams
from moestro.models.opening import open_model
from moestro.models.spec import MoeSpec
from peer_runner import random_prompt

_LOADING_RUNS = 16


def open_resident(model: Path, *, threads: int, context: int, prefill_chunk: int, **options: Any) -> tuple[LLM, int]:
    """The model with every expert loaded, and the size of its vocabulary. options: further ones of LLM."""
    spec = open_model(model, EngineConfig(model=str(model))).spec
    experts = sum(layer.mlp.num_experts for layer in spec.layers if isinstance(layer.mlp, MoeSpec))
    llm = LLM(
        model,
        host_memory="min",  # that is: room for everything below, and nothing else
        expert_slots=experts,
        max_model_len=context,
        prefill_chunk=prefill_chunk,
        threads=threads,
        say=None,
        **options,
    )
    _load_experts(llm, spec.vocab_size)
    return llm, spec.vocab_size


def _load_experts(llm: LLM, vocab: int) -> None:
    """Experts are read when first needed: runs until one reads nothing."""
    once = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    for seed in range(_LOADING_RUNS):
        llm.generate([random_prompt(128, vocab, seed)], once)
        stats = llm.stats()
        if stats is not None and stats.misses == 0:
            return
    raise RuntimeError(f"experts were still read from disk after {_LOADING_RUNS} runs of 128 tokens")
