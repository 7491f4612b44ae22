"""The whole run on a tiny model: every peer that is installed is measured, every other one is named with its reason."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from tiny_gguf import run_bench

MOESTRO = ["moestro bf16", "moestro q8", "moestro q4"]
LLAMA = [f"llama.cpp {name}" for name in ("BF16", "Q8_0", "Q4_0", "Q4_0 no repack", "Q4_K_M", "Q4_K_M no repack")]
WEIGHTS = 2 * (256 * (256 + 2 * 128) + 256 * 256 + 2 * 3 * 256 * 256)  # of two layers, for one token


def test_every_peer_is_measured_or_named(tmp_path: Path) -> None:
    out = tmp_path / "peers.json"
    workload = ("--rounds", "2", "--prompt", "32", "--generate", "8", "--repeats", "1")
    done = run_bench(
        "peers.py", "--shape", "tiny", "--work", str(tmp_path / "work"), "--kernels-bench", str(tmp_path / "none"),
        "--only", "moestro", "llama", "--json", str(out), *workload,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "limits: none is not built" in done.stdout
    result = json.loads(out.read_text())
    assert result["failed"] == {}
    assert set(MOESTRO) <= result["cases"].keys()
    here = all(find_spec(module) for module in ("llama_cpp", "gguf"))
    assert set(LLAMA) <= (result["cases"] if here else result["absent"]).keys()
    for name, reason in result["absent"].items():
        assert f"not measured: {name}: {reason}" in done.stdout
    for name, case in result["cases"].items():
        assert f"\n{name} " in done.stdout
        assert [len(sample["answers"][0]["tokens"]) for sample in case["samples"]] == [8, 8]
        assert 0 < case["decode"]["least"] <= case["decode"]["median"] <= case["decode"]["most"]
        assert case["peak_rss"] > 20e6
    # Other prompts in other rounds, and the same ones for every peer.
    rounds = [sample["answers"][0]["tokens"] for sample in result["cases"]["moestro bf16"]["samples"]]
    assert rounds[0] != rounds[1]
    vocab = result["shape"]["vocab"]
    linear, router = WEIGHTS + vocab * 256, 4 * 2 * 32 * 256  # float32, 8 rows in a panel of 32
    for format, size in (("bf16", 2), ("q8", 34 / 32), ("q4", 18 / 32)):
        active = result["cases"][f"moestro {format}"]["active_bytes_per_token"]
        assert 1 <= active / (size * linear + router) < 1.01  # the vocabulary's last panel is not full
