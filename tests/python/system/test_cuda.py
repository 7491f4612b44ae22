"""A model on a CUDA device gives the bits that it gives on the processor, wherever trunk, KV and experts are.

Runs on a GPU where there is one. Without, `make test` runs it on kernels that the processor executes, by
tests/cpp/cuda_shim.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from moestro import LLM, SamplingParams, core
from moestro.errors import BudgetError, UnsupportedError, UsageError
from moestro.pack import pack_checkpoint

pytestmark = pytest.mark.cuda

TOKENS = tiny_models.prompt(13)
PARAMS = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
FAMILIES = tiny_models.by_family()
DEMO = "moestro:demo"


@pytest.fixture(scope="module", autouse=True)
def device() -> None:
    if missing := core.cuda_info()["missing"]:
        pytest.fail(f"these tests need a CUDA device: {missing}")


def load(model: Path | str, **settings: Any) -> LLM:
    return LLM(model, **{"host_memory": "256MiB", "threads": 1, "kv_dtype": "f32", "say": None, **settings})


def on_device(model: Path | str, **settings: Any) -> LLM:
    return load(model, **{"device": "cuda", "device_memory": "64MiB", **settings})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_bits(family: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    source = tiny_checkpoint(FAMILIES[family])
    with load(source) as llm:
        plain, experts = llm.logits(TOKENS), llm.report().experts
    placements: list[dict[str, Any]] = [{"trunk": "device", "schedule": "on_demand", "prefill_chunk": 9}]
    if experts:
        placements.append({"trunk": "cpu", "schedule": "hybrid", "device_copies": "exclusive"})
    for placement in placements:
        with on_device(source, **placement) as llm:
            np.testing.assert_array_equal(llm.logits(TOKENS).view(np.uint32), plain.view(np.uint32), str(placement))


@pytest.mark.parametrize(
    ("format", "kv_dtype"), [("q8", "f16"), ("q8", "f32"), ("q4", "bf16"), ("q4", "f16"), ("bf16", "bf16")]
)
def test_packed_formats_and_kv_types(
    format: str, kv_dtype: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    store = pack_checkpoint(tiny_checkpoint("qwen3_moe"), tmp_path / "store", format, threads=2)
    with load(store, kv_dtype=kv_dtype) as llm:
        plain = llm.logits(TOKENS)
    with on_device(store, kv_dtype=kv_dtype, trunk="device") as llm:
        np.testing.assert_array_equal(llm.logits(TOKENS).view(np.uint32), plain.view(np.uint32))


def test_generation_is_the_same_and_budgets_hold() -> None:
    with load(DEMO) as llm:
        plain = [answer.token_ids for answer in llm.generate(["def main():\n", "The list"], PARAMS)]
    for settings in ({"trunk": "device"}, {"trunk": "cpu"}, {"trunk": "device", "prefetch": "next_gate"}):
        with on_device(DEMO, device_memory="24MiB", **settings) as llm:
            assert [answer.token_ids for answer in llm.generate(["def main():\n", "The list"], PARAMS)] == plain
            stats = llm.stats()
            assert stats is not None and stats.device is not None
            assert stats.device.peak_bytes <= 24 << 20
            said = str(llm.report())
            assert "as asked" in said and "CUDA's own" in said


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BudgetError, match="cannot hold the trunk"):
        on_device(DEMO, device_memory="1MiB", trunk="device")
    with on_device(DEMO, device_memory="1MiB") as llm:  # the trunk stays where it fits, which is said
        assert "not used: trunk on the device" in str(llm.report())
        assert llm.logits(TOKENS[:3]).shape[0] == 3
    with pytest.raises(BudgetError, match="are missing"):
        on_device(DEMO, device_memory="100TiB")
    with pytest.raises(UnsupportedError, match="the driver shows"):
        on_device(DEMO, device="cuda:17")
    with pytest.raises(UsageError, match="lets it pass through memory"):
        on_device(DEMO, trunk="device", stream="interleave")
    with on_device(DEMO, stream="interleave") as llm:
        assert "it is streamed, as asked" in str(llm.report())
        assert llm.logits(TOKENS[:3]).shape[0] == 3
    with pytest.raises(UsageError, match="one CPU model"):
        on_device(DEMO, math="fast")


def test_auto_takes_no_more_than_the_model_can_use() -> None:
    free = core.cuda_info()["devices"][0]["free"]
    with on_device(DEMO, device_memory="auto") as llm:
        facts = llm.report().device_facts
        assert facts is not None and facts["memory"] < free // 4 and facts["trunk"]
        assert "all that this model can use" in str(llm.report())
        assert llm.report().device_slots == llm.report().experts
