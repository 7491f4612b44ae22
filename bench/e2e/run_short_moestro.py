"""moestro within a budget, read from the disk as it goes. Options: {"host_memory": bytes, "stream": ...}.

Tokens are drawn from nearly flat distributions: greedy answers of a random model repeat themselves, and its experts.
"""

from __future__ import annotations

import time
from contextlib import closing

from moestro import LLM, SamplingParams, __version__
from peer_runner import Answer, Settings, disk_bytes, serve


class ShortMoestro:
    def __init__(self, settings: Settings) -> None:
        self._llm = LLM(
            settings.model, threads=settings.threads, max_model_len=settings.context, say=None, **settings.options
        )
        self._seed = settings.seed
        report = self._llm.report()
        self.vocab = self._llm._open().intake.vocab_size
        self.about = f"moestro {__version__}: {report.isa} kernels, {report.reader} {report.file_mode}; " + (
            report.stream or f"{report.expert_slots} of {report.experts} experts fit"
        )

    def answer(self, prompt: list[int], count: int) -> Answer:
        params = SamplingParams(max_tokens=count, temperature=50.0, seed=self._seed, ignore_eos=True)
        begun, tokens = time.perf_counter(), list[int]()
        runtime, first, before, lanes = self._llm._open().model.runtime, 0.0, 0, {"": 0}
        with closing(self._llm.stream(prompt, params)) as chunks:
            for chunk in chunks:
                if not tokens:
                    first, before, lanes = time.perf_counter(), disk_bytes(), runtime.counters()
                tokens += chunk.token_ids
        ended, stats = time.perf_counter(), self._llm.stats()
        assert stats is not None
        decode = {name: value - lanes[name] for name, value in runtime.counters().items()}
        return Answer(
            first - begun, ended - first, tokens, disk_bytes() - before, {**stats.as_dict(), "decode": decode}
        )


if __name__ == "__main__":
    serve(ShortMoestro)
