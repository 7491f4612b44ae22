"""moestro beside llama.cpp and transformers: the same random Qwen3-MoE weights, all in memory, in alternation.

Every round runs every case in a process of its own, the machine's limits measured around each; peers that are not
installed are named with what would install them. Everything it makes is kept in --work (about 30 GB for "8gb").

    python bench/e2e/peers.py --shape tiny --rounds 1 --prompt 64 --generate 16     # a minute, to see that it works
    python bench/e2e/peers.py --json bench/results/peers.json --plot bench/results/peers.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from active_weights import prefill_operations
from bench_models import SHAPES, default_work
from bench_record import record, write_json
from moestro.knobs import ISA_NAMES
from moestro.threads import default_threads
from peer_cases import Absent, Case, find_cases
from peer_figures import figures, ratios
from peer_limits import DEFAULT_BINARY, HOW_TO_BUILD
from peer_models import PeerModels
from peer_plot import plot
from peer_report import as_json, limit_lines, ratio_lines, table
from peer_rounds import Round, Rounds, Workload

_REFERENCE = "moestro bf16"  # whose tokens others are compared with


def main() -> None:
    arguments = _arguments()
    work = Workload(arguments.threads, arguments.prompt, arguments.generate, arguments.repeats)
    models = PeerModels(arguments.shape, arguments.work, work.threads)
    vocab = int(json.loads((models.checkpoint() / "config.json").read_text())["vocab_size"])
    shape = SHAPES[arguments.shape]
    isas = [None if isa == "auto" else isa for isa in arguments.isa]
    found = list(find_cases(models, shape, vocab, isas, arguments.only))
    absent = [entry for entry in found if isinstance(entry, Absent)]
    for entry in absent:
        print(f"not measured: {entry.name}: {entry.reason}", flush=True)
    binary = _limits_binary(arguments.kernels_bench)
    everyone = [entry for entry in found if isinstance(entry, Case)]
    running = Rounds(everyone, work, binary, arguments.timeout)
    rounds: list[Round] = []
    head = {
        **record(work.threads),
        "shape": {**asdict(shape), "vocab": vocab},
        "workload": asdict(work),
        "absent": {entry.name: entry.reason for entry in absent},
        "failed": running.failed,
    }
    for number in range(arguments.rounds):
        prefix = f"[{number + 1}/{arguments.rounds}] "
        rounds.append(running.run(number, lambda text, prefix=prefix: print(prefix + text, flush=True)))
        result = _Result(everyone, rounds, prefill_operations(shape, vocab, work.prompt), work)
        if arguments.json:  # after every round: a long run that is cut off leaves what it had
            write_json(arguments.json, {**head, **result.json()})
    result.show()
    if arguments.plot and result.cases:
        title = (
            f"{head['machine']}, commit {head['commit']}, {head['date']}: prompt {work.prompt}, {work.generate} tokens"
        )
        _plot(arguments.plot, result, title)


class _Result:
    """What the rounds so far say, of the cases that ran at all."""

    def __init__(self, cases: Sequence[Case], rounds: Sequence[Round], operations: float, work: Workload) -> None:
        self.cases = [case for case in cases if any(case.name in entry.samples for entry in rounds)]
        self._rounds, self._work = rounds, work
        self.found = {case.name: figures(case, rounds, operations, work.prompt, _REFERENCE) for case in self.cases}
        self._ratios = ratios(self.cases, rounds, self.found)

    def json(self) -> dict[str, Any]:
        return as_json(self.cases, self._rounds, self.found, self._ratios)

    def show(self) -> None:
        for lines in (limit_lines(self._rounds), table(self.cases, self.found, self._work.generate)):
            print("", *lines, sep="\n")
        print("", *ratio_lines(self._ratios), sep="\n", flush=True)


def _plot(path: Path, result: _Result, title: str) -> None:
    try:
        plot(path, result.cases, result.found, title)
    except ImportError:
        print("no plot: matplotlib is not installed: pip install matplotlib")


def _limits_binary(path: Path) -> Path | None:
    if path.exists():
        return path
    print(
        f"not measured: the machine's limits: {path.name} is not built: {HOW_TO_BUILD}, or name it with --kernels-bench"
    )
    return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8gb", help="the model's sizes (bench_models.py)")
    parser.add_argument("--work", type=Path, default=default_work(), help="where models are made and kept")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--generate", type=int, default=64, help="tokens, at least 2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2, help="answers per process and round")
    parser.add_argument("--timeout", type=float, default=900, help="seconds that one process may take")
    parser.add_argument("--isa", nargs="+", choices=("auto", *ISA_NAMES), default=["auto"], help="moestro's tables")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="cases whose name has one of these parts")
    parser.add_argument("--kernels-bench", type=Path, default=DEFAULT_BINARY, help="measures the machine's limits")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an image file")
    arguments = parser.parse_args()
    for name, least in (("threads", 1), ("prompt", 1), ("generate", 2), ("rounds", 1), ("repeats", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name}: expected at least {least}, got {getattr(arguments, name)}")
    longest = max(arguments.prompt, 128) + arguments.generate
    if longest > SHAPES[arguments.shape].context:
        parser.error(f"--prompt and --generate need {longest} positions, {arguments.shape} has fewer")
    return arguments


if __name__ == "__main__":
    main()
