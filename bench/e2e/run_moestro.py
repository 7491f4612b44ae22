"""moestro as a peer: all experts in memory. Options: {"math": ...} where this version has the choice."""

from __future__ import annotations

import time

from moestro import LLM, EngineConfig, SamplingParams, __version__
from moestro.models.opening import open_model
from moestro.models.spec import MoeSpec
from peer_runner import Answer, Settings, random_prompt, serve

_LARGEST_CHUNK = 512  # rows of a prefill step, as "auto" takes at most
_LOADING_RUNS = 16


class Moestro:
    def __init__(self, settings: Settings) -> None:
        spec = open_model(settings.model, EngineConfig(model=str(settings.model))).spec
        experts = sum(layer.mlp.num_experts for layer in spec.layers if isinstance(layer.mlp, MoeSpec))
        self._llm = LLM(
            settings.model,
            host_memory="min",  # that is: room for everything below, and nothing else
            expert_slots=experts,
            max_model_len=settings.context,
            prefill_chunk=min(settings.prompt, _LARGEST_CHUNK),
            threads=settings.threads,
            say=None,
            **settings.options,  # type: ignore[arg-type]
        )
        self.vocab = spec.vocab_size
        report = self._llm.report()
        self.about = f"moestro {__version__}: {report.isa} kernels, KV {report.kv_dtype}, {settings.options or 'exact'}"
        self._load_experts()

    def answer(self, prompt: list[int], count: int) -> Answer:
        params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
        begun = time.perf_counter()
        output = self._llm.generate([prompt], params)[0]
        seconds = time.perf_counter() - begun
        stats = self._llm.stats()
        assert stats is not None and stats.ttft_s is not None
        return Answer(stats.ttft_s, seconds - stats.ttft_s, list(output.outputs[0].token_ids))

    def _load_experts(self) -> None:
        """Experts are read when first needed: runs until one reads nothing."""
        for seed in range(_LOADING_RUNS):
            self.answer(random_prompt(128, self.vocab, seed), 1)
            stats = self._llm.stats()
            if stats is not None and stats.misses == 0:
                return
        raise RuntimeError(f"experts were still read from disk after {_LOADING_RUNS} runs of 128 tokens")


if __name__ == "__main__":
    serve(Moestro)
