"""What doctor shows: facts come from the machine, measurements clean up, nothing raises."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moestro import core
from moestro.errors import StorageError, UsageError
from moestro.plan import machine
from moestro.plan.rates import disk_rates, memory_rate

SMALL = 4 << 20


def test_everything_is_found_and_can_be_written_as_json(tmp_path: Path) -> None:
    seen = machine.inspect_machine(measure=False)
    assert json.loads(json.dumps(dataclasses.asdict(seen)))["versions"]["moestro"] == core.__version__
    assert seen.cpu != "unknown"
    assert 1 <= seen.cores <= seen.processors == len(os.sched_getaffinity(0))
    assert 0 < seen.available_bytes <= seen.memory_bytes
    assert seen.memory[0].active
    assert "80 %" in seen.memory[0].detail
    assert (seen.memory_rate, seen.disk_rates, seen.disk) == (None, (), "not measured")
    for fact in (*seen.instruction_sets, seen.fast_math, *seen.memory, *seen.devices, *seen.settings):
        assert fact.detail, fact


def test_the_active_instruction_set_is_the_one_a_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in ("", *(table["name"] for table in core.isa_tables() if table["usable"])):
        monkeypatch.setenv("MOESTRO_ISA", wanted)
        facts = machine.instruction_sets()
        assert [fact.name for fact in facts if fact.active] == [core.make_compute().isa]
        assert {fact.name for fact in facts} == {table["name"] for table in core.isa_tables()}


def test_fast_math_is_available_or_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.fast_math().active == (core.make_compute(math="fast").math == "fast")
    monkeypatch.setenv("MOESTRO_ISA", "avx2")  # no table but that of AVX-512 has it
    fact = machine.fast_math()
    assert not fact.active
    assert "this CPU lacks avx512_bf16" in fact.detail or "MOESTRO_ISA=avx2" in fact.detail
    monkeypatch.setenv("MOESTRO_ISA", "sse9")
    assert "sse9" in machine.fast_math().detail


def test_a_malformed_setting_is_a_fact_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESTRO_ISA", "sse9")
    monkeypatch.setenv("MOESTRO_ISSA", "avx2")
    seen = machine.inspect_machine()
    assert not any(fact.active for fact in seen.instruction_sets)
    facts = {fact.name: fact for fact in seen.settings}
    assert "sse9" in facts["MOESTRO_ISA"].detail
    assert not facts["MOESTRO_ISA"].active
    assert "nothing reads it" in facts["MOESTRO_ISSA"].detail
    assert seen.memory_rate is not None
    assert seen.memory_rate.bytes_per_second is None
    assert "sse9" in seen.memory_rate.reason


def test_locked_memory_is_judged_against_the_staging(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = core.Runtime.staging_bytes()
    for limit, active in ((needed - 1, False), (needed, True), (resource.RLIM_INFINITY, True)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert machine.locked_memory().active is active


def cuda_found(missing: str = "", *devices: dict[str, Any]) -> dict[str, Any]:
    return {"built": True, "driver": 13000, "runtime": 13000, "devices": list(devices), "missing": missing}


def test_without_cuda_the_reason_is_said_and_whether_a_driver_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "cuda_info", lambda: cuda_found("built without CUDA"))
    (fact,) = machine.cuda(tmp_path)
    assert not fact.active
    assert "built without CUDA (no NVIDIA driver" in fact.detail
    library = tmp_path / "usr/lib64/libcuda.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    (fact,) = machine.cuda(tmp_path)
    assert "/usr/lib64/libcuda.so.1" in fact.detail


def test_cuda_devices_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = {
        "name": "NVIDIA X",
        "compute_capability": (9, 0),
        "multiprocessors": 132,
        "integrated": False,
        "bus": "0000:01:00.0",
        "total": 80 << 30,
        "free": 79 << 30,
        "missing": "",
    }
    old = {**device, "compute_capability": (6, 1), "missing": "older than compute capability 7.5"}
    monkeypatch.setattr(core, "cuda_info", lambda: cuda_found("", device, old))
    good, refused = machine.cuda(tmp_path)
    assert good.active
    assert "NVIDIA X, compute capability 9.0, 132" in good.detail and "79" in good.detail
    assert not refused.active
    assert "7.5" in refused.detail


def test_a_machine_that_tells_nothing_is_described_all_the_same(tmp_path: Path) -> None:
    seen = machine.inspect_machine(measure=False, root=tmp_path)
    assert (seen.cpu, seen.memory_bytes, seen.available_bytes) == ("unknown", 0, 0)
    assert not seen.memory[0].active


def test_a_directory_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    rates = disk_rates(tmp_path, seconds=0.2, file_bytes=SMALL)
    assert [rate.name for rate in rates] == [f"{r}, {c}" for r in core.READERS for c in ("direct", "buffered")]
    for rate in rates:
        assert (rate.bytes_per_second is None) == bool(rate.reason), rate
        assert rate.bytes_per_second is None or rate.bytes_per_second > 0
    assert rates[-1].bytes_per_second is not None, "plain threads work everywhere"
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SMALL))
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert disk_rates(path, seconds=0.1)[-1].bytes_per_second
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_measurement_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(core, "measure_read_rate", fail)
    with pytest.raises(KeyboardInterrupt):
        disk_rates(tmp_path, file_bytes=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        disk_rates(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="/proc"):
        disk_rates(Path("/proc"), file_bytes=SMALL)
    seen = machine.inspect_machine(disk=tmp_path / "nowhere")
    assert seen.disk_rates == ()
    assert "nowhere" in seen.disk


def test_the_memory_rate_is_of_this_world() -> None:
    rate = memory_rate(1, nbytes=8 << 20, seconds=0.02)
    assert rate.bytes_per_second is not None
    assert 1e7 < rate.bytes_per_second < 1e13


def test_torch_is_never_imported() -> None:
    code = "import sys; from moestro.plan import machine, memory; machine.inspect_machine(measure=False)\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
