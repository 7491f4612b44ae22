"""Everything about a CUDA device in one command that ends in time: kernels, cuBLAS, and models within device memory.

    python bench/gpu/run.py --build build/dev --name h100 --datasheet-int8-tops 1979

Kernels are held against what the same device can do (moestro_bench_gpu, which is built before). Then two models answer
with 100, 50, 25 and 10 % of their experts in device memory and all of them in the host's, under every schedule: logits
must be those of the processor bit for bit, and each time stands beside what a replay with the measured lanes predicts.
Parts go in the order of their importance; what no time is left for is named. bench/results/gpu-NAME.json and .png are
written.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from bench_models import SHAPES, checkpoint_directory, default_work, random_checkpoint
from bench_record import record, write_json
from budget import CASES, SHARES, Budget, Needs
from children import run_child, run_script
from moestro import core
from moestro.demo.random_model import Shape
from moestro.errors import MoestroError
from moestro.threads import default_threads
from plot import plot
from show import table

_ROOT = Path(__file__).resolve().parents[2]
BINARY = "moestro_bench_gpu"
_SHARED_MEMORY = Path("/dev/shm")
_SPARE = 1 << 30  # of a folder in memory, beside the store

# Seconds that a part needs at least, on a machine with a fast link; and kernels and cuBLAS at most.
_KERNELS, _MOST_KERNELS, _CUBLAS, _MOST_CUBLAS, _OFFLOAD = 15.0, 170.0, 12.0, 45.0, 90.0
_FIXED, _PER_GB = 8.0, 2.0  # of a process that runs a model


def main() -> None:
    arguments = _arguments()
    gpu = require_gpu()
    binary = find_binary(arguments.build)
    budget = Budget(arguments.seconds)
    result: dict[str, Any] = {**record(default_threads()), **_driver(), "gpu": gpu["name"], "device": gpu}
    result["left_out"] = budget.left_out
    path = arguments.json or _ROOT / "bench" / "results" / f"gpu-{arguments.name}.json"
    for name, part in _parts(arguments, binary, budget, result):
        try:
            part()
        except (MoestroError, OSError) as error:  # no room for a model, say: the others may have
            _keep_failure(name, str(error), budget)
        write_json(path, result)
    plot(path.with_suffix(".png"), result)
    print("", *table(result), f"written: {path}", sep="\n")
    if "kernels" in budget.left_out:
        raise SystemExit(f"kernels: {budget.left_out['kernels']}")
    if any(not exact(run) for model in result.get("models", {}).values() for run in model.get("runs", ())):
        raise SystemExit("some results are not the processor's, bit for bit")


def require_gpu() -> dict[str, Any]:
    """The first device. Ends the program, saying what is missing, where there is none."""
    info = core.cuda_info()
    if info["missing"]:
        raise SystemExit(f"bench/gpu/run.py needs a CUDA device: {info['missing']}")
    device: dict[str, Any] = info["devices"][0]
    return device


def find_binary(build: Path | None) -> Path:
    """The newest one under build/, or the one below the folder that is named."""
    places = [build] if build is not None else sorted(_ROOT.glob("build/*"))
    found = [at for place in places for at in (place / "bench" / BINARY, place / BINARY) if at.is_file()]
    if not found:
        where = build or _ROOT / "build"
        raise SystemExit(f"{where} has no bench/{BINARY}: build it with cmake -DMOESTRO_CUDA=ON -DMOESTRO_DEV=ON")
    return max(found, key=lambda at: at.stat().st_mtime)


def exact(run: dict[str, Any]) -> bool:
    return bool(run["same_logits"] and run["same_tokens"])


Part = tuple[str, Callable[[], None]]


def _parts(arguments: argparse.Namespace, binary: Path, budget: Budget, result: dict[str, Any]) -> list[Part]:
    """In the order of their importance."""
    kernels: list[Part] = [
        ("kernels", lambda: _kernels(binary, arguments, budget, result)),
        ("cuBLAS", lambda: _cublas(budget, result)),
    ]
    if arguments.kernels_only:
        return kernels
    if arguments.model is not None:
        given = arguments.model
        return [*kernels, (given.name, lambda: _model(given.name, given, arguments, budget, result))]
    from random_store import QWEN3_30B

    work = arguments.work or choose_work(store_bytes(QWEN3_30B, "q4"))

    def random(name: str, shape: Shape, format: str) -> Part:
        store = work / f"{name}-{format}-direct"
        return f"{name}-{format}", lambda: _random_model(store, shape, format, arguments, budget, result)

    bench = f"bench-{arguments.shape}"
    return [
        *kernels,
        random(bench, SHAPES[arguments.shape], "q4"),
        random("random-30b-a3b", QWEN3_30B, "q4"),
        ("transformers + Accelerate", lambda: _offload(work, arguments, budget, result)),
        random(bench, SHAPES[arguments.shape], "q8"),
    ]


def _kernels(binary: Path, arguments: argparse.Namespace, budget: Budget, result: dict[str, Any]) -> None:
    if not budget.allows("kernels", _KERNELS):
        return
    print(f"kernels: {binary}", flush=True)
    tops = ("--datasheet-int8-tops", str(arguments.datasheet_int8_tops)) if arguments.datasheet_int8_tops else ()
    child = run_child([str(binary), *tops], min(budget.left(), _MOST_KERNELS))
    result["kernels"] = child.lines
    _keep_failure("kernels", child.failure, budget)


def _cublas(budget: Budget, result: dict[str, Any]) -> None:
    if find_spec("torch") is None:
        budget.left_out["cuBLAS"] = "torch is not installed"
        return
    if budget.allows("cuBLAS", _CUBLAS):
        print("cuBLAS through torch", flush=True)
        child = run_child(
            [sys.executable, str(Path(__file__).with_name("run_cublas.py"))], min(budget.left(), _MOST_CUBLAS)
        )
        result["cublas"] = child.lines
        _keep_failure("cuBLAS", child.failure, budget)


def _random_model(
    store: Path,
    shape: Shape,
    format: str,
    arguments: argparse.Namespace,
    budget: Budget,
    result: dict[str, Any],
) -> None:
    from random_store import random_store

    name, gigabytes = store.name.removesuffix("-direct"), store_bytes(shape, format) / 1e9
    if not budget.allows(name, 3 * (_FIXED + _PER_GB * gigabytes)):
        return
    there = store.exists()
    print(f"{name}: {'found' if there else 'writing'} {store}", flush=True)
    random_store(store, shape, format)
    try:
        _model(name, store, arguments, budget, result)
    finally:
        if not there and not arguments.keep:
            shutil.rmtree(store, ignore_errors=True)


def _model(name: str, store: Path, arguments: argparse.Namespace, budget: Budget, result: dict[str, Any]) -> None:
    """Every case, each in a process of its own, after the processor's answer that all are held against."""
    gigabytes = sum(path.stat().st_size for path in store.glob("*.safetensors")) / 1e9
    least = _FIXED + _PER_GB * gigabytes
    model: dict[str, Any] = {"store": str(store), "store_bytes": int(gigabytes * 1e9), "runs": []}
    result.setdefault("models", {})[name] = model
    with tempfile.TemporaryDirectory() as folder:
        common = {"model": str(store), "prompt": arguments.prompt, "generate": arguments.generate, "reference": folder}
        if not budget.allows(name, least):
            return
        alone = {**common, "device": "cpu", "schedule": "", "prefetch": "none", "shares": []}
        child = run_script("run_engine.py", alone, budget.left())
        if not child.lines:
            budget.left_out[name] = f"the processor alone: {child.failure}"
            return
        model["reference"] = child.lines[0]
        print(f"{name}: the processor alone: {child.lines[0]['decode_tokens_per_s']:.2f} tok/s", flush=True)
        for case in CASES:
            part = f"{name}, {case.name}"
            if not budget.allows(part, least):
                continue
            settings = {**common, "device": "cuda", "schedule": case.schedule, "prefetch": case.prefetch}
            child = run_script("run_engine.py", {**settings, "shares": list(case.shares)}, budget.left())
            facts = {"case": case.name, "schedule": case.schedule, "prefetch": case.prefetch}
            model["runs"] += [{**facts, **line} for line in child.lines]
            _keep_failure(part, child.failure, budget)
            for line in child.lines:
                same = "the same bits" if exact(line) else "OTHER BITS"
                print(f"{part}, {line['share']:.0%}: {line['decode_tokens_per_s']:.2f} tok/s, {same}", flush=True)
        _predict(name, model, Path(folder), budget)


