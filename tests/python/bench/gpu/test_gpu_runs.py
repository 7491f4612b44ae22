"""A random store answers, exactly so on an emulated device, and a replay with measured lanes says what it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from budget import Needs
from moestro import LLM
from moestro.demo.random_model import Shape
from predict import Lanes, fit_lanes, predict
from random_store import random_store
from run_engine import Run, Settings

SHAPE = Shape(
    hidden=128,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=32,
    experts=8,
    experts_per_token=2,
    expert_width=96,
    context=1024,
    vocab=700,
)
GENERATE = 9


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_store(tmp_path_factory.mktemp("gpu") / "store", SHAPE, "q4")


@pytest.fixture(scope="module")
def reference(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("reference")
    settings = Settings(str(store), "cpu", "", "none", [], 40, GENERATE, str(folder))
    return settings, Run(settings).reference()


def test_the_store_is_whole_and_its_experts_differ(store: Path) -> None:
    with LLM(store, verify="always", say=None) as llm:
        logits = llm.logits(list(range(50)))
        spread = logits.std(axis=1)
    assert np.isfinite(logits).all() and spread.min() > 0.1
    assert len(np.unique(logits.argmax(axis=1))) > 10
    assert random_store(store, SHAPE, "q4") == store


def test_the_reference_says_where_its_decode_begins(reference: tuple[Settings, dict[str, Any]]) -> None:
    settings, found = reference
    assert found["decode"]["steps"] == GENERATE - 1 == len(found["tokens"]) - 1
    assert (Path(settings.reference) / "routing.npz").is_file()
    assert found["first_step"] > GENERATE


def test_every_share_gives_the_same_bits_and_a_prediction(
    reference: tuple[Settings, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, alone = reference
    # An emulated device has experts alone, and these are small.
    experts_only = replace(Needs(**alone["needs"]), trunk=0)
    monkeypatch.setattr("run_engine.needs", lambda settings: experts_only)
    monkeypatch.setattr("budget._SLACK", 0)
    rows: list[dict[str, Any]] = []
    for case, prefetch in (("cpu", "none"), ("hybrid", "auto"), ("on_demand", "none")):
        device = "emulated:memory=64MiB,like=deepseek-v2-lite"
        asked = replace(settings, device=device, schedule=case, prefetch=prefetch, shares=[1.0, 0.25])
        run = Run(asked)
        for share in asked.shares:
            rows.append({"case": case, "schedule": case, "prefetch": prefetch, **run.share(share)})
    assert all(row["same_logits"] and row["same_tokens"] for row in rows)
    count = SHAPE.layers * SHAPE.experts
    assert [row["residency"]["device_slots"] for row in rows] == [count, count // 4] * 3
    lanes = fit_lanes(rows, SHAPE.layers, 4096)
    assert lanes is not None and lanes.cpu > lanes.device > 0
    trace = Path(settings.reference) / "routing.npz"
    found = predict(trace, lanes, rows, alone["first_step"])
    assert all(seconds is not None and 0 < seconds < 10 for seconds in found)


def counted(case: str, seconds: float, **decode: int) -> dict[str, Any]:
    usual = {"hits": 80, "misses": 0, "joined": 0, "on_device": 0, "device_ns": 0, "link_bytes": 0, "link_busy_ns": 0}
    return {"case": case, "decode_s": seconds, "decode": {**usual, "compute_ns": 0, "steps": 10, **decode}}


def test_lanes_come_from_the_runs_that_keep_them_busy() -> None:
    rows = [
        counted("cpu", 1.0, compute_ns=80_000),
        counted("hybrid", 60e-6, on_device=80, device_ns=16_000),
        counted("on_demand", 1.0, on_device=40, device_ns=9_000, link_bytes=40_960, link_busy_ns=5_000),
    ]
    # Per layer and step 60 us / 40 = 1.5 us, of which two experts take 0.4.
    lanes = fit_lanes(rows, 4, 4096)
    assert lanes == Lanes(cpu=1000.0, device=200.0, link=500.0, layer=pytest.approx(1100.0))
    assert fit_lanes(rows[1:], 4, 4096) is None
    assert fit_lanes(rows[:1], 4, 4096) is None


def test_needs_are_those_of_the_plans(reference: tuple[Settings, dict[str, Any]]) -> None:
    found = Needs(**reference[1]["needs"])
    assert found.experts == SHAPE.layers * SHAPE.experts * found.record
    assert 0 < found.trunk < found.host
