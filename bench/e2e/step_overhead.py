"""What Python costs a decode step: the step's wall time less the time that the core's layers took.

    python bench/e2e/step_overhead.py --format q4 --json bench/results/step-overhead-q4.json

Runs the bench model with all experts in memory. Per step, between two chunks of `LLM.stream`, wall time is measured
here; the core's share is `Workspace.busy_ns`, taken by the core's own clock at the entry and exit of every call that
computes a layer (argument conversion and waiting for the interpreter's lock are outside). What is left is counted as
Python, whatever it is: planning the step, KV bookkeeping, reading the embedding row, sampling, text, and the small
calls into the core for these. Medians over the steps of all runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench_models import SHAPES, default_work, packed_store, random_checkpoint
from bench_record import record, write_json
from moestro import LLM, SamplingParams
from moestro.threads import default_threads
from peer_runner import random_prompt
from resident import open_resident

_PROMPT = 64  # tokens
_WARM = 4  # steps of a run that are not counted


def main() -> None:
    arguments = _arguments()
    checkpoint = random_checkpoint(arguments.shape, arguments.work)
    model = checkpoint if arguments.format == "bf16" else packed_store(checkpoint, arguments.format, arguments.work)
    context = _PROMPT + max(arguments.tokens, 128)
    llm, vocab = open_resident(model, threads=arguments.threads, context=context, prefill_chunk=_PROMPT)
    with llm:
        result = measure(llm, vocab, arguments.tokens, arguments.runs)
    for name, row in result.items():
        print(
            f"{arguments.format} {name}: step {row['step_ms']:.2f} ms, {row['core_ms']:.2f} in the core;"
            f" Python {row['python_ms']:.3f} ms = {row['python_share']:.1%}"
        )
    if arguments.json:
        shape = asdict(SHAPES[arguments.shape])
        write_json(arguments.json, {**record(arguments.threads), "shape": shape, "format": arguments.format, **result})


def measure(llm: LLM, vocab: int, tokens: int, runs: int) -> dict[str, dict[str, Any]]:
    greedy = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    sampled = SamplingParams(max_tokens=tokens, temperature=1.0, top_p=1.0, top_k=0, seed=0, ignore_eos=True)
    steps: dict[str, list[tuple[float, float]]] = {"greedy": [], "sampled": []}
    for run in range(runs):
        prompt = random_prompt(_PROMPT, vocab, run)
        steps["greedy"] += decode_steps(llm, prompt, greedy)
        steps["sampled"] += decode_steps(llm, prompt, sampled)
    return {name: _medians(rows) for name, rows in steps.items()}


def decode_steps(llm: LLM, prompt: list[int], params: SamplingParams) -> list[tuple[float, float]]:
    """(wall, inside the core) of each decode step, in milliseconds."""
    workspace = llm._open().model.decoder.workspace
    moments = []
    for _ in llm.stream(prompt, params):
        moments.append((time.perf_counter_ns(), workspace.busy_ns))
    pairs = zip(moments[_WARM:], moments[_WARM + 1 :], strict=False)
    return [((after[0] - before[0]) / 1e6, (after[1] - before[1]) / 1e6) for before, after in pairs]


def _medians(rows: list[tuple[float, float]]) -> dict[str, Any]:
    python = sorted(wall - core for wall, core in rows)
    return {
        "steps": len(rows),
        "step_ms": statistics.median(wall for wall, _ in rows),
        "core_ms": statistics.median(core for _, core in rows),
        "python_ms": statistics.median(python),
        "python_ms_quartiles": [python[len(python) // 4], python[3 * len(python) // 4]],
        "python_share": statistics.median((wall - core) / wall for wall, core in rows),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8gb", help="the model's sizes (bench_models.py)")
    parser.add_argument("--work", type=Path, default=default_work(), help="where models are made and kept")
    parser.add_argument("--format", choices=("bf16", "q8", "q4"), default="q4")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