def _predict(name: str, model: dict[str, Any], folder: Path, budget: Budget) -> None:
    from moestro.trace.routing import read_routing_trace
    from predict import fit_lanes, predict

    trace = folder / "routing.npz"
    sizes = read_routing_trace(trace).array("record_bytes")
    lanes = fit_lanes(model["runs"], len(sizes), int(sizes.max()))
    if lanes is None:
        budget.left_out[f"{name}, predicted"] = (
            "no runs that keep the lanes busy one by one: schedule cpu, all experts there"
        )
        return
    model["lanes_ns"] = asdict(lanes)
    first = model["reference"]["first_step"]
    for run, seconds in zip(model["runs"], predict(trace, lanes, model["runs"], first), strict=True):
        run["predicted_s"] = seconds


def _offload(work: Path, arguments: argparse.Namespace, budget: Budget, result: dict[str, Any]) -> None:
    name = "transformers + Accelerate"
    missing = [module for module in ("torch", "transformers", "accelerate") if find_spec(module) is None]
    if missing:
        budget.left_out[name] = f"{', '.join(missing)}: not installed"
        return
    shape = SHAPES[arguments.shape]
    if not budget.allows(name, _OFFLOAD):
        return
    print(f"{name}: bf16 bench model", flush=True)
    there = checkpoint_directory(arguments.shape, work).exists()
    checkpoint = random_checkpoint(arguments.shape, work)
    sizes = offload_needs(shape)
    memory = {str(share): sizes.device_memory(share) for share in SHARES}
    settings = {"model": str(checkpoint), "device_memory": memory, "prompt": arguments.prompt, "generate": 9}
    child = run_script("run_offload.py", settings, budget.left())
    if not there and not arguments.keep:
        shutil.rmtree(checkpoint, ignore_errors=True)
    result["offload"] = child.lines
    _keep_failure(name, child.failure, budget)


