"""llama.cpp, on the GGUF that we wrote, says what moestro says on the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_gguf import SHAPE
from tiny_models import prompt

from moestro import LLM, SamplingParams

llama_cpp = pytest.importorskip("llama_cpp", reason='CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python')

LENGTH, GENERATED = 96, 24


@pytest.fixture(scope="module")
def llama(gguf_file: Path) -> Any:
    model = llama_cpp.Llama(str(gguf_file), n_ctx=256, n_batch=256, logits_all=True, n_threads=2, verbose=False)
    yield model
    model.close()


def logits(llama: Any, ids: list[int]) -> NDArray[np.float64]:
    llama.reset()
    llama.eval(ids)
    return llama.scores[: len(ids)].astype(np.float64)


def test_logits_are_close(checkpoint: Path, llama: Any) -> None:
    ids = prompt(LENGTH, vocab=SHAPE.vocab).tolist()
    with LLM(checkpoint, kv_dtype="f16", say=None) as llm:
        want = llm.logits(ids).astype(np.float64)
    errors = ((logits(llama, ids) - want) ** 2).sum(axis=1) / (want**2).sum(axis=1)
    # llama.cpp rounds activations to bf16; a row whose router nearly ties may take another expert.
    assert np.median(errors) < 1e-3


def test_greedy_tokens_are_the_same_where_the_choice_is_clear(checkpoint: Path, llama: Any) -> None:
    ids = prompt(LENGTH, vocab=SHAPE.vocab, seed=1).tolist()
    with LLM(checkpoint, kv_dtype="f16", say=None) as llm:
        params = SamplingParams(max_tokens=GENERATED, temperature=0.0, ignore_eos=True)
        answer = list(llm.generate([ids], params)[0].outputs[0].token_ids)
        ours = llm.logits([*ids, *answer])[LENGTH - 1 : -1].astype(np.float64)
    peer = logits(llama, [*ids, *answer])[LENGTH - 1 : -1]
    best = np.sort(ours, axis=1)
    spread = np.sqrt(np.median(((peer - ours) ** 2).mean(axis=1)))
    clear = best[:, -1] - best[:, -2] > 4 * spread
    assert clear.sum() >= GENERATED // 4
    np.testing.assert_array_equal(peer.argmax(axis=1)[clear], np.array(answer)[clear])
