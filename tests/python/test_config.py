"""Arguments: parsed once, refused by name."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moestro.config import EngineConfig, SamplingParams, format_bytes, parse_bytes
from moestro.errors import MoestroError, UnsupportedError, UsageError
from moestro.memory_limits import automatic_budget


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("8GiB", 8 << 30),
        ("512MB", 512_000_000),
        ("1.5 kib", 1536),
        ("0.1KB", 100),
        ("7", 7),
        ("12 B", 12),
        (" 2TiB ", 2 << 40),
        (4096, 4096),
        (0, 0),
    ],
)
def test_sizes(text: str | int, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "8G", "-1", "1e9", "8 GiBs", "1,5GB", "٣GB", None, 1.5, True, -1, "9" * 100]
)
def test_not_sizes(text: Any) -> None:
    with pytest.raises(UsageError, match="memory"):
        parse_bytes(text, "memory")


@given(st.integers(0, 1 << 60))
def test_written_sizes_are_read_back(count: int) -> None:
    assert abs(parse_bytes(format_bytes(count)) - count) <= count * 0.006
    assert format_bytes(-count).lstrip("-") == format_bytes(count)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", ""),
        ("host_memory", "plenty"),
        ("host_memory", 0),
        ("format", "q5"),
        ("trunk_format", "int8"),
        ("threads", 0),
        ("threads", True),
        ("kv_dtype", "q8"),
        ("max_model_len", 0),
        ("prefill_chunk", 0),
        ("prefill_chunk", "whole"),
        ("policy", "belady"),
        ("verify", True),
        ("io", "mmap"),
        ("io", "io_uring"),
        ("io_engine", "aio"),
        ("io_depth", 0),
        ("device", "gpu"),
        ("device", "cuda:first"),
        ("trunk", "device"),
        ("trunk", "gpu"),
        ("math", "quick"),
        ("expert_slots", 1),
    ],
)
def test_engine_arguments_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        EngineConfig(**({"model": "m"} | {name: value}))
    assert isinstance(caught.value, (MoestroError, ValueError))


def test_engine_defaults() -> None:
    config = EngineConfig(model="org/name")
    assert (config.host_memory, config.format, config.trunk_format, config.policy) == ("auto", "auto", None, "auto")
    assert EngineConfig(model="m", host_memory="2GiB").host_memory == 2 << 30
    assert EngineConfig(model="m", host_memory="min").host_memory == "min"
    assert EngineConfig(model=Path("a/b")).model == "a/b"  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        config.threads = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [1]),
        ("stop", 1),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", "12"),
        ("stop_token_ids", 3),
        ("logprobs", -1),
        ("seed", 1.0),
        ("ignore_eos", 1),
    ],
)
def test_sampling_arguments_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        SamplingParams(**{name: value})


def test_sampling_defaults_and_forms() -> None:
    plain = SamplingParams()
    assert (plain.temperature, plain.max_tokens, plain.top_p, plain.top_k, plain.n) == (1.0, 16, 1.0, 0, 1)
    assert (plain.stop, plain.stop_token_ids, plain.greedy) == ((), (), False)
    given_ = SamplingParams(stop="end", stop_token_ids=[3, 4], temperature=0, max_tokens=None, top_k=-1)
    assert (given_.stop, given_.stop_token_ids, given_.greedy) == (("end",), (3, 4), True)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    with pytest.raises(UsageError, match="n must be 1"):
        SamplingParams(temperature=0, n=2)


def machine(root: Path, available_kib: int, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available_kib} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


GIB_KIB = 1 << 20


@pytest.mark.parametrize(
    ("cgroup", "files", "limit", "word"),
    [
        ("", {}, 10 << 30, "available memory"),
        ("0::/\n", {"memory.max": "max\n"}, 10 << 30, "available memory"),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": str(4 << 30)}, 4 << 30, "a/memory.max"),
        ("0::/host/only\n", {"memory.max": str(3 << 30)}, 3 << 30, "memory.max"),
        ("0::/../up\n", {"memory.max": str(3 << 30)}, 3 << 30, "memory.max"),
        ("5:cpu:/\n3:cpuset,memory:/x\n", {"memory/x/memory.limit_in_bytes": str(2 << 30)}, 2 << 30, "limit_in_bytes"),
        ("3:memory:/x\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 10 << 30, "available memory"),
        ("0::/\n", {"memory.max": str(99 << 30)}, 10 << 30, "available memory"),
    ],
)
def test_automatic_budget(cgroup: str, files: dict[str, str], limit: int, word: str, tmp_path: Path) -> None:
    found = automatic_budget(machine(tmp_path, 10 * GIB_KIB, cgroup, files))
    assert found.nbytes == limit * 80 // 100
    assert word in found.source and format_bytes(found.nbytes) in found.source


def test_automatic_budget_needs_meminfo(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="host_memory"):
        automatic_budget(tmp_path)
    path = machine(tmp_path, 1, "", {}) / "proc/meminfo"
    path.write_text("MemTotal: 5 kB\n")
    with pytest.raises(UnsupportedError, match="MemAvailable"):
        automatic_budget(tmp_path)


def test_importing_starts_nothing_heavy() -> None:
    code = (
        "import sys, moestro; moestro.SamplingParams(); moestro.EngineConfig(model='m'); moestro.errors.UsageError;"
        "heavy = {'torch', 'numpy', 'transformers', 'huggingface_hub', 'moestro._core'} & sys.modules.keys();"
        "assert not heavy, heavy; assert 'LLM' in dir(moestro) and moestro.__version__; print('quick')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "quick\n", done.stderr
    with pytest.raises(AttributeError, match="nothing"):
        import moestro

        moestro.nothing  # noqa: B018
