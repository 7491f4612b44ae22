"""tools/cuda_resources.py reads what cuobjdump prints, and refuses kernels that spill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tools" / "cuda_resources.py"
KERNELS = ROOT / "csrc" / "kernels" / "cuda"


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


# Of cuobjdump 13.5, on an object of nvcc 13.0 with these three kernels; the second spills where it has 64 registers.
LISTING = """
Fatbin elf code:
================
arch = sm_75
code version = [1,8]
host = linux
compile_size = 64bit

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN4tiny5frameEPfi:
  REG:20 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:364 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _ZN4tiny6spillsEPfi:
  REG:64 STACK:24 SHARED:0 LOCAL:0 CONSTANT[0]:364 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _ZN4tiny5scaleILi64EEEvPff:
  REG:10 STACK:0 SHARED:256 LOCAL:0 CONSTANT[0]:364 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90
code version = [1,8]
host = linux
compile_size = 64bit

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN4tiny5scaleILi64EEEvPff:
  REG:10 STACK:0 SHARED:1280 LOCAL:0 CONSTANT[0]:540 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
SPILLS = """
namespace tiny {
__global__ void __launch_bounds__(1024) spills(float* x, int n) {
    float a[128];
    for (int i = 0; i < 128; ++i) a[i] = x[i * n];
    for (int r = 0; r < n; ++r)
        for (int i = 0; i < 128; ++i) a[i] = a[i] * a[(i + 7) % 128] + x[r];
    for (int i = 0; i < 128; ++i) x[i + threadIdx.x] = a[i];
}
}
"""


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def stand_in(folder: Path, listing: str) -> str:
    """A PATH whose cuobjdump prints `listing`."""
    tool = folder / "bin" / "cuobjdump"
    tool.parent.mkdir()
    (folder / "listing").write_text(listing)
    tool.write_text(f"#!/bin/sh\ncat '{folder / 'listing'}'\n")
    tool.chmod(0o755)
    return f"{tool.parent}:{os.environ['PATH']}"


def test_every_kernel_of_every_architecture_is_read() -> None:
    from cuda_resources import Kernel, parse

    assert list(parse(LISTING)) == [
        Kernel("_ZN4tiny5frameEPfi", "sm_75", 20, 0, 0, 0),
        Kernel("_ZN4tiny6spillsEPfi", "sm_75", 64, 24, 0, 0),
        Kernel("_ZN4tiny5scaleILi64EEEvPff", "sm_75", 10, 0, 0, 256),
        Kernel("_ZN4tiny5scaleILi64EEEvPff", "sm_90", 10, 0, 0, 1280),
    ]


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("void tiny::scale<64>(float*, float)", "scale<64>"),
        ("void a::(anonymous namespace)::tiles<(bool)1>(a::Input, a::Job const*, int)", "tiles<1>"),
        ("void a::fold<a::Kv, 2>(std::pair<a::B, int (*)(int)>)", "fold<Kv, 2>"),
        ("plain(int)", "plain"),
    ],
)
def test_names_are_short(name: str, want: str) -> None:
    from cuda_resources import short

    assert short(name) == want


def test_the_table_names_what_spills(tmp_path: Path) -> None:
    file = tmp_path / "library.so"
    file.touch()
    done = run(file, PATH=stand_in(tmp_path, LISTING))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["kernel", "arch", "registers", "stack", "local", "shared"]
    assert sorted(line.split()[1] for line in lines[1:]) == ["sm_75", "sm_75", "sm_75", "sm_90"]
    assert done.stderr.count("\n") == 1 and "spills" in done.stderr and "24 bytes" in done.stderr


def test_json_and_success_without_spills(tmp_path: Path) -> None:
    file = tmp_path / "library.so"
    file.touch()
    done = run(file, "--json", PATH=stand_in(tmp_path, LISTING.replace("STACK:24", "STACK:0")))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert len(found) == 4
    assert {kernel["architecture"] for kernel in found} == {"sm_75", "sm_90"}
    assert not any(kernel["spills"] for kernel in found)


def test_a_file_without_gpu_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "library.so"
    file.touch()
    done = run(file, PATH=stand_in(tmp_path, ""))
    assert done.returncode == 2
    assert f"{file} has no GPU code" in done.stderr


def test_without_cuobjdump_it_says_so(tmp_path: Path) -> None:
    if shutil.which("cuobjdump", path="/usr/local/cuda/bin"):
        pytest.skip("cuobjdump lies where it is always found")
    done = run(tmp_path, PATH=str(tmp_path), CUDA_HOME="", CUDA_PATH="")
    assert done.returncode == 2
    assert "part of the CUDA toolkit" in done.stderr


def compiled(source: Path, target: Path) -> Path:
    from cuda_resources import find_tool

    missing = [name for name in ("nvcc", "cuobjdump") if find_tool(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}, of the CUDA toolkit")
    command = [
        str(find_tool("nvcc")),
        "-std=c++20",
        "-arch=sm_90",
        f"-I{ROOT / 'csrc'}",
        "-c",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return target


def test_our_own_kernels_do_not_spill(tmp_path: Path) -> None:
    done = run(compiled(KERNELS / "rope.cu", tmp_path / "rope.o"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert any("rope" in kernel["name"] or "rotate" in kernel["name"] for kernel in found)
    assert all(0 < kernel["registers"] <= 255 and kernel["architecture"] == "sm_90" for kernel in found)


def test_a_kernel_that_spills_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "spills.cu"
    source.write_text(SPILLS)
    done = run(compiled(source, tmp_path / "spills.o"))
    assert done.returncode == 1
    assert "spills for sm_90 has a stack frame" in done.stderr
