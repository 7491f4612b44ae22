"""The step loop over a model without weights: what is said depends on the request alone; all is given back."""

import dataclasses
import itertools

import numpy as np
import pytest
from gen.fakes import ROPE, FakeDecoder, FakePool, FakeRuntime, Letters
from hypothesis import given, settings
from hypothesis import strategies as st

from moestro.config import SamplingParams
from moestro.errors import BudgetError, StorageError, UsageError
from moestro.gen.engine import Engine
from moestro.gen.request import Limits, make_request
from moestro.kv.blocks import BLOCK

VOCAB = 50


class World:
    def __init__(self, *, capacity=1000, max_rows=16, max_model_len=4096, rope=ROPE, logit_rows=1000):
        self.pool, self.runtime = FakePool(capacity), FakeRuntime()
        self.decoder = FakeDecoder(self.pool, self.runtime, vocab=VOCAB, max_rows=max_rows, logit_rows=logit_rows)
        self.limits = Limits(VOCAB, max_model_len, capacity * BLOCK)
        self.engine = Engine(self.decoder, self.pool, self.runtime, rope, Letters())

    def request(self, prompt, eos=(), **params):
        return make_request(None, tuple(prompt), SamplingParams(**params), frozenset(eos), self.limits)

    def greedy(self, prompt, count):
        """What the model says, computed without the engine."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(np.argmax(self.decoder.logits_after(tokens))))
        return tokens[len(prompt) :]


def said(outputs):
    return [[answer.token_ids for answer in output.outputs] for output in outputs]


def prompt_of(length, seed=0):
    return np.random.default_rng((length, seed)).integers(0, VOCAB, length).tolist()


@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("max_rows", [1, 7, 16, 300])
def test_greedy_answers_are_the_models(length, max_rows):
    world = World(max_rows=max_rows)
    [output] = world.engine.run([world.request(prompt_of(length), temperature=0, max_tokens=20)])
    assert output.token_ids == world.greedy(prompt_of(length), 20)
    assert output.text == Letters().decode(output.token_ids)
    assert (output.finish_reason, output.outputs[0].stop_reason) == ("length", None)
    assert world.pool.blocks_in_use == 0


requests_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.integers(1, 150),
            "n": st.integers(1, 3),
            "max_tokens": st.integers(1, 40),
            "seed": st.integers(0, 3),
            "top_k": st.sampled_from([0, 5]),
            "repetition_penalty": st.sampled_from([1.0, 1.5]),
        }
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(requests_strategy, st.sampled_from([1, 3, 16, 64]), st.sampled_from([15, 1000]), st.sampled_from([1, 2, 1000]))
def test_neighbours_chunks_and_memory_do_not_change_an_answer(kinds, max_rows, capacity, logit_rows):
    def run(kinds, **world):
        world = World(**world)
        requests = [
            world.request(prompt_of(kind["prompt"], seed), eos=[3], **{k: v for k, v in kind.items() if k != "prompt"})
            for seed, kind in kinds
        ]
        outputs = world.engine.run(requests)
        assert world.pool.blocks_in_use == 0
        return said(outputs)

    numbered = list(enumerate(kinds))
    together = run(numbered, max_rows=max_rows, capacity=capacity, logit_rows=logit_rows)
    alone = [run([one])[0] for one in numbered]
    assert together == alone


def test_steps_are_full_and_decodes_ride_with_prompts():
    world = World(max_rows=8)
    world.engine.run([world.request(prompt_of(n), temperature=0, max_tokens=4) for n in (3, 30)])
    rows = [sum(rows for rows, _ in batch) for batch in world.decoder.batches]
    assert max(rows) == 8
    assert any(1 in [r for r, _ in batch] and len(batch) == 2 for batch in world.decoder.batches)


def test_n_answers_share_the_prompt_and_differ():
    world = World(max_rows=64)
    [output] = world.engine.run([world.request(prompt_of(100), n=4, seed=1, max_tokens=30, top_k=20)])
    assert [answer.index for answer in output.outputs] == [0, 1, 2, 3]
    assert len({tuple(answer.token_ids) for answer in output.outputs}) == 4
    prompt_rows = sum(rows for batch in world.decoder.batches for rows, _ in batch) - 4 * 29
    assert prompt_rows == 100


def test_more_answers_than_rows_take_turns():
    world = World(max_rows=16, logit_rows=2)
    [output] = world.engine.run([world.request(prompt_of(5), n=5, seed=1, max_tokens=6)])
    assert all(len(answer.token_ids) == 6 for answer in output.outputs)
    lengths = [sorted(length for _, length in batch) for batch in world.decoder.batches[1:]]
    assert all(later[0] >= earlier[0] for earlier, later in itertools.pairwise(lengths))  # nobody waits


def test_eos_and_stop_tokens_end_an_answer():
    world = World()
    prompt = prompt_of(20)
    expected = world.greedy(prompt, 12)
    stop = expected[5]
    first = expected.index(stop)
    [by_eos] = world.engine.run([world.request(prompt, eos=[stop], temperature=0, max_tokens=12)])
    assert by_eos.token_ids == expected[: first + 1]
    assert by_eos.text == Letters().decode(expected[:first])
    assert (by_eos.finish_reason, by_eos.outputs[0].stop_reason) == ("stop", None)
    [by_id] = world.engine.run([world.request(prompt, stop_token_ids=[stop], temperature=0, max_tokens=12)])
    assert (by_id.token_ids, by_id.outputs[0].stop_reason) == (by_eos.token_ids, stop)
    [ignored] = world.engine.run([world.request(prompt, eos=[stop], ignore_eos=True, temperature=0, max_tokens=12)])
    assert ignored.token_ids == expected


def test_a_stop_string_over_several_tokens_is_cut_out():
    world = World()
    prompt = prompt_of(20)
    expected = world.greedy(prompt, 12)
    text = Letters().decode(expected)
    stop = text[4:7]
    chunks = [
        event.chunk for event in world.engine.stream([world.request(prompt, temperature=0, max_tokens=12, stop=stop)])
    ]
    assert "".join(chunk.text for chunk in chunks) == text[: text.index(stop)]
    assert [token for chunk in chunks for token in chunk.token_ids] == expected[: text.index(stop) + 3]
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == ("stop", stop)
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])


def test_logprobs_come_with_every_token():
    world = World()
    prompt = prompt_of(9)
    [output] = world.engine.run([world.request(prompt, temperature=0, max_tokens=5, logprobs=2)])
    assert output.logprobs is not None
    tokens = list(prompt)
    for token, entry in zip(output.token_ids, output.logprobs, strict=True):
        logits = world.decoder.logits_after(tokens).astype(np.float64)
        assert entry[token].logprob == pytest.approx(logits[token] - np.log(np.exp(logits).sum()))
        assert entry[token].rank == 1
        assert entry[token].decoded_token == Letters().piece(token)
        assert len(entry) == 2
        tokens.append(token)


def test_closing_a_stream_gives_everything_back():
    world = World()
    stream = world.engine.stream([world.request(prompt_of(100), max_tokens=50, seed=0), world.request(prompt_of(9))])
    next(stream)
    assert world.pool.blocks_in_use > 0
    with pytest.raises(UsageError, match="busy"):
        world.engine.run([world.request([1])])
    stream.close()
    assert world.pool.blocks_in_use == 0
    assert world.engine.stats is not None
    assert world.engine.stats.finish_reasons == {"cancelled": 2}
    assert world.engine.run([world.request([1], temperature=0)])[0].token_ids == world.greedy([1], 16)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), StorageError("disk is gone")])
@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_failed_step_leaves_the_engine_usable(failure, step):
    world = World(max_rows=4)
    world.decoder.fail_at, world.decoder.failure = step, failure
    with pytest.raises(type(failure)):
        world.engine.run([world.request(prompt_of(10), n=2, seed=0), world.request(prompt_of(5))])
    assert world.pool.blocks_in_use == 0
    assert world.engine.run([world.request([1], temperature=0)])[0].token_ids == world.greedy([1], 16)


def test_a_prompt_whose_kv_cannot_fit_is_refused_before_anything_runs():
    world = World(capacity=3)
    fits = world.request(prompt_of(BLOCK), max_tokens=2 * BLOCK + 1)
    too_long = world.request(prompt_of(BLOCK), max_tokens=2 * BLOCK + 2)
    assert world.engine.run([fits])[0].finish_reason == "length"
    world.decoder.batches.clear()
    with pytest.raises(BudgetError, match=r"needs 4 KV blocks of 1.00 KiB = 4.00 KiB.* 1.00 KiB are missing"):
        world.engine.run([fits, too_long])
    assert not world.decoder.batches


def test_without_max_tokens_an_answer_ends_where_the_memory_does():
    world = World(capacity=3)
    [output] = world.engine.run([world.request(prompt_of(100), max_tokens=None, temperature=0)])
    assert len(output.token_ids) == 3 * BLOCK - 100 + 1
    assert output.finish_reason == "length"


def test_lengths_are_checked():
    world = World(max_model_len=100)
    assert len(world.engine.run([world.request(prompt_of(98))])[0].token_ids) == 2
    for prompt, words in (((), "at least one token"), (prompt_of(100), "max_model_len is 100"), ([50], "vocabulary")):
        with pytest.raises(UsageError, match=words):
            world.request(prompt)


class Chat:
    """A conversation: each turn's prompt is everything said so far and something new."""

    def __init__(self, world):
        self.world, self.history = world, []

    def turn(self, new, *, keep=True, **params):
        self.history += new
        self.world.decoder.batches.clear()
        [output] = self.world.engine.run([self.world.request(self.history, **params)], keep=keep)
        self.history += output.token_ids
        return output.token_ids

    @property
    def rows(self):
        return sum(rows for batch in self.world.decoder.batches for rows, _ in batch)