def store_bytes(shape: Shape, format: str) -> int:
    """About what a store takes: experts, attention, embedding and head."""
    bits = {"q4": 4.5, "q8": 8.5, "bf16": 16}[format]
    vocab = shape.vocab or 4096
    packed = shape.layers * (_expert_weights(shape) + _attention_weights(shape)) + vocab * shape.hidden
    return int(packed * bits / 8) + 2 * vocab * shape.hidden


def offload_needs(shape: Shape) -> Needs:
    """Of the bf16 checkpoint: what Accelerate keeps beside experts is attention, embedding and head."""
    experts = 2 * shape.layers * _expert_weights(shape)
    rest = 2 * (shape.layers * _attention_weights(shape) + 2 * (shape.vocab or 4096) * shape.hidden)
    record = 2 * 3 * shape.hidden * shape.expert_width
    return Needs(experts=experts, record=record, trunk=rest + (1 << 30), host=0)


def _expert_weights(shape: Shape) -> int:
    return 3 * shape.experts * shape.hidden * shape.expert_width


def _attention_weights(shape: Shape) -> int:
    return 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)


def choose_work(wanted: int, shared: Path = _SHARED_MEMORY) -> Path:
    """A folder in memory where one is large enough, with as much again for what runs; else the benches' own."""
    try:
        free = shutil.disk_usage(shared).free
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return default_work()
    roomy = free >= wanted + wanted // 4 + _SPARE and available >= 3 * wanted
    return shared / "moestro-bench" if roomy else default_work()


def _driver() -> dict[str, str]:
    command = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm,clocks.max.memory,pcie.link.gen.max"]
    try:
        done = subprocess.run(
            [*command, "--format=csv,noheader"], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return {"driver": "unknown: nvidia-smi does not answer"}
    return {"driver": done.stdout.splitlines()[0].strip()}


def _keep_failure(part: str, failure: str, budget: Budget) -> None:
    if failure:
        budget.left_out[part] = failure
        print(f"{part}: {failure}", flush=True)


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="cuda", help="of the results: bench/results/gpu-NAME.json and .png")
    parser.add_argument("--build", type=Path, help=f"a build folder with bench/{BINARY}; else the newest under build/")
    parser.add_argument("--seconds", type=float, default=460, help="that the whole run may take")
    parser.add_argument("--kernels-only", action="store_true", help="kernels and cuBLAS, no models")
    parser.add_argument("--model", type=Path, help="a store or checkpoint to run instead of random models")
    parser.add_argument("--shape", choices=[name for name in SHAPES if SHAPES[name].experts], default="8gb")
    parser.add_argument("--work", type=Path, help="where models are made; else memory, where there is enough of it")
    parser.add_argument("--keep", action="store_true", help="keep the models that were made")
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--generate", type=int, default=49, help="tokens, at least 2")
    parser.add_argument("--datasheet-int8-tops", type=float, help="dense int8 TOPS that the device is sold with")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    if arguments.generate < 2:
        parser.error("--generate: expected at least 2: the first token belongs to the prompt")
    return arguments


if __name__ == "__main__":
    main()
