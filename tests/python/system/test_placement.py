"""Promise 1: where a weight lives never changes the answer. Every row must give the bits of the resident, one-thread,
one-chunk run of the same format; every row with part of the memory must have evicted and missed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from moestro import LLM, SamplingParams, _core
from moestro.gen.stats import RunStats
from moestro.pack import pack_checkpoint

MODELS = ("qwen3_moe", "mixtral")
TOKENS = tiny_models.prompt(200)
FORMATS = ("bf16 in place", "bf16", "q8", "q4", "f32 in place", "f32")


@dataclass(frozen=True)
class Placement:
    """One row of the sweep: how a run differs from the plain one."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    slots: Callable[[int], int] | None = None  # of all experts
    isa: str = ""

    @property
    def partial(self) -> bool:
        return self.slots is not None or "host_memory" in self.settings


def half(experts: int) -> int:
    return experts // 2


def quarter(experts: int) -> int:
    return max(2, experts // 4)


def two(experts: int) -> int:
    return 2


PLACEMENTS = (
    Placement("two threads", {"threads": 2}),
    Placement("three threads", {"threads": 3}),
    Placement("half", {"threads": 2}, half),
    Placement("quarter", {"threads": 2}, quarter),
    Placement("two slots", {"threads": 2}, two),
    Placement("smallest budget", {"threads": 2, "host_memory": "min"}),
    Placement("one row at a time", {"prefill_chunk": 1}),
    Placement("chunks of 7", {"prefill_chunk": 7}),
    Placement("chunks of 64", {"prefill_chunk": 64, "threads": 2}),
    Placement("two slots, chunks of 7", {"prefill_chunk": 7}, two),
    Placement("quarter, one row at a time", {"prefill_chunk": 1, "threads": 2}, quarter),
    Placement("half, threads reader", {"io_engine": "threads", "threads": 2}, half),
    Placement("quarter, io_uring reader", {"io_engine": "io_uring"}, quarter),
    Placement("two slots, checksums always", {"verify": "always"}, two),
    Placement("scalar", {}, quarter, "scalar"),
    Placement("avx2", {"threads": 2}, quarter, "avx2"),
    Placement("avx512", {"threads": 2}, quarter, "avx512"),
)


@pytest.fixture(scope="module")
def stored(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """(model, format) -> the directory that holds it so."""
    made: dict[tuple[str, str], Path] = {}

    def directory(model: str, kind: str) -> Path:
        if (model, kind) not in made:
            source = tiny_checkpoint(model)
            if kind.startswith("f32"):
                source = tiny_models.write(model, tmp_path_factory.mktemp("f32") / model, dtype="float32")
            if not kind.endswith("in place"):
                target = tmp_path_factory.mktemp("packed") / f"{model}-{kind}"
                source = pack_checkpoint(source, target, kind, threads=2)
            made[model, kind] = source
        return made[model, kind]

    return directory


def load(directory: Path, **settings: Any) -> LLM:
    return LLM(directory, **{"host_memory": "256MiB", "threads": 1, "kv_dtype": "f32", "say": None, **settings})


def stats_of(llm: LLM) -> RunStats:
    stats = llm.stats()
    assert stats is not None
    return stats


def experts_of(model: str) -> int:
    config = tiny_models.CONFIGS[model]()
    return int(config.num_hidden_layers * config.num_local_experts)


@pytest.fixture(scope="module")
def plain(stored: Callable[[str, str], Path]) -> Callable[[str, str], Any]:
    """(model, format) -> logits of the plain run: everything resident, one thread, one chunk."""
    known: dict[tuple[str, str], Any] = {}

    def logits(model: str, kind: str) -> Any:
        if (model, kind) not in known:
            with load(stored(model, kind), prefill_chunk=len(TOKENS)) as llm:
                known[model, kind] = llm.logits(TOKENS)
                assert stats_of(llm).evictions == 0
        return known[model, kind]

    return logits


def isa_usable(name: str) -> bool:
    return any(table["name"] == name and table["usable"] for table in _core.isa_tables())


@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: placement.name)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("model", MODELS)
def test_logits_are_the_same_bits(
    model: str,
    kind: str,
    placement: Placement,
    stored: Callable[[str, str], Path],
    plain: Callable[[str, str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if placement.isa:
        if not isa_usable(placement.isa):
            pytest.skip(f"this CPU does not run the {placement.isa} table")
        monkeypatch.setenv("MOESTRO_ISA", placement.isa)
    directory = stored(model, kind)
    settings = dict(placement.settings)
    if placement.slots is not None:
        settings["expert_slots"] = placement.slots(experts_of(model))
    with load(directory, **settings) as llm:
        if placement.isa:
            assert llm.report().isa == placement.isa
        got = llm.logits(TOKENS)
        stats = stats_of(llm)
        if placement.partial:
            assert stats.evictions > 0
            assert stats.misses > 0
    np.testing.assert_array_equal(got, plain(model, kind))


@pytest.mark.parametrize("seed", range(24))
def test_any_combination_gives_the_same_bits(
    seed: int,
    stored: Callable[[str, str], Path],
    plain: Callable[[str, str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The placements above change one or two things; here everything varies at once."""
    draw = random.Random(seed)
    model, kind = draw.choice(MODELS), draw.choice(FORMATS)
    isa = draw.choice([name for name in ("scalar", "avx2", "avx512") if isa_usable(name)])
    settings = {
        "threads": draw.choice((1, 2)),
        "prefill_chunk": draw.choice((1, 7, 64, len(TOKENS))),
        "io": draw.choice(("direct", "cached")),
        "io_engine": draw.choice(("io_uring", "threads")),
        "io_depth": draw.choice((1, 3, 32)),
        "verify": draw.choice(("first", "always", "never")),
        **draw.choice(
            ({"host_memory": "min"}, *({"expert_slots": of(experts_of(model))} for of in (two, quarter, half)))
        ),
    }
    monkeypatch.setenv("MOESTRO_ISA", isa)
    with load(stored(model, kind), **settings) as llm:
        got, stats = llm.logits(TOKENS), stats_of(llm)
        assert (llm.report().isa, llm.report().reader) == (isa, settings["io_engine"])
    assert stats.evictions > 0 and stats.misses > 0
    np.testing.assert_array_equal(got, plain(model, kind), err_msg=f"{model}, {kind}, {isa}, {settings}")


@pytest.mark.parametrize("kind", ("bf16", "f32"))
@pytest.mark.parametrize("model", MODELS)
def test_packed_and_in_place_agree(model: str, kind: str, plain: Callable[[str, str], Any]) -> None:
    np.testing.assert_array_equal(plain(model, kind), plain(model, f"{kind} in place"))


def answers(llm: LLM, prompts: list[list[int]]) -> Iterator[Any]:
    params = SamplingParams(max_tokens=12, temperature=0.8, seed=7, logprobs=5, ignore_eos=True)
    for output in llm.generate(prompts, params):
        yield output.outputs[0].token_ids, output.outputs[0].logprobs


@pytest.mark.parametrize("kind", ("bf16 in place", "q4"))
def test_a_prompt_answers_alone_as_in_a_batch(kind: str, stored: Callable[[str, str], Path]) -> None:
    prompts = [tiny_models.prompt(length, seed=9).tolist() for length in (1, 7, 64, 130)]
    directory = stored("qwen3_moe", kind)
    with load(directory) as llm:
        alone = [next(iter(answers(llm, [prompt]))) for prompt in prompts]
    with load(directory, threads=2, prefill_chunk=23, expert_slots=4) as llm:
        together = list(answers(llm, prompts))
        assert stats_of(llm).evictions > 0
    assert together == alone
