"""Steps of the decoder: bits that do not depend on chunks and batches, tentative rows, and failures half-way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import prompt
from tiny_runtime import batch_of, greedy, logits_of, opened

from moestro.errors import NumericError, UsageError
from moestro.kv.blocks import KvSequence
from moestro.models.load import LoadedModel

Checkpoints = Callable[[str], Path]

NAMES = ("qwen3_moe-dense-layers-biases", "mixtral-window-tied", "llama-biases-dynamic")


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, tiny_checkpoint: Checkpoints) -> Iterator[LoadedModel]:
    with opened(tiny_checkpoint(request.param)) as model:
        yield model


@pytest.fixture
def moe(tiny_checkpoint: Checkpoints) -> Iterator[LoadedModel]:
    with opened(tiny_checkpoint("qwen3_moe")) as model:
        yield model


def test_chunks_do_not_change_a_bit(model: LoadedModel) -> None:
    ids = prompt(150)
    whole = logits_of(model, ids)
    for chunk in (1, 7, 64):
        np.testing.assert_array_equal(logits_of(model, ids, chunk=chunk), whole)


def test_neighbours_do_not_change_a_bit(model: LoadedModel) -> None:
    """Three prompts in ragged steps, two of them joining late, against each alone."""
    prompts = [prompt(70, seed=1), prompt(9, seed=2), prompt(33, seed=3)]
    alone = [logits_of(model, ids) for ids in prompts]
    sequences = [KvSequence(model.kv_pool) for _ in prompts]
    got: list[list[Any]] = [[], [], []]
    for plan in ({0: 40}, {0: 1, 1: 5}, {0: 29, 1: 1, 2: 20}, {1: 3, 2: 13}):
        parts = []
        for which, rows in plan.items():
            at = sequences[which].length
            parts.append((sequences[which], prompts[which][at : at + rows], len(prompts[which])))
        logits = model.decoder.forward(batch_of(parts))
        for which, rows in zip(plan, np.split(logits, np.cumsum(list(plan.values()))[:-1]), strict=True):
            got[which].append(rows)
    for rows, want in zip(got, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(rows), want)


def test_only_wanted_rows_come_back_in_the_wanted_order(moe: LoadedModel) -> None:
    ids = prompt(12)
    every = logits_of(moe, ids)
    sequence = KvSequence(moe.kv_pool)
    some = moe.decoder.forward(batch_of([(sequence, ids, 12)], logit_rows=[11, 0, 5]))
    np.testing.assert_array_equal(some, every[[11, 0, 5]])
    none = moe.decoder.forward(batch_of([(sequence, [1], 12)], logit_rows=[]))
    assert none.shape == (0, moe.spec.vocab_size)
    assert sequence.length == 13


def test_rejected_rows_leave_no_trace(moe: LoadedModel) -> None:
    ids = prompt(20)
    want = logits_of(moe, ids)
    sequence = KvSequence(moe.kv_pool)
    decoder = moe.decoder
    decoder.forward(batch_of([(sequence, ids[:10], 20)]))
    guesses = [*ids[10:13], 1, 2, 3]
    logits = decoder.forward(batch_of([(sequence, guesses, 20)], tentative=np.ones(6, np.uint8)))
    np.testing.assert_array_equal(logits[:3], want[10:13])
    assert (sequence.length, sequence.tentative) == (10, 6)
    with pytest.raises(UsageError, match="still open"):
        decoder.forward(batch_of([(KvSequence(moe.kv_pool), [1], 1)]))
    decoder.finish(np.array([1, 1, 1, 0, 0, 0], np.uint8))
    assert (sequence.length, sequence.tentative) == (13, 0)
    np.testing.assert_array_equal(decoder.forward(batch_of([(sequence, ids[13:], 20)])), want[13:])


def test_an_aborted_step_is_gone(moe: LoadedModel) -> None:
    ids = prompt(8)
    want = logits_of(moe, ids)
    sequence = KvSequence(moe.kv_pool)
    moe.decoder.forward(batch_of([(sequence, [5, 6, 7], 8)], tentative=np.ones(3, np.uint8)))
    moe.decoder.abort()
    moe.decoder.abort()
    assert (sequence.length, sequence.tentative) == (0, 0)
    with pytest.raises(UsageError, match="no step is open"):
        moe.decoder.finish(np.ones(3, np.uint8))
    np.testing.assert_array_equal(moe.decoder.forward(batch_of([(sequence, ids, 8)])), want)


def test_a_fork_continues_as_the_original_would(model: LoadedModel) -> None:
    ids = prompt(100)
    want = logits_of(model, ids)
    first = KvSequence(model.kv_pool)
    model.decoder.forward(batch_of([(first, ids[:70], 100)]))
    second = first.fork()
    strangers = prompt(30, seed=9)
    model.decoder.forward(batch_of([(second, strangers, 100)]))
    np.testing.assert_array_equal(model.decoder.forward(batch_of([(first, ids[70:], 100)])), want[70:])
    second.truncate(70)
    np.testing.assert_array_equal(model.decoder.forward(batch_of([(second, ids[70:], 100)])), want[70:])
    first.close()
    second.close()
    assert model.kv_pool.blocks_in_use == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("at_layer", [0, 2])
def test_an_exception_half_way_keeps_no_row(
    moe: LoadedModel, error: type[BaseException], at_layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt(90)
    want = logits_of(moe, ids)
    first, second = KvSequence(moe.kv_pool), KvSequence(moe.kv_pool)
    moe.decoder.forward(batch_of([(first, ids[:30], 90)]))
    with monkeypatch.context() as patch:
        layers = list(moe.decoder._layers)
        layers[at_layer] = layers[at_layer]._replace(feed_forward=_Failing(error))
        patch.setattr(moe.decoder, "_layers", layers)
        with pytest.raises(error):
            moe.decoder.forward(batch_of([(first, ids[30:], 90), (second, ids, 90)]))
    assert (first.length, first.tentative, second.length, second.tentative) == (30, 0, 0, 0)
    first.check_integrity()
    assert moe.kv_pool.blocks_in_use == 1
    np.testing.assert_array_equal(moe.decoder.forward(batch_of([(first, ids[30:], 90)])), want[30:])


def test_closing_twice_and_using_what_is_closed(tiny_checkpoint: Checkpoints) -> None:
    with opened(tiny_checkpoint("qwen3_moe")) as model:
        sequence = KvSequence(model.kv_pool)
        model.decoder.forward(batch_of([(sequence, [5, 6], 2)], tentative=np.ones(2, np.uint8)))
        model.decoder.close()
        assert sequence.tentative == 0
        sequence.close()
    model.close()
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model.decoder.forward(batch_of([(sequence, [5], 1)]))


def test_refused_steps_change_nothing(moe: LoadedModel) -> None:
    sequence = KvSequence(moe.kv_pool)
    with pytest.raises(UsageError, match="outside the vocabulary"):
        moe.decoder.forward(batch_of([(sequence, [131], 1)]))
    assert sequence.length == sequence.tentative == 0
    assert len(greedy(moe.decoder, [1, 2, 3], 3)) == 3


def test_logits_that_are_not_finite_are_an_error(moe: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = moe.decoder._head

    def head(*given: Any) -> Any:
        logits = real(*given)
        logits[1, 3] = np.inf
        return logits

    sequence = KvSequence(moe.kv_pool)
    with monkeypatch.context() as patch:
        patch.setattr(moe.decoder, "_head", head)
        with pytest.raises(NumericError, match=r"row 1 \(position 1\)"):
            moe.decoder.forward(batch_of([(sequence, [4, 5, 6], 3)]))
    assert sequence.length == 0


class _Failing:
    """In the place of a mixture."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def submit(self, work: Any) -> None:
        raise self._error
