"""A model larger than its memory, end to end: tokens/s, hit rate, and the disk's share of what it can do.

Makes a random Qwen3-MoE checkpoint (deleted afterwards), runs it with room for a quarter of its experts, and measures
the disk with the same reader in the same run. Random routers spread over all experts: the worst case for a cache.

    python bench/e2e/quarter_budget.py --shape 4gb --format auto --json bench/results/quarter-4gb.json
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench_models import SHAPES, checkpoint_directory, default_work, random_checkpoint
from bench_record import record, write_json
from moestro import LLM, SamplingParams, _core
from moestro.demo.budget import PREFILL_CHUNK, quarter_budget
from moestro.pack import pack_checkpoint
from moestro.threads import default_threads


def disk_rate(directory: Path, block: int, reader: str) -> float:
    """bytes/s with O_DIRECT of the largest file, in reads as long as the model's."""
    largest = max(directory.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    return float(_core.measure_read_rate(str(largest), block, 32, reader, "direct", 3.0)["bytes_per_second"])


def one_run(directory: Path, budget: int, tokens: int, seed: int) -> dict[str, Any]:
    with LLM(directory, host_memory=budget, prefill_chunk=PREFILL_CHUNK, say=None) as llm:
        params = SamplingParams(max_tokens=tokens, seed=seed, ignore_eos=True)
        llm.generate([list(range(100, 132))], params)
        stats, report = llm.stats(), llm.report()
    assert stats is not None
    return {**stats.as_dict(), "reader": report.reader, "slots": report.expert_slots, "experts": report.experts}


def measure(directory: Path, tokens: int, runs: int) -> dict[str, Any]:
    budget = quarter_budget(directory)
    rows, rates = [], []
    for seed in range(runs):
        row = one_run(directory, budget, tokens, seed)
        block = max(4096, row["expert_bytes_read"] // max(1, row["reads"]) // 4096 * 4096)
        rows.append(row)
        rates.append(disk_rate(directory, block, row["reader"]))
    median = {
        key: statistics.median(row[key] for row in rows)
        for key in ("decode_tokens_per_s", "prefill_tokens_per_s", "ttft_s", "hit_rate", "read_gb_per_s", "peak_bytes")
    }
    disk = statistics.median(rates) / 1e9
    return {
        "budget": budget,
        "slots": rows[0]["slots"],
        "experts": rows[0]["experts"],
        **median,
        "disk_gb_per_s": disk,
        "share_of_disk": median["read_gb_per_s"] / disk,
        "stall_share": statistics.median(row["lanes_s"]["stall"] / row["wall_s"] for row in rows),
        "runs": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1gb")
    parser.add_argument("--format", choices=("auto", "q8", "q4"), default="auto", help="auto: the checkpoint in place")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    work = default_work()
    kept = checkpoint_directory(arguments.shape, work).exists()
    made = random_checkpoint(arguments.shape, work)
    directory, packed_s = made, None
    try:
        if arguments.format != "auto":
            begun = time.monotonic()
            directory = pack_checkpoint(made, work / f"{arguments.shape}-{arguments.format}", arguments.format)
            packed_s = time.monotonic() - begun
        size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
        result = measure(directory, arguments.tokens, arguments.runs)
    finally:
        if directory != made:
            shutil.rmtree(directory, ignore_errors=True)
        if not kept:
            shutil.rmtree(made, ignore_errors=True)

    result = {
        **record(default_threads()),
        "shape": asdict(SHAPES[arguments.shape]),
        "format": arguments.format,
        "model_bytes": size,
        "pack_s": packed_s,
        **result,
    }
    print(
        f"{arguments.shape} {arguments.format}: model {size / 1e9:.2f} GB, budget {result['budget'] / 1e9:.2f} GB"
        f" ({result['slots']} of {result['experts']} experts): {result['decode_tokens_per_s']:.2f} tok/s,"
        f" hit rate {result['hit_rate']:.1%}, {result['read_gb_per_s']:.2f} GB/s read ="
        f" {result['share_of_disk']:.0%} of the disk's {result['disk_gb_per_s']:.2f} GB/s,"
        f" stalled {result['stall_share']:.0%} of the time, TTFT {result['ttft_s']:.2f} s"
    )
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