def test_a_chat_reads_only_what_is_new():
    chat = Chat(World(max_rows=64))
    for length in (100, 7, 1, 64):
        expected = chat.world.greedy([*chat.history, *prompt_of(length)], 10)
        known = len(chat.history)
        assert chat.turn(prompt_of(length), temperature=0, max_tokens=10) == expected
        assert chat.rows == length + 10 - 1 + (1 if known else 0)  # the last answer's last token was never read
        assert chat.world.engine.stats.reused_tokens == max(0, known - 1)
    assert chat.world.pool.blocks_in_use == -(-(len(chat.history) - 1) // BLOCK)


def test_a_chat_that_changes_its_past_is_read_again_from_there():
    world = World(max_rows=64)
    chat = Chat(world)
    chat.turn(prompt_of(100), temperature=0, max_tokens=10)
    chat.history[50] = (chat.history[50] + 1) % VOCAB
    expected = world.greedy([*chat.history, 5], 10)
    assert chat.turn([5], temperature=0, max_tokens=10) == expected
    assert world.engine.stats.reused_tokens == 50


def test_the_same_prompt_again_reads_one_token():
    world = World()
    first = world.engine.run([world.request(prompt_of(30), temperature=0)], keep=True)
    again = world.engine.run([world.request(prompt_of(30), temperature=0)], keep=True)
    assert said(first) == said(again)
    assert world.engine.stats.reused_tokens == 29


@pytest.mark.parametrize("how", ["close", "interrupt"])
def test_a_cancelled_turn_keeps_what_was_read(how):
    world = World(max_rows=64)
    if how == "close":
        stream = world.engine.stream([world.request(prompt_of(100), temperature=0)], keep=True)
        next(stream), next(stream)
        stream.close()
    else:
        world.decoder.fail_at, world.decoder.failure = 3, KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            world.engine.run([world.request(prompt_of(100), temperature=0)], keep=True)
    chat = Chat(world)
    expected = world.greedy(prompt_of(100), 16)
    assert chat.turn(prompt_of(100), temperature=0) == expected
    assert world.engine.stats.reused_tokens == 99


def test_other_runs_leave_the_chat_alone_until_they_need_its_memory():
    world = World(capacity=4)
    world.engine.run([world.request(prompt_of(100), temperature=0)], keep=True)  # keeps two blocks
    world.engine.run([world.request(prompt_of(60), temperature=0, max_tokens=2)])
    assert world.pool.blocks_in_use == 2
    world.engine.run([world.request(prompt_of(190), temperature=0, max_tokens=2)])
    assert world.pool.blocks_in_use == 0
    assert world.engine.run([world.request(prompt_of(100), temperature=0)], keep=True)[0].token_ids == world.greedy(
        prompt_of(100), 16
    )


def test_length_dependent_rotations_are_reused_only_below_the_limit():
    rope = dataclasses.replace(ROPE, type="dynamic", factor=2.0, max_position_embeddings=64)
    chat = Chat(World(rope=rope))
    chat.turn(prompt_of(30), temperature=0, max_tokens=5)
    chat.turn(prompt_of(10), temperature=0, max_tokens=5)
    assert chat.world.engine.stats.reused_tokens == 34  # 45 tokens: below the limit
    chat.turn(prompt_of(40), temperature=0, max_tokens=5)
    assert chat.world.engine.stats.reused_tokens == 0
    del chat.history[40:]
    chat.turn(prompt_of(1), temperature=0, max_tokens=5)
    assert chat.world.engine.stats.reused_tokens == 0  # what is kept was rotated for a longer prompt
    chat.turn(prompt_of(1), temperature=0, max_tokens=5)
    assert chat.world.engine.stats.reused_tokens == 45


@pytest.mark.parametrize("count", [1, 16, 17, 130])
def test_logits_of_every_row(count):
    world = World(logit_rows=10)
    tokens = prompt_of(count)
    logits = world.engine.logits(tokens, VOCAB)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, [world.decoder.logits_after(tokens[: i + 1]) for i in range(count)])
    assert world.pool.blocks_in_use == 0


