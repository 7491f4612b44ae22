"""What Python costs a decode step: the step's wall time less the time that the core's layers took.

    python bench/e2e/step_overhead.py --format q4 --json bench/results/step-overhead-q4.json

Runs the bench model's shape with a quarter of its experts, all of them resident: a token reads the same bytes through
the same calls. Per step, between two chunks of `LLM.stream`, wall time is measured here; the core's share is
`Workspace.busy_ns`, taken by the core's own clock at the entry and exit of every call that computes a layer (argument
conversion and waiting for the interpreter's lock are outside). What is left is counted as Python, whatever it is:
planning the step, KV bookkeeping, reading the embedding row, sampling, text, and the small calls into the core for
these. Medians over the steps of all runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moestro import LLM, SamplingParams
from moestro.cache_dir import cache_root
from moestro.demo.random_moe import Shape, write_random_checkpoint
from moestro.pack import pack_checkpoint
from moestro.plan.machine import cpu_name
from moestro.threads import default_threads

SHAPE = Shape(
    hidden=1024,
    layers=24,
    heads=16,
    kv_heads=4,
    head_dim=128,
    experts=16,
    experts_per_token=8,
    expert_width=768,
    context=4096,
    vocab=32000,
)
_WARM = 4  # steps of a run that are not counted


def decode_steps(llm: LLM, params: SamplingParams) -> list[tuple[float, float]]:
    """(wall, inside the core) of each decode step, in milliseconds."""
    workspace = llm._open().model.decoder.workspace
    moments = []
    for _ in llm.stream(list(range(100, 164)), params):
        moments.append((time.perf_counter_ns(), workspace.busy_ns))
    pairs = zip(moments[_WARM:], moments[_WARM + 1 :], strict=False)
    return [((after[0] - before[0]) / 1e6, (after[1] - before[1]) / 1e6) for before, after in pairs]


def measure(directory: Path, tokens: int, runs: int, threads: int) -> dict[str, Any]:
    sampled = SamplingParams(max_tokens=tokens, temperature=1.0, top_p=1.0, top_k=0, seed=0, ignore_eos=True)
    greedy = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    steps: dict[str, list[tuple[float, float]]] = {"greedy": [], "sampled": []}
    with LLM(directory, host_memory="4GiB", threads=threads, say=None) as llm:
        for _ in range(runs):
            steps["greedy"] += decode_steps(llm, greedy)
            steps["sampled"] += decode_steps(llm, sampled)
        stats = llm.stats()
        if stats is None or stats.misses:
            raise SystemExit("the experts were not resident: give the machine more memory")
    return {name: _medians(rows) for name, rows in steps.items()}


def _medians(rows: list[tuple[float, float]]) -> dict[str, float]:
    walls = sorted(wall for wall, _ in rows)
    python = sorted(wall - core for wall, core in rows)
    return {
        "steps": len(rows),
        "step_ms": statistics.median(walls),
        "core_ms": statistics.median(core for _, core in rows),
        "python_ms": statistics.median(python),
        "python_ms_quartiles": [python[len(python) // 4], python[3 * len(python) // 4]],
        "python_share": statistics.median((wall - core) / wall for wall, core in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=("q8", "q4"), default="q4")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--model", type=Path, help="a packed store to run instead; it is kept")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    work = cache_root() / "bench" / "step-overhead"
    try:
        directory = arguments.model or _packed(work, arguments.format)
        result = measure(directory, arguments.tokens, arguments.runs, arguments.threads)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for name, row in result.items():
        print(
            f"{arguments.format} {name}: step {row['step_ms']:.2f} ms, {row['core_ms']:.2f} in the core;"
            f" Python {row['python_ms']:.3f} ms = {row['python_share']:.1%}"
        )
    if arguments.json:
        _write(arguments.json, {"shape": asdict(SHAPE), "format": arguments.format, **result}, arguments.threads)


def _packed(work: Path, format: str) -> Path:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_random_checkpoint(work / "checkpoint", SHAPE, lambda done, total: None)
    store = pack_checkpoint(work / "checkpoint", work / format, format)
    shutil.rmtree(work / "checkpoint")
    return store


def _write(path: Path, result: dict[str, Any], threads: int) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "machine": f"{cpu_name()}, {threads} threads, kernel {platform.release()}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
