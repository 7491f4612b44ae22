"""Models larger than memory: moestro within a budget beside llama.cpp over mmap, both on a machine made that small.

    python bench/e2e/short_memory.py --memory 50%,25% --json bench/results/short-memory.json --plot ....png
    python bench/e2e/short_memory.py --shape dense --only moestro     # layers streamed; needs no balloon

Every run is a process of its own after a cold start (caches dropped), with a balloon (balloon.py) that leaves the share
of the model's size and --spare for everything else. Decode is measured after a warm-up, over tokens drawn at random:
greedy answers of a random model repeat themselves, and with them their experts. Beside each run the disk is measured by
the same reader with reads as large, twice, the second time counting: a host's own cache below a virtual disk is then as
warm for the measurement as for the run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from balloon import balloon, drop_caches
from bench_models import SHAPES, default_work
from bench_record import record, write_json
from moestro import core
from moestro.threads import default_threads
from moestro.units import format_bytes, parse_bytes
from peer_models import PeerModels
from short_memory_plot import plot

_HERE = Path(__file__).resolve().parent
_GGUF = {"q8": "Q8_0", "q4": "Q4_0", "bf16": "BF16"}


@dataclass(frozen=True)
class Run:
    """One process. Rates per second, bytes per generated token."""

    peer: str
    memory: float  # share of the model's size
    cap: int
    decode: float
    prefill: float
    read_per_token: float | None
    peak_rss: int
    disk: float | None  # bytes/s, measured beside a run of moestro
    busy: float | None  # share of decoding with a read in flight
    rate: float | None  # bytes/s of it meanwhile
    raw: dict[str, Any]


def main() -> None:
    arguments = _arguments()
    models = PeerModels(arguments.shape, arguments.work, arguments.threads)
    store = models.packed(arguments.format)
    size = sum(path.stat().st_size for path in store.glob("*.safetensors"))
    peers = {"moestro": ("run_short_moestro.py", store)}
    if "llama" in arguments.only:
        peers["llama.cpp"] = ("run_llama.py", models.gguf(_GGUF[arguments.format]))
    head = {**record(arguments.threads), "shape": asdict(SHAPES[arguments.shape]), "format": arguments.format}
    runs: list[Run] = []
    for share in arguments.memory:
        cap = int(share * size)
        with nullcontext() if arguments.no_balloon else balloon(cap + arguments.spare):
            for number in range(arguments.rounds):
                for peer, (script, model) in peers.items():
                    run = _run(peer, script, model, share, cap, number, arguments)
                    runs.append(run)
                    print(f"[{number + 1}/{arguments.rounds}] {_line(run)}", flush=True)
        if arguments.json:
            write_json(arguments.json, {**head, "model_bytes": size, **_summary(runs), "runs": _plain(runs)})
    print("", *_table(runs), sep="\n")
    if arguments.plot:
        title = f"{head['machine']}, commit {head['commit']}, {head['date']}: {format_bytes(size)}, {arguments.format}"
        plot(arguments.plot, runs, title)


def _run(peer: str, script: str, model: Path, share: float, cap: int, seed: int, arguments: argparse.Namespace) -> Run:
    options: dict[str, Any] = {"host_memory": cap} if peer == "moestro" else {"repack": False, "draw": True}
    settings = {
        "model": str(model),
        "threads": arguments.threads,
        "prompt": arguments.prompt,
        "generate": arguments.generate,
        "repeats": 1,
        "seed": seed,
        "options": options,
    }
    drop_caches()
    done = subprocess.run(
        [sys.executable, str(_HERE / script), json.dumps(settings)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)},
        timeout=arguments.timeout,
    )
    if done.returncode:
        raise SystemExit(f"{peer} with {format_bytes(cap)}: {done.stderr.strip()[-800:]}")
    return _parse(peer, share, cap, model, json.loads(done.stdout.splitlines()[-1]), arguments)


def _parse(peer: str, share: float, cap: int, model: Path, raw: dict[str, Any], arguments: argparse.Namespace) -> Run:
    answer, tokens = raw["answers"][0], arguments.generate - 1
    stats = answer["stats"]
    disk = busy = rate = None
    if stats is not None:
        decode = stats["decode"]
        read = decode["expert_bytes_read"] + decode["stream_bytes_read"]
        lane = (decode["read_busy_ns"] + decode["stream_read_busy_ns"]) / 1e9
        disk = disk_rate(model, max(4096, read // max(1, decode["reads"]) // 4096 * 4096))
        busy, rate = lane / answer["decode_s"], read / lane if lane else None
    return Run(
        peer=peer,
        memory=share,
        cap=cap,
        decode=tokens / answer["decode_s"],
        prefill=arguments.prompt / answer["ttft_s"],
        read_per_token=None if answer["decode_read"] is None else answer["decode_read"] / tokens,
        peak_rss=raw["peak_rss"],
        disk=disk,
        busy=busy,
        rate=rate,
        raw=raw,
    )


def disk_rate(directory: Path, block: int) -> float:
    """bytes/s with O_DIRECT of the largest file, in reads of `block` bytes, eight at a time, warm below the disk."""
    largest = max(directory.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    block = min(block, largest.stat().st_size // 4096 * 4096)
    for _ in range(2):
        measured = core.measure_read_rate(str(largest), block, 8, "auto", "direct", 2.0)
    return float(measured["bytes_per_second"])


def _summary(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        f"{peer} {share:.0%}": {name: statistics.median(values) for name, values in figures.items() if values}
        for peer, share, figures in _groups(runs)
    }


def _groups(runs: Sequence[Run]) -> Iterator[tuple[str, float, dict[str, list[float]]]]:
    names = ("decode", "prefill", "read_per_token", "peak_rss", "disk", "busy", "rate")
    for peer, share in dict.fromkeys((run.peer, run.memory) for run in runs):
        mine = [run for run in runs if (run.peer, run.memory) == (peer, share)]
        values = {name: [getattr(run, name) for run in mine] for name in names}
        yield peer, share, {name: [value for value in some if value is not None] for name, some in values.items()}


def _table(runs: Sequence[Run]) -> Iterator[str]:
    summary = _summary(runs)
    for name, figures in summary.items():
        yield f"{name}: decode {figures['decode']:.2f} tok/s, prefill {figures['prefill']:.1f} tok/s" + (
            f", {figures['read_per_token'] / 1e9:.2f} GB read per token" if "read_per_token" in figures else ""
        )
        if "rate" in figures:
            rate, disk = figures["rate"] / 1e9, figures["disk"] / 1e9
            yield f"    decoding, the disk was busy {figures['busy']:.0%} of the time: {rate:.2f} of {disk:.2f} GB/s"
            yield f"    {_expected(figures)}"
    for share in dict.fromkeys(run.memory for run in runs):
        ours, theirs = summary.get(f"moestro {share:.0%}"), summary.get(f"llama.cpp {share:.0%}")
        if ours and theirs:
            yield f"{share:.0%}: moestro / llama.cpp: decode {ours['decode'] / theirs['decode']:.2f}, prefill " + (
                f"{ours['prefill'] / theirs['prefill']:.2f}"
            )


def _expected(figures: dict[str, float]) -> str:
    """Seconds per token beside what reading its bytes takes."""
    reading = figures["read_per_token"] / figures["disk"]
    return f"a token took {figures['decode'] ** -1 / reading:.2f} of the time of reading its bytes at that rate"


def _line(run: Run) -> str:
    read = "" if run.read_per_token is None else f", {run.read_per_token / 1e9:.2f} GB read per token"
    return (
        f"{run.peer} with {run.memory:.0%} ({format_bytes(run.cap)}): decode {run.decode:.2f} tok/s, prefill"
        f" {run.prefill:.1f} tok/s{read}, peak RSS {run.peak_rss / 1e9:.2f} GB"
    )


def _plain(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [asdict(run) for run in runs]


def _shares(text: str) -> list[float]:
    values = [float(word.strip().rstrip("%")) / 100 for word in text.split(",")]
    if not all(value > 0 for value in values):
        raise ValueError(text)
    return values


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=_shares, default="50%,25%", help="shares of the model's size")
    parser.add_argument("--shape", choices=SHAPES, default="8gb", help="the model's sizes (bench_models.py)")
    parser.add_argument("--format", choices=_GGUF, default="q8")
    parser.add_argument("--work", type=Path, default=default_work(), help="where models are made and kept")
    parser.add_argument("--only", nargs="+", choices=("moestro", "llama"), default=["moestro", "llama"])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--generate", type=int, default=17, help="tokens, at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spare", type=lambda text: parse_bytes(text), default=256 << 20, help="left beside the share")
    parser.add_argument("--no-balloon", action="store_true", help="leave the machine its memory")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds that one process may take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an image file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
