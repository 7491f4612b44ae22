"""Runs every case once per round, each in a process of its own, the machine's limits measured before and after each."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peer_cases import Case
from peer_limits import Limits, between, measure_limits

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Workload:
    threads: int
    prompt: int
    generate: int
    repeats: int  # answers per process, after warming up; their median is the process's figure


@dataclass(frozen=True)
class Sample:
    """What one process of a case measured, and what the machine could do around it."""

    decode: float  # tokens/s
    prefill: float  # tokens/s
    peak_rss: int
    tokens: list[int]
    about: str
    raw: dict[str, Any]
    limits: Limits | None = None


@dataclass
class Round:
    samples: dict[str, Sample]  # by case


class Rounds:
    """Cases that fail are dropped, with their reason in `failed`."""

    def __init__(self, cases: Sequence[Case], work: Workload, binary: Path | None, timeout: float) -> None:
        self.cases = list(cases)
        self.failed: dict[str, str] = {}
        self._work, self._binary, self._timeout = work, binary, timeout

    def run(self, number: int, say: Callable[[str], None]) -> Round:
        """Starts with another case each time, so that none is always the first or after the same one."""
        before = self._limits()
        first = number % len(self.cases) if self.cases else 0
        samples: dict[str, Sample] = {}
        for case in self.cases[first:] + self.cases[:first]:
            try:
                sample = self._sample(case, number)
            except RuntimeError as error:
                self.failed[case.name] = str(error)
                self.cases.remove(case)
                say(f"{case.name}: FAILED, left out from here on: {error}")
                continue
            after = self._limits()
            around = between(before, after) if before and after else None
            samples[case.name] = replace(sample, limits=around)
            before = after
            say(
                f"{case.name}: decode {sample.decode:.1f} tok/s, prefill {sample.prefill:.1f} tok/s,"
                f" {sample.peak_rss / 1e9:.1f} GB"
                + (f" (memory read {around.read_bytes_per_second / 1e9:.1f} GB/s)" if around else "")
            )
        return Round(samples)

    def _limits(self) -> Limits | None:
        return measure_limits(self._binary, self._work.threads) if self._binary else None

    def _sample(self, case: Case, seed: int) -> Sample:
        work = self._work
        settings = {
            "model": str(case.model),
            "threads": work.threads,
            "prompt": work.prompt,
            "generate": work.generate,
            "repeats": work.repeats,
            "seed": seed,
            "options": dict(case.options),
        }
        environment = {**os.environ, "OMP_NUM_THREADS": str(work.threads), **case.environment}
        try:
            done = subprocess.run(
                [sys.executable, str(_HERE / case.script), json.dumps(settings)],
                capture_output=True,
                text=True,
                env=environment,
                timeout=self._timeout,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not done after {self._timeout:.0f} s (--timeout)") from None
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise RuntimeError(last[0][-400:])
        return _parse(json.loads(done.stdout.splitlines()[-1]), work)


def _parse(raw: dict[str, Any], work: Workload) -> Sample:
    answers = raw["answers"]
    return Sample(
        decode=statistics.median((work.generate - 1) / answer["decode_s"] for answer in answers),
        prefill=statistics.median(work.prompt / answer["ttft_s"] for answer in answers),
        peak_rss=raw["peak_rss"],
        tokens=answers[0]["tokens"],
        about=raw["about"],
        raw=raw,
    )
