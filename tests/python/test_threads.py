from __future__ import annotations

import os
from pathlib import Path

import pytest

from moestro.threads import default_threads


def machine(root: Path, cores: dict[int, tuple[int, int]]) -> Path:
    """processor -> (package, core)"""
    for processor, (package, core) in cores.items():
        topology = root / f"sys/devices/system/cpu/cpu{processor}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
    return root


def test_hardware_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path, {0: (0, 0), 1: (0, 1), 2: (0, 0), 3: (0, 1), 4: (1, 0), 5: (1, 0)})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5})
    assert default_threads(root) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3})
    assert default_threads(root) == 1


def test_a_machine_that_says_nothing_has_as_many_cores_as_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 7})
    assert default_threads(tmp_path) == 3


def test_this_machine() -> None:
    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))
