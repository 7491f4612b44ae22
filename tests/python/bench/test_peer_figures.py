"""Shares are formed of the limits around a sample, ratios inside a round and over the best peer of the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer_cases import Case
from peer_figures import Spread, figures, ratios
from peer_limits import Limits, between
from peer_rounds import Round, Sample


def case(name: str, family: str, bits: str, isa: str | None = None) -> Case:
    return Case(name, family, bits, "run.py", Path("model"), 1000, "f32" if bits == "bf16" else "int8", isa)


def sample(decode: float, prefill: float, tokens: list[int], rss: int = 1, speed: float = 1.0) -> Sample:
    return Sample(decode * speed, prefill * speed, rss, tokens, "", {}, limits(40_000.0 * speed))


def limits(read: float) -> Limits:
    return Limits(read, {("avx2", "f32"): 100.0, ("avx2", "int8"): 400.0, ("avx512", "f32"): 200.0}, {})


OURS = case("moestro q8", "moestro", "q8")
FORCED = case("moestro q8 avx2", "moestro", "q8", "avx2")
SLOW, FAST = case("llama a", "llama.cpp", "q8"), case("llama b", "llama.cpp", "q8")
OTHER = case("llama q4", "llama.cpp", "q4")
HF = case("transformers", "transformers", "bf16")
CASES = [OURS, FORCED, SLOW, FAST, OTHER, HF]
# The second round meets a machine half as fast: shares and ratios of a round do not see it.
ROUNDS = [
    Round(
        {
            OURS.name: sample(30, 90, [1, 2, 3], rss=10 * round_number, speed=speed),
            FORCED.name: sample(24, 45, [1, 2, 3], speed=speed),
            SLOW.name: sample(10, 60, [1, 2, 9], speed=speed),
            FAST.name: sample(20, 30, [7, 2, 3], speed=speed),
            OTHER.name: sample(500, 500, [1, 2, 3]),
            HF.name: sample(2, 45, [1, 2, 3], speed=speed),
        }
    )
    for round_number, speed in ((1, 1.0), (2, 0.5), (3, 1.0))
]
FOUND = {entry.name: figures(entry, ROUNDS, 800.0, 100, OURS.name) for entry in CASES}


def test_medians_spreads_and_shares() -> None:
    ours = FOUND[OURS.name]
    assert ours.decode == Spread(30, 15, 30)
    assert ours.weight_bytes == Spread(30_000, 15_000, 30_000)
    assert ours.read_share == Spread(0.75, 0.75, 0.75)
    assert ours.operations == Spread(720, 360, 720)
    assert ours.unit_share == Spread(1.8, 0.9, 1.8)  # no int8 in AVX-512 here: AVX2's is the unit
    assert ours.peak_rss == 20
    assert [FOUND[entry.name].agreeing for entry in (OURS, SLOW, FAST)] == [3, 2, 0]


def test_ratios_take_the_best_of_the_same_bits_in_each_discipline() -> None:
    found = {(ratio.what, ratio.case, ratio.peer): ratio.value for ratio in ratios(CASES, ROUNDS, FOUND)}
    assert found == {
        ("decode", OURS.name, FAST.name): Spread(1.5, 1.5, 1.5),
        ("prefill", OURS.name, SLOW.name): Spread(1.5, 1.5, 1.5),
        ("prefill", OURS.name, HF.name): Spread(2, 2, 2),
        ("decode", FORCED.name, FAST.name): Spread(1.2, 1.2, 1.2),
        ("prefill", FORCED.name, SLOW.name): Spread(0.75, 0.75, 0.75),
        ("prefill", FORCED.name, HF.name): Spread(1, 1, 1),
        ("decode", FORCED.name, OURS.name): Spread(0.8, 0.8, 0.8),
        ("prefill", FORCED.name, OURS.name): Spread(0.5, 0.5, 0.5),
    }


def test_a_case_that_failed_in_some_rounds_is_judged_by_the_others() -> None:
    late = [Round({OURS.name: sample(30, 90, [1])}), ROUNDS[0]]
    found = figures(FAST, late, 800.0, 100, OURS.name)
    assert (found.decode.median, found.agreeing) == (20, None)
    assert [ratio.value.median for ratio in ratios([OURS, FAST], late, {**FOUND, FAST.name: found})] == [1.5, 3.0]


@pytest.mark.parametrize(
    ("type", "isa", "want"),
    [("f32", None, 200.0), ("f32", "avx2", 100.0), ("bf16", None, 200.0), ("int8", "scalar", None)],
)
def test_the_unit_is_the_one_that_the_case_could_use(type: str, isa: str | None, want: float | None) -> None:
    assert limits(1.0).unit(type, isa) == want


def test_limits_around_a_sample_are_the_means_of_both() -> None:
    around = between(limits(10.0), limits(30.0))
    assert (around.read_bytes_per_second, around.units) == (20.0, limits(1.0).units)


def test_without_limits_there_are_no_shares() -> None:
    bare = Sample(30, 90, 1, [1], "", {})
    found = figures(OURS, [Round({OURS.name: bare})], 800.0, 100, OURS.name)
    assert (found.read_share, found.unit_share) == (None, None)
