"""One model, one schedule, one process: an answer within each share of device memory, as JSON lines.

With device "cpu" it is the reference: it writes its logits and the routing of its run, for the others to be held
against. Tokens are drawn from nearly flat distributions, from fixed seeds: every exact run draws the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import numpy as np

from budget import Needs
from moestro import LLM, EngineConfig, SamplingParams
from moestro.models.opening import open_model
from moestro.plan.device import plan_device
from moestro.plan.memory import plan_memory
from moestro.threads import default_threads
from moestro.trace.routing import write_routing_trace
from peer_runner import random_prompt

_LOGIT_ROWS, _WARM_PROMPT, _WARM_TOKENS = 24, 256, 16


@dataclass(frozen=True)
class Settings:
    model: str
    device: str  # as LLM takes it
    schedule: str
    prefetch: str
    shares: list[float]  # of all experts, in device memory
    prompt: int
    generate: int
    reference: str  # a folder: logits and routing of the reference

    @property
    def context(self) -> int:
        return max(_WARM_PROMPT, self.prompt) + max(_WARM_TOKENS, self.generate) + 1


def needs(settings: Settings) -> Needs:
    """What the model takes beside its experts."""
    config = _config(settings, "auto")
    opened = open_model(Path(settings.model), config)
    model, threads = opened.footprint(), default_threads()
    plan = plan_memory(model, config, threads, there=True)
    trunk = plan_device(model, 0, plan, settings.context).missing
    on_host = plan_memory(model, config, threads)
    host = sum(line.nbytes for line in on_host.lines)
    return Needs(experts=model.records, record=model.record, trunk=trunk, host=host + (1 << 30))


def _config(settings: Settings, memory: int | str) -> EngineConfig:
    return EngineConfig(
        model=settings.model, host_memory=memory, max_model_len=settings.context, prefill_chunk=settings.prompt
    )


class Run:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._needs = needs(settings)
        reference = settings.device == "cpu"
        options: dict[str, Any] = {}
        if reference:
            rows = _WARM_PROMPT + _WARM_TOKENS + settings.prompt + settings.generate + _LOGIT_ROWS
            options = {"record_tokens": 2 * rows, "record_ahead": 3}
        else:
            options = {
                "device": settings.device,
                "device_memory": self._needs.device_memory(settings.shares[0]),
                "schedule": settings.schedule,
                "prefetch": settings.prefetch,
            }
        begun = time.perf_counter()
        self._llm = LLM(
            settings.model,
            host_memory=self._needs.host_memory(),
            max_model_len=settings.context,
            prefill_chunk=settings.prompt,
            say=None,
            **options,
        )
        self._loading = time.perf_counter() - begun
        self._runtime = self._llm._open().model.runtime
        self._vocab = self._llm._open().intake.vocab_size

    def reference(self) -> dict[str, Any]:
        folder = Path(self._settings.reference)
        np.save(folder / "logits.npy", self._logits())
        self._llm.routing()  # what came before is not part of the run
        result = self._measure()
        trace = self._llm.routing()
        write_routing_trace(folder / "routing.npz", trace)
        (folder / "tokens.json").write_text(json.dumps(result["tokens"]))
        steps = len(trace.array("step_rows"))
        return {**result, "share": None, "first_step": steps - self._settings.generate + 1}

    def share(self, share: float) -> dict[str, Any]:
        if share != self._settings.shares[0]:
            self._llm.resize(device_memory=self._needs.device_memory(share))
        folder = Path(self._settings.reference)
        expected = np.load(folder / "logits.npy")
        same = np.array_equal(self._logits().view(np.uint32), expected.view(np.uint32))
        result = self._measure()
        same_tokens = result["tokens"] == json.loads((folder / "tokens.json").read_text())
        return {**result, "share": share, "same_logits": bool(same), "same_tokens": same_tokens}

    def _logits(self) -> Any:
        return self._llm.logits(random_prompt(_LOGIT_ROWS, self._vocab, 3))

    def _measure(self) -> dict[str, Any]:
        self._answer(_WARM_PROMPT, _WARM_TOKENS, 1)
        measured = self._answer(self._settings.prompt, self._settings.generate, 2)
        report = self._llm.report()
        facts = {
            "loading_s": self._loading,
            "isa": report.isa,
            "threads": report.threads,
            "policy": report.policy,
            "refused": list(report.refused),
            "needs": asdict(self._needs),
            "residency": self._runtime.residency(),
            "device_facts": getattr(report, "device_facts", None),
        }
        return {**measured, **facts}

    def _answer(self, prompt: int, generate: int, seed: int) -> dict[str, Any]:
        params = SamplingParams(max_tokens=generate, temperature=50.0, seed=seed, ignore_eos=True)
        tokens: list[int] = []
        before: dict[str, int] = {}
        begun = first = time.perf_counter()
        with closing(self._llm.stream(random_prompt(prompt, self._vocab, seed), params)) as chunks:
            for chunk in chunks:
                if not tokens:
                    first, before = time.perf_counter(), self._runtime.counters()
                tokens += chunk.token_ids
        seconds = time.perf_counter() - first
        decode = {name: value - before[name] for name, value in self._runtime.counters().items()}
        stats = self._llm.stats()
        assert stats is not None
        return {
            "tokens": tokens,
            "prefill_tokens_per_s": prompt / (first - begun),
            "decode_tokens_per_s": (generate - 1) / seconds,
            "decode_s": seconds,
            "decode": decode,
            "stats": stats.as_dict(),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", help="JSON of Settings")
    settings = Settings(**json.loads(parser.parse_args().settings))
    run = Run(settings)
    if settings.device == "cpu":
        print(json.dumps(run.reference()), flush=True)
        return
    for share in settings.shares:
        print(json.dumps(run.share(share)), flush=True)


if __name__ == "__main__":
    main()
