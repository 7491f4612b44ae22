"""moestro as a peer: all experts in memory. Options: {"math": ...} where this version has the choice."""

from __future__ import annotations

import time

from moestro import SamplingParams, __version__
from peer_runner import Answer, Settings, serve
from resident import open_resident

_LARGEST_CHUNK = 512  # rows of a prefill step, as "auto" takes at most


class Moestro:
    def __init__(self, settings: Settings) -> None:
        self._llm, self.vocab = open_resident(
            settings.model,
            threads=settings.threads,
            context=settings.context,
            prefill_chunk=min(settings.prompt, _LARGEST_CHUNK),
            **settings.options,
        )
        report = self._llm.report()
        self.about = f"moestro {__version__}: {report.isa} kernels, KV {report.kv_dtype}, {settings.options or 'exact'}"

    def answer(self, prompt: list[int], count: int) -> Answer:
        params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
        begun = time.perf_counter()
        output = self._llm.generate([prompt], params)[0]
        seconds = time.perf_counter() - begun
        stats = self._llm.stats()
        assert stats is not None and stats.ttft_s is not None
        return Answer(stats.ttft_s, seconds - stats.ttft_s, list(output.outputs[0].token_ids))


if __name__ == "__main__":
    serve(Moestro)