def test_logits_that_cannot_fit_are_refused():
    world = World(capacity=2)
    with pytest.raises(BudgetError, match=r"need 3 KV blocks.* 1.00 KiB are missing"):
        world.engine.logits(prompt_of(129), VOCAB)


def test_statistics_are_of_one_run():
    world = World(max_rows=16)
    for _ in range(2):
        done, total = [], []
        world.engine.run(
            [world.request(prompt_of(40), temperature=0, max_tokens=5)],
            progress=lambda now, all_of_it, done=done, total=total: (done.append(now), total.append(all_of_it)),
        )
        assert (done, total) == ([16, 32, 40], [40, 40, 40])
        stats = world.engine.stats
        assert stats is not None
        assert (stats.prompt_tokens, stats.generated_tokens, stats.steps) == (40, 5, 7)
        assert (stats.hits, stats.misses, stats.reads) == (7, 14, 49)
        assert stats.finish_reasons == {"length": 1}
        assert stats.hit_rate == pytest.approx(7 / (7 + 14 + 21))
        assert stats.ttft_s is not None
        assert stats.ttft_s > 0
        assert stats.prefill_tokens_per_s == pytest.approx(40 / stats.prefill_s)
        assert stats.decode_tokens_per_s == pytest.approx(4 / stats.decode_s)
        assert stats.peak_bytes_by_entry == {"kv": 4096}
        assert set(stats.lanes_s) == {
            *("compute", "stall", "arrival", "ssd"),
            *("stream stall", "stream arrival", "stream ssd", "link", "device"),
        }


def test_closing_the_engine_ends_an_open_stream():
    world = World()
    world.engine.run([world.request(prompt_of(100), temperature=0)], keep=True)
    stream = world.engine.stream([world.request(prompt_of(100), max_tokens=50, seed=0)])
    next(stream)
    world.engine.close()
    assert world.pool.blocks_in_use == 0
    assert list(stream) == []
    assert world.engine.stats is not None
    assert world.engine.stats.finish_reasons == {"cancelled": 1}


def test_a_stream_refuses_what_cannot_fit_when_it_is_asked_for():
    world = World(capacity=1)
    with pytest.raises(BudgetError, match="KV blocks"):
        world.engine.stream([world.request(prompt_of(65))])
