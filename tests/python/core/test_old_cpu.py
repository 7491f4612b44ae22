"""A CPU without AVX2 gets one sentence, never SIGILL: run on an emulated one."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")

CHILD = """
try:
    import moestro.core
except Exception as error:
    print(type(error).__name__, error, sep="|")
"""


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 was not found (apt-get install qemu-user): no old CPU to try")
@pytest.mark.parametrize(("cpu", "missing"), [("Nehalem", "avx"), ("max,-avx2", "avx2"), ("max,-fma", "fma")])
def test_it_is_refused_in_one_sentence(cpu: str, missing: str) -> None:
    assert QEMU is not None
    done = subprocess.run(
        [QEMU, "-cpu", cpu, sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    kind, sentence = done.stdout.strip().split("|")
    assert kind == "UnsupportedError"
    assert sentence.startswith("moestro needs an x86-64 CPU with AVX2, FMA and F16C")
    assert f"lacks {missing}" in sentence
    assert "\n" not in sentence
