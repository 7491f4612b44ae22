"""How files are read: as asked, else as a trial says, which is held once per place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moestro import LLM
from moestro.cache_dir import cache_root
from moestro.config import EngineConfig
from moestro.errors import UnsupportedError, UsageError
from moestro.plan import io_choice
from moestro.plan.io_choice import REMEMBERED_FILE, IoChoice, Way, choose_io

RECORD = 2 << 20
MEMORY = 40 << 20


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A large file, of holes, in a folder of its own; and a cache of its own."""
    monkeypatch.setenv("MOESTRO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model" / "experts.safetensors"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(io_choice.LEAST_BYTES + 4096)
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[Way, float | None]], list[tuple[Way, int]]]:
    """Rates that the disk will show from now on, others 1.0; None: it cannot be had. Returns what was measured."""

    def with_rates(rates: dict[Way, float | None]) -> list[tuple[Way, int]]:
        seen: list[tuple[Way, int]] = []

        def measure(
            path: str, block: int, depth: int, engine: str, cache: str, seconds: float, offset: int, read_bytes: int
        ) -> dict[str, Any]:
            way = Way(engine, cache, depth, read_bytes)
            seen.append((way, offset))
            assert block == RECORD if depth * RECORD <= MEMORY else block * depth <= MEMORY < (block + 4096) * depth
            rate = rates.get(way, 1.0)
            if rate is None:
                raise UnsupportedError("not here")
            return {"bytes_per_second": rate * 1e9, "direct": cache == "direct"}

        monkeypatch.setattr(io_choice.core, "measure_read_rate", measure)
        return seen

    return with_rates


URING, THREADS = Way("io_uring", "direct", 32, 4 << 20), Way("threads", "direct", 8, 4 << 20)
SHORT, CACHED = Way("io_uring", "direct", 32, 1 << 20), Way("io_uring", "buffered", 32, 4 << 20)


def choose(model: Path, **settings: Any) -> IoChoice:
    return choose_io(EngineConfig(model="m", **settings), [model], RECORD, MEMORY)


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({}, URING),
        ({THREADS: 1.05}, URING),
        ({THREADS: 1.2}, THREADS),
        ({THREADS: 1.2, SHORT: 1.3}, SHORT),
        ({CACHED: 1.4}, URING),
        ({CACHED: 1.7}, CACHED),
        ({URING: None, SHORT: None, Way("io_uring", "direct", 8, 4 << 20): None, CACHED: None}, THREADS),
    ],
)
def test_another_way_must_be_worth_it(rates: dict[Way, float], best: Way, model: Path, measured: Any) -> None:
    seen = measured(rates)
    choice = choose(model)
    assert choice.way == best
    assert "by a trial of 2" in choice.why
    offsets = [offset for _, offset in seen]
    assert len(set(offsets)) == len(offsets), "no two ways read the same place"
    assert max(offsets) < model.stat().st_size and not any(offset % 4096 for offset in offsets)


def test_a_trial_is_held_once_per_place(model: Path, measured: Any, tmp_path: Path) -> None:
    seen = measured({THREADS: 2.0})
    first = choose(model)
    count = len(seen)
    assert count > 0
    assert choose(model) == first
    assert len(seen) == count
    other = tmp_path / "elsewhere" / "experts.safetensors"
    other.parent.mkdir()
    model.rename(other)
    assert choose(other).way == THREADS
    assert len(seen) == 2 * count
    known = json.loads((cache_root() / REMEMBERED_FILE).read_text())
    assert sorted(place.rpartition("/")[2] for place in known) == ["elsewhere", "model"]


@pytest.mark.parametrize("damage", ["", "[1]", "{", '{"x": 1}'])
def test_a_damaged_memory_is_made_again(damage: str, model: Path, measured: Any) -> None:
    measured({})
    cache_root().mkdir()
    (cache_root() / REMEMBERED_FILE).write_text(damage)
    assert "by a trial" in choose(model).why
    assert "by a trial" in choose(model).why


def test_a_strange_entry_is_named(model: Path, measured: Any) -> None:
    measured({})
    choose(model)
    path = cache_root() / REMEMBERED_FILE
    path.write_text(json.dumps({place: {"way": {"speed": 9}} for place in json.loads(path.read_text())}))
    choice = choose(model)
    assert choice.way == Way()
    assert REMEMBERED_FILE in choice.why and "delete it" in choice.why


def test_what_is_asked_for_is_taken_without_a_trial(model: Path, measured: Any) -> None:
    seen = measured({})
    assert choose(model, io="cached") == IoChoice(Way("auto", "buffered"), "as asked")
    assert choose(model, io="direct", io_depth=3) == IoChoice(Way("auto", "direct", 3), "as asked")
    assert choose(model, io_engine="threads") == IoChoice(Way("threads", "direct"), "as asked")
    assert seen == []


def test_small_models_need_no_trial(model: Path, measured: Any) -> None:
    seen = measured({})
    with model.open("r+b") as file:
        file.truncate(io_choice.LEAST_BYTES - 1)
    assert choose(model).way == Way()
    assert seen == []


def test_nothing_measurable_leaves_the_default(model: Path, measured: Any) -> None:
    measured({way: None for way, _ in io_choice._WAYS})
    assert choose(model) == IoChoice(Way(), "no trial: none of the ways could be measured")
    assert not (cache_root() / REMEMBERED_FILE).exists()


def test_the_real_thing(model: Path) -> None:
    """Holes are read too."""
    choice = choose(model)
    assert choice.way.engine in ("io_uring", "threads")
    assert "GB/s" in choice.why


def test_an_engine_is_not_a_mode() -> None:
    with pytest.raises(UsageError, match="'io_uring' is an io_engine"):
        EngineConfig(model="m", io="io_uring")


def test_the_report_says_how_and_why(tiny_checkpoint: Callable[[str], Path]) -> None:
    directory = tiny_checkpoint("qwen3_moe")
    with LLM(directory, host_memory="64MiB", io="cached", io_depth=5, say=None) as llm:
        report = llm.report()
        assert (report.file_mode, report.depth) == ("buffered", 5)
        assert "as asked" in str(report)
        assert "outside the budget" in str(report)
    with LLM(directory, host_memory="64MiB", say=None) as llm:
        assert "no trial" in str(llm.report())
        assert "outside the budget" not in str(llm.report())
