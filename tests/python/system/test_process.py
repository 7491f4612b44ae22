"""What a process pays for: import time, modules, threads."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light() -> None:
    code = "import time; t = time.perf_counter(); import moestro; print(time.perf_counter() - t)"
    assert statistics.median(float(run(code)) for _ in range(5)) < 0.3
    code = "import moestro, sys; print([m for m in ('torch', 'numpy', 'rich', 'moestro._core') if m in sys.modules])"
    assert run(code) == "[]"


def test_a_cpu_run_never_imports_torch(tiny_checkpoint: Callable[[str], Path]) -> None:
    code = """
import sys
from moestro import LLM, SamplingParams
with LLM(sys.argv[1], host_memory="64MiB", threads=2, say=None) as llm:
    llm.generate([[1, 2, 3]], SamplingParams(max_tokens=3))
    llm.logits([1, 2])
print([m for m in ("torch", "transformers", "huggingface_hub") if m in sys.modules])
"""
    assert run(code, str(tiny_checkpoint("qwen3_moe"))) == "[]"


def test_threads_are_as_stated(tiny_checkpoint: Callable[[str], Path]) -> None:
    code = """
import os, sys
from moestro import LLM, SamplingParams
def names():
    return [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
with LLM(sys.argv[1], host_memory="64MiB", threads=3, say=None) as llm:
    llm.generate([[1, 2, 3]], SamplingParams(max_tokens=3))
    print(names().count("moestro-cpu"), llm.report().threads)
print(names().count("moestro-cpu"))
"""
    assert run(code, str(tiny_checkpoint("qwen3_moe"))).split() == ["2", "3", "0"]
