"""math="fast": never taken unasked, never silently not taken, and where it is taken as close and as steady as stated.

Its kernels are tested on every CPU by tests/cpp/kernels, emulated. What runs a whole model with them needs a CPU with
AVX512_BF16.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_models import prompt
from tiny_runtime import logits_of, opened

from moestro import LLM, core
from moestro.report import Report

Checkpoints = Callable[[str], Path]

FAST = core.make_compute(math="fast")
needs_fast = pytest.mark.skipif(FAST.math != "fast", reason=f"fast math cannot be had: {FAST.refused[-1:]}")


def fast_refusals(report: Report) -> list[str]:
    return [reason for reason in report.refused if reason.startswith("fast math: ")]


def test_exact_is_the_default_and_refuses_nothing(tiny_checkpoint: Checkpoints) -> None:
    with LLM(tiny_checkpoint("qwen3_moe"), host_memory="64MiB", say=None) as llm:
        report = llm.report()
    assert report.math == "exact"
    assert not any("math" in line for line in report.lines())


@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_where_it_cannot_be_had_that_is_said_and_results_are_exact(
    isa: str, tiny_checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any CPU: no table but that of AVX-512 has it."""
    monkeypatch.setenv("MOESTRO_ISA", isa)
    directory, ids, said = tiny_checkpoint("qwen3_moe"), prompt(40), list[str]()
    with LLM(directory, host_memory="min", threads=1, math="fast", say=said.append) as llm:
        report, logits = llm.report(), llm.logits(ids.tolist())
    [reason] = fast_refusals(report)
    assert "this CPU lacks avx512_bf16" in reason or f"MOESTRO_ISA={isa}" in reason
    assert reason.endswith("so math='fast' computes exactly")
    assert f"not used: {reason}" in said
    assert report.math == "exact"
    with LLM(directory, host_memory="min", threads=1, say=None) as llm:
        assert llm.report().memory_plan == report.memory_plan, "nothing is planned for what does not happen"
        np.testing.assert_array_equal(llm.logits(ids.tolist()), logits)


def test_a_model_without_bf16_weights_says_so(tiny_checkpoint: Checkpoints) -> None:
    with LLM(tiny_checkpoint("qwen3_moe"), host_memory="64MiB", format="f32", math="fast", say=None) as llm:
        report = llm.report()
    assert report.math == "exact"
    assert fast_refusals(report) == ["fast math: this model has no bf16 weights, so math='fast' computes exactly"]


@needs_fast
@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "qwen3-tied", "llama"])
def test_logits_are_as_close_to_exact_as_stated(name: str, tiny_checkpoint: Checkpoints) -> None:
    directory, ids = tiny_checkpoint(name), prompt(200)
    with opened(directory) as exact, opened(directory, math="fast") as fast:
        assert fast.facts["math"] == "fast"
        want, got = logits_of(exact, ids).astype(np.float64), logits_of(fast, ids)
    row_errors = ((got - want) ** 2).sum(axis=1) / (want**2).sum(axis=1)
    # The median: a row whose router nearly ties may take another expert.
    assert 1e-8 < np.median(row_errors) <= 2e-3


@needs_fast
def test_placement_rows_and_threads_change_nothing_in_fast_math_either(tiny_checkpoint: Checkpoints) -> None:
    directory, ids = tiny_checkpoint("qwen3_moe"), prompt(70)
    with opened(directory, math="fast", threads=1) as plain:
        want = logits_of(plain, ids)
    for settings in ({"host_memory": "min"}, {"expert_slots": 2}, {"threads": 3}):
        with opened(directory, math="fast", **settings) as model:
            for chunk in (1, 7, 64):
                np.testing.assert_array_equal(logits_of(model, ids, chunk=min(chunk, model.decoder.max_rows)), want)


@needs_fast
def test_the_report_names_it(tiny_checkpoint: Checkpoints) -> None:
    with LLM(tiny_checkpoint("qwen3_moe"), host_memory="64MiB", math="fast", say=None) as llm:
        report = llm.report()
    assert report.math == "fast"
    assert any(line.startswith("math: fast, as asked") for line in report.lines())
    assert fast_refusals(report) == []
