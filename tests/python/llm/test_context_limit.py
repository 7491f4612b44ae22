"""Contexts at which a model's attention would become sparse are refused, by their length and the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from moestro import LLM, SamplingParams
from moestro.errors import UsageError

LIMIT = 256  # index_topk of the tiny configs
NAMES = ("deepseek_v32", "glm_moe_dsa")


def load(directory: Path, **settings: Any) -> LLM:
    return LLM(directory, **{"host_memory": "64MiB", "threads": 1, "kv_dtype": "f32", "say": None, **settings})


@pytest.mark.parametrize("name", NAMES)
def test_a_longer_request_is_refused_with_the_reason(name: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    words = rf"(?s){LIMIT}.*sparse attention.*index_topk"
    answer = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    with load(tiny_checkpoint(name)) as llm:
        assert llm.report().max_model_len == LIMIT
        with pytest.raises(UsageError, match=words):
            llm.generate([tiny_models.prompt(LIMIT + 1).tolist()], answer)
        with pytest.raises(UsageError, match=words):
            llm.logits(tiny_models.prompt(LIMIT + 1))
        assert llm.logits(tiny_models.prompt(LIMIT)).shape == (LIMIT, 131)
        ended = llm.generate([tiny_models.prompt(LIMIT - 4).tolist()], answer)[0]
        assert (len(ended.token_ids), ended.finish_reason) == (4, "length")


@pytest.mark.parametrize("name", NAMES)
def test_a_longer_context_cannot_be_asked_for(name: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match=rf"(?s)max_model_len.*{LIMIT + 1}.*{LIMIT}.*sparse attention"):
        load(tiny_checkpoint(name), max_model_len=LIMIT + 1)


def test_a_shorter_context_is_the_users_own(tiny_checkpoint: Callable[[str], Path]) -> None:
    with load(tiny_checkpoint("deepseek_v32"), max_model_len=100) as llm:
        with pytest.raises(UsageError, match="100") as caught:
            llm.generate([tiny_models.prompt(101).tolist()])
        assert "sparse attention" not in str(caught.value)
