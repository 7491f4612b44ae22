"""A trunk that does not fit passes through memory: the same bits, the same promise of memory, and named failures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from moestro import LLM, SamplingParams, _core
from moestro._core import Runtime
from moestro.errors import BudgetError, MoestroError
from moestro.gen.stats import RunStats
from moestro.models.decoder import DecoderLayer
from moestro.pack import pack_checkpoint

TOKENS = tiny_models.prompt(150)
# Dense, dense with biases inside the units, tied, and experts beside a streamed trunk.
MODELS = ("llama", "qwen3-tied", "qwen3_moe", "qwen3_moe-dense-layers-biases")
KINDS = ("bf16 in place", "f32", "q8", "q4")
STREAMS = ("interleave", "interleave:1", "zero-inference", "superpipeline:3,2", "tpi-llm:3", "se-moe:4")


@pytest.fixture(scope="module")
def stored(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """(model, kind) -> the directory that holds it so."""

    @functools.cache
    def directory(model: str, kind: str) -> Path:
        source = tiny_checkpoint(model)
        if kind.endswith("in place"):
            return source
        return pack_checkpoint(source, tmp_path_factory.mktemp("packed") / f"{model}-{kind}", kind, threads=2)

    return directory


def load(directory: Path, **settings: Any) -> LLM:
    return LLM(directory, **{"host_memory": "256MiB", "threads": 2, "kv_dtype": "f32", "say": None, **settings})


def stats_of(llm: LLM) -> RunStats:
    stats = llm.stats()
    assert stats is not None
    return stats


@pytest.fixture(scope="module")
def resident(stored: Callable[[str, str], Path]) -> Callable[[str, str], Any]:
    @functools.cache
    def logits(model: str, kind: str) -> Any:
        with load(stored(model, kind), stream="off", prefill_chunk=64) as llm:
            assert llm.report().units == 0
            return llm.logits(TOKENS)

    return logits


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_logits_are_the_same_bits(
    model: str, kind: str, stream: str, stored: Callable[[str, str], Path], resident: Callable[[str, str], Any]
) -> None:
    for settings in ({"host_memory": "min", "prefill_chunk": 41}, {"prefill_chunk": 150, "verify": "always"}):
        with load(stored(model, kind), stream=stream, **settings) as llm:
            report = llm.report()
            assert report.units > 0
            np.testing.assert_array_equal(llm.logits(TOKENS), resident(model, kind))
            if report.units_kept < report.units and llm.config.prefill_chunk == 41:
                assert stats_of(llm).stream_bytes_read > 0


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind -> a dense model of 25 MB whose layers are small beside the whole."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=600,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    source = tiny_models.write("llama", tmp_path_factory.mktemp("larger") / "model", config=config, shard="10MB")

    @functools.cache
    def directory(kind: str) -> Path:
        if kind.endswith("in place"):
            return source
        return pack_checkpoint(source, tmp_path_factory.mktemp("larger") / kind, kind, threads=2)

    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_too_small_for_the_trunk_streams_it(kind: str, larger: Callable[[str], Path]) -> None:
    directory, settings = larger(kind), {"prefill_chunk": 32, "max_model_len": 256}
    with load(directory, host_memory="min", stream="off", **settings) as llm:
        budget, trunk, right = llm.report().budget, llm.report().memory_plan["trunk"], llm.logits(TOKENS)
    with load(directory, host_memory="min", stream="zero-inference", **settings) as llm:
        least = llm.report().budget
    assert least < budget
    for host_memory in (least, (least + budget) // 2, budget - 1):
        with load(directory, host_memory=host_memory, **settings) as llm:
            report = llm.report()
            assert (report.units_kept > 0) == (host_memory > least)
            assert report.units_kept < report.units
            assert "streamed" in report.stream and str(report.units) in report.stream
            for _ in range(2):
                np.testing.assert_array_equal(llm.logits(TOKENS), right)
            stats = stats_of(llm)
            assert stats.peak_bytes <= stats.budget_bytes == host_memory
            assert stats.peak_bytes_by_entry["trunk"] < trunk
            assert stats.stream_bytes_read > 0
    with pytest.raises(BudgetError, match="are missing"):
        load(directory, host_memory=budget - 1, stream="off", **settings)
    with pytest.raises(BudgetError, match="layer stream"):
        load(directory, host_memory=least - 1, **settings)


def test_every_token_reads_what_does_not_stay(stored: Callable[[str, str], Path]) -> None:
    tokens = 20
    with load(stored("llama", "q8"), stream="se-moe:2") as llm:
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        llm.generate([[1, 2, 3]], params)  # the ring is filled
        llm.generate([[1, 2, 3]], params)
        stats, report = stats_of(llm), llm.report()
        per_step = report.memory_plan["layer stream"] // 2 * 3  # three layers of the largest size, and a small head
        assert 0.8 * per_step * tokens < stats.stream_bytes_read < 2 * per_step * tokens
        assert stats.stream_gb_per_s is not None and stats.lanes_s["stream ssd"] > 0


def test_kv_takes_the_memory_of_layers_that_stay_and_gives_it_back(larger: Callable[[str], Path]) -> None:
    directory, long = larger("q8"), tiny_models.prompt(900)
    with load(directory, stream="off", prefill_chunk=32) as llm:
        right, right_long = llm.logits(TOKENS), llm.logits(long)
    with load(directory, host_memory="min", prefill_chunk=32, stream="off") as llm:
        budget = llm.report().budget  # with KV for 256 tokens
    with load(directory, host_memory=budget - 4096, prefill_chunk=32) as llm:
        report = llm.report()
        assert report.units_kept > 0
        np.testing.assert_array_equal(llm.logits(long), right_long)  # at once: layers may still be on their way
        stats = stats_of(llm)
        assert stats.peak_bytes_by_entry["kv"] > report.memory_plan["kv"]
        assert stats.peak_bytes <= stats.budget_bytes
        np.testing.assert_array_equal(llm.logits(TOKENS), right)
        np.testing.assert_array_equal(llm.logits(long), right_long)


@pytest.mark.parametrize("fault", ("eio@9", "short@14", "flip@17"))
@pytest.mark.parametrize("model", ("llama", "qwen3_moe"))
def test_a_failing_read_is_named_and_survived(
    model: str,
    fault: str,
    stored: Callable[[str, str], Path],
    resident: Callable[[str, str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Both readers count: the trunk's and, with experts, theirs.
    right = resident(model, "q8")
    monkeypatch.setattr("moestro.models.load.Runtime", functools.partial(Runtime, faults=fault))
    with load(stored(model, "q8"), stream="zero-inference", verify="always", prefill_chunk=32) as llm:
        refused = 0
        for _ in range(8):
            try:
                np.testing.assert_array_equal(llm.logits(TOKENS), right)
            except MoestroError as error:
                assert "layers." in str(error) or "head." in str(error) or "expert" in str(error)
                assert ".safetensors" in str(error)
                refused += 1
        assert 1 <= refused <= 2


def test_cancelled_streams_leave_the_next_answer_right(stored: Callable[[str, str], Path]) -> None:
    params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    prompt = [5, 6, 7, 8]
    with load(stored("llama", "q4"), stream="superpipeline:3,2", prefill_chunk=2) as llm:
        right = llm.generate([prompt], params)[0].token_ids
        for stop_after in (1, 2, 5):
            chunks = llm.stream(prompt, params)
            for _ in range(stop_after):
                next(chunks)
            chunks.close()
            assert llm.generate([prompt], params)[0].token_ids == right


class Interrupting:
    """The decoder's runtime, but that Ctrl-C comes at the n-th call, before or after it did its work."""

    def __init__(self, runtime: Any, at: int, before: bool) -> None:
        self._runtime, self._left, self._before = runtime, at, before

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._runtime, name)
        if name not in ("begin_step", "hold_unit", "release_unit", "end_step"):
            return call

        def counted(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0 and self._before:
                raise KeyboardInterrupt
            result = call(*arguments)
            if self._left == 0:
                raise KeyboardInterrupt
            return result

        return counted


@pytest.mark.parametrize("before", (True, False))
@pytest.mark.parametrize("model", ("llama", "qwen3_moe"))
def test_cancelled_at_every_await_point_the_next_answer_is_right(
    model: str, before: bool, stored: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
    settings = {"stream": "se-moe:2", "prefill_chunk": 4, **({"expert_slots": 3} if model == "qwen3_moe" else {})}
    with load(stored(model, "q8"), **settings) as llm:
        right = llm.generate([TOKENS[:9].tolist()], params)[0].token_ids
        decoder, runtime = llm._open().model.decoder, llm._open().model.runtime
        interrupted = 0
        for at in range(1, 60):
            monkeypatch.setattr(decoder, "_runtime", Interrupting(runtime, at, before))
            try:
                assert llm.generate([TOKENS[:9].tolist()], params)[0].token_ids == right
            except KeyboardInterrupt:
                interrupted += 1
            monkeypatch.setattr(decoder, "_runtime", runtime)
            assert llm.generate([TOKENS[:9].tolist()], params)[0].token_ids == right, f"after call {at}"
            runtime.check_integrity()
        assert interrupted > 30


def test_cancelled_while_experts_are_read_the_next_answer_is_right(
    stored: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
    with load(stored("qwen3_moe", "q8"), stream="tpi-llm", expert_slots=2, prefill_chunk=4) as llm:
        right = llm.generate([TOKENS[:9].tolist()], params)[0].token_ids
        for at in range(1, 16):
            left = at

            def stopped(self: DecoderLayer, work: Any, release: Callable[[], None] = lambda: None) -> None:
                nonlocal left
                assert isinstance(self.feed_forward, _core.MoeLayer)
                self.feed_forward.submit(work)
                release()
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
                self.feed_forward.wait(work)

            monkeypatch.setattr(DecoderLayer, "feed", stopped)
            with pytest.raises(KeyboardInterrupt):
                llm.generate([TOKENS[:9].tolist()], params)
            monkeypatch.undo()
            assert llm.generate([TOKENS[:9].tolist()], params)[0].token_ids == right
