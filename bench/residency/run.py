"""The residency benches beside fio on the same file, with the same sizes and depths, one after the other.

python bench/residency/run.py --file path/to/experts-00001.safetensors --json bench/results/residency.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from bench_record import record, write_json

_BINARY = Path(__file__).resolve().parents[2] / "build" / "dev" / "bench" / "moestro_bench_residency"
_HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")


def main() -> None:
    arguments = _arguments()
    if not arguments.binary.exists():
        raise SystemExit(f"{arguments.binary} is not built: cmake --preset dev && cmake --build --preset dev")
    ours = _ours(arguments.binary, arguments.file)
    peers = _fio(arguments.file, ours) if shutil.which("fio") else {}
    if not peers:
        print("fio is not installed: apt-get install fio")
    for name, row in ours.items():
        print(_line(name, row, peers.get(name)))
    if arguments.json:
        size = arguments.file.stat().st_size
        write_json(arguments.json, {**record(1), "file_bytes": size, "moestro": ours, "fio_gb_per_s": peers})


def _ours(binary: Path, file: Path) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [str(binary), f"--file={file}", "--benchmark_format=json"], capture_output=True, text=True, check=True
    )
    return {entry["name"]: entry for entry in json.loads(done.stdout)["benchmarks"]}


def _fio(file: Path, ours: dict[str, dict[str, Any]]) -> dict[str, float]:
    """GB/s for every read of ours: median of three runs of two seconds, into huge pages where they may be reserved."""
    rates = {}
    before = _reserve_huge_pages()
    try:
        for name in ours:
            if not name.startswith("read/io_uring"):
                continue
            words = dict(word.split(":") for word in name.split("/") if ":" in word)
            rates[name] = statistics.median(
                _fio_once(file, words["KiB"], words["depth"], before is not None) for _ in range(3)
            )
    finally:
        if before is not None:
            _HUGE_PAGES.write_text(before)
    return rates


def _reserve_huge_pages() -> str | None:
    try:
        before = _HUGE_PAGES.read_text()
        _HUGE_PAGES.write_text("128")
    except OSError:
        return None
    return before


def _fio_once(file: Path, kib: str, depth: str, huge: bool) -> float:
    command = [
        *("fio", "--name=read", f"--filename={file}", "--readonly", "--direct=1", "--rw=read", "--ioengine=io_uring"),
        *(f"--bs={kib}k", f"--iodepth={depth}", "--runtime=2", "--time_based", "--output-format=json"),
        *(["--mem=shmhuge"] if huge else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"]) / 1e9


def _line(name: str, row: dict[str, Any], fio: float | None) -> str:
    figures = [f"{row['real_time']:.1f} {row['time_unit']}"]
    figures += [f"{key} {row[key]:.2f}" for key in ("GB/s", "efficiency") if key in row]
    if fio is not None:
        figures.append(f"fio {fio:.2f} GB/s ({row['GB/s'] / fio:.0%})")
    return f"{name}: {', '.join(figures)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="a large file on the disk to measure")
    parser.add_argument("--binary", type=Path, default=_BINARY)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
