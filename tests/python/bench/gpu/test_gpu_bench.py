"""What of bench/gpu needs no GPU: budgets, processes, arguments, the table and the plot."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

import run
from bench_models import SHAPES
from budget import CASES, SHARES, Budget, Needs
from children import run_child
from moestro import core
from plot import plot
from show import link_per_token, on_device, table

DECODE = {"hits": 90, "misses": 6, "joined": 4, "on_device": 75, "link_bytes": 40_000_000, "steps": 20}


def one_run(case: str, share: float, decode: float, **more: Any) -> dict[str, Any]:
    figures = {"decode_tokens_per_s": decode, "prefill_tokens_per_s": 10 * decode, "decode": DECODE}
    return {"case": case, "share": share, **figures, "same_logits": True, "same_tokens": True, **more}


RESULT: dict[str, Any] = {
    "gpu": "A GPU",
    "machine": "a machine",
    "commit": "abc",
    "date": "2026-11-23",
    "kernels": [
        {"kind": "device", "name": "A GPU"},
        {"kind": "limit", "name": "read", "gb_per_s": 3012.5},
        {"kind": "decode", "name": "experts q4", "us": 10.5, "gb_per_s": 2711.25, "share_of_read": 0.9},
        {"kind": "prefill", "name": "linear q8", "us": 99.0, "tops": 300.5, "share_of_mixed": 0.8125},
        {"kind": "decode", "name": "experts bf16", "skipped": "its weights do not fit"},
    ],
    "cublas": [{"name": "8192 x 8192 x 8192 bf16", "tflops": 712.3}],
    "models": {
        "bench q4": {
            "reference": {"decode_tokens_per_s": 12.5, "prefill_tokens_per_s": 140.0},
            "runs": [
                *(one_run("hybrid", share, 100 * share, predicted_s=0.01 / share) for share in SHARES),
                one_run("cpu", 1.0, 20.0),
            ],
        }
    },
    "offload": [
        {"share": 0.5, "parts_on_device": 12, "parts": 24, "decode_tokens_per_s": 1.5, "prefill_tokens_per_s": 80.0}
    ],
    "left_out": {"bench q8": "20 s were left, it needs about 60 s"},
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# ---- budgets ---------------------------------------------------------------------------------------------------------
def test_parts_are_left_out_when_their_time_is_gone() -> None:
    clock = Clock()
    budget = Budget(60.0, clock)
    assert budget.allows("first", 60.0)
    clock.now += 45.0
    assert budget.left() == 15.0
    assert not budget.allows("second", 20.0)
    assert budget.allows("third", 15.0)
    assert budget.left_out == {"second": "15 s were left, it needs about 20 s"}
    clock.now += 60.0
    assert budget.left() == 0.0


def test_device_memory_is_the_trunk_and_a_share_of_the_experts() -> None:
    needs = Needs(experts=1000 << 20, record=10 << 20, trunk=300 << 20, host=400 << 20)
    found = [needs.device_memory(share) >> 20 for share in SHARES]
    assert found == [1364, 864, 614, 464]
    assert needs.device_memory(0.0) >> 20 == 300 + 2 * 10 + 64
    assert needs.host_memory() >> 20 == 400 + 1000 + 20 + 64


def test_cases_are_schedules_that_there_are() -> None:
    assert {case.schedule for case in CASES} <= set(core.PLANNERS)
    assert {case.prefetch for case in CASES} <= set(core.PREDICTORS)
    assert all(case.shares == tuple(sorted(case.shares, reverse=True)) for case in CASES)


def test_sizes_of_stores_and_of_what_accelerate_places() -> None:
    shape = SHAPES["8gb"]
    experts = 24 * 64 * 3 * 1024 * 768
    assert run.store_bytes(shape, "q4") == pytest.approx(experts * 4.5 / 8, rel=0.15)
    sizes = run.offload_needs(shape)
    assert (sizes.experts, sizes.record) == (2 * experts, 2 * 3 * 1024 * 768)
    assert sizes.trunk == 2 * (24 * 2 * 1024 * 128 * 20 + 2 * 32000 * 1024) + (1 << 30)


# ---- processes -------------------------------------------------------------------------------------------------------
def script(text: str) -> list[str]:
    return [sys.executable, "-u", "-c", text]


def test_lines_of_a_process_are_results() -> None:
    child = run_child(script("print('{\"a\": 1}'); print('words'); print('{\"a\": 2}')"), 30)
    assert (child.lines, child.failure) == ([{"a": 1}, {"a": 2}], "")


def test_what_a_process_printed_counts_when_its_time_is_up() -> None:
    child = run_child(script("import time; print('{\"a\": 1}'); print('{\"a\":', end=''); time.sleep(60)"), 3)
    assert child.lines == [{"a": 1}]
    assert child.failure == "it was stopped after 3 s"


def test_a_failure_is_what_was_said_last() -> None:
    child = run_child(script("import sys; print('{\"a\": 1}'); sys.exit('there is no room')"), 30)
    assert (child.lines, child.failure) == ([{"a": 1}], "there is no room")
    assert "no-such-program" in run_child(["no-such-program"], 30).failure


# ---- arguments and places --------------------------------------------------------------------------------------------
def test_the_defaults_are_one_command_within_eight_minutes() -> None:
    arguments = run._arguments([])
    assert arguments.seconds <= 480
    assert (arguments.shape, arguments.model, arguments.kernels_only) == ("8gb", None, False)


@pytest.mark.parametrize("words", [["--generate", "1"], ["--shape", "dense"], ["--seconds", "soon"]])
def test_wrong_arguments_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        run._arguments(words)
    assert refused.value.code == 2


def test_without_a_gpu_it_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "cuda_info", lambda: {"missing": "no driver was found", "devices": []})
    with pytest.raises(SystemExit, match="needs a CUDA device: no driver was found"):
        run.require_gpu()


def test_the_first_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "cuda_info", lambda: {"missing": "", "devices": [{"name": "A"}, {"name": "B"}]})
    assert run.require_gpu() == {"name": "A"}


def test_the_binary_is_found_or_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="MOESTRO_CUDA=ON"):
        run.find_binary(tmp_path)
    binary = tmp_path / "bench" / run.BINARY
    binary.parent.mkdir()
    binary.touch()
    assert run.find_binary(tmp_path) == binary


def test_models_are_made_in_memory_where_there_is_enough(tmp_path: Path) -> None:
    assert run.choose_work(1, shared=tmp_path) == tmp_path / "moestro-bench"
    assert run.choose_work(1 << 60, shared=tmp_path) == run.default_work()
    assert run.choose_work(1, shared=tmp_path / "nothing") == run.default_work()


# ---- what is shown ---------------------------------------------------------------------------------------------------
def test_figures_of_a_run() -> None:
    found = one_run("hybrid", 0.5, 10.0)
    assert on_device(found) == 0.75
    assert link_per_token(found) == 2e6


def test_the_table_has_every_figure_and_what_is_missing() -> None:
    lines = list(table(RESULT))
    text = "\n".join(lines)
    assert lines[0] == "A GPU; a machine; commit abc, 2026-11-23"
    for words in ("2711", "90%", "300.5", "81%", "712 TFLOPS", "12 of 24", "12.50 tok/s", "75%"):
        assert words in text, words
    assert "not measured: experts bf16: its weights do not fit" in lines
    assert lines[-1] == "not measured: bench q8: 20 s were left, it needs about 60 s"
    assert text.count("the same") == 5 and "DIFFERENT" not in text
    assert "of the data sheet" not in text  # of which nothing was said
    assert next(line for line in lines if " 25% " in line).split()[:3] == ["hybrid", "25%", "25.00"]


def test_other_bits_are_named() -> None:
    result = copy.deepcopy(RESULT)
    result["models"]["bench q4"]["runs"][0]["same_tokens"] = False
    assert not run.exact(result["models"]["bench q4"]["runs"][0])
    assert "\n".join(table(result)).count("DIFFERENT") == 1


def test_a_plot_of_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    plot(tmp_path / "images" / "gpu.png", RESULT)
    assert (tmp_path / "images" / "gpu.png").stat().st_size > 10_000
    plot(tmp_path / "none.png", {**RESULT, "models": {}})
    assert capsys.readouterr().out == "no plot: no model was measured\n"
    assert not (tmp_path / "none.png").exists()
