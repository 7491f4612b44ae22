"""The scheduler's promises, over every small case hypothesis finds."""

from hypothesis import given
from hypothesis import strategies as st

from moestro.config import SamplingParams
from moestro.gen.batching import blocks_of, may_start, plan_step
from moestro.gen.request import Request
from moestro.kv.blocks import BLOCK, KvSequence

pending_lists = st.lists(st.integers(1, 30), max_size=12)


@given(pending_lists, st.integers(1, 16))
def test_a_step_is_full_fair_and_within_its_rows(pending, max_rows):
    spans = plan_step(pending, max_rows, max_rows)
    taken = {span.place: span.rows for span in spans}
    assert len(taken) == len(spans)
    assert sum(taken.values()) == min(max_rows, sum(pending))  # never idle, never too many
    assert all(1 <= rows <= pending[place] for place, rows in taken.items())
    decodes = [place for place, count in enumerate(pending) if count == 1]
    prompts = [place for place, count in enumerate(pending) if count > 1]
    assert [span.place for span in spans] == [*decodes, *prompts][: len(spans)]  # decodes first, then in order
    assert all(taken[span.place] == pending[span.place] for span in spans[:-1])  # only the last is cut


@given(pending_lists, st.integers(1, 16), st.integers(1, 16))
def test_only_so_many_sequences_want_logits(pending, max_rows, max_ends):
    spans = plan_step(pending, max_rows, max_ends)
    ends = [span.place for span in spans if span.rows == pending[span.place]]
    assert len(ends) <= max_ends
    assert sum(span.rows for span in spans) <= max_rows
    assert bool(spans) == bool(pending)
    freely = plan_step(pending, max_rows, max_rows)
    if len([span for span in freely if span.rows == pending[span.place]]) <= max_ends:
        assert spans == freely
    for span in spans:  # who waits has no claim before who runs
        waiting = [place for place in range(span.place) if place not in {one.place for one in spans}]
        assert all(pending[place] > 1 or pending[span.place] > 1 for place in waiting) or len(ends) == max_ends


def request(prompt, new, n=1):
    return Request(None, tuple(range(prompt)), SamplingParams(n=n, max_tokens=new), frozenset(), new)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5))
def test_promised_blocks_are_what_the_longest_answers_take(prompt, new, n):
    pool = CountingPool()
    first = KvSequence(pool)
    first.append(prompt)
    first.commit(prompt)
    answers = [first, *(first.fork() for _ in range(n - 1))]
    for answer in answers:
        if new > 1:
            answer.append(new - 1)
            answer.commit(new - 1)
    assert len(pool.counts) <= blocks_of(request(prompt, new, n))
    if new > 1 or n == 1 or prompt % BLOCK == 0:
        assert len(pool.counts) == blocks_of(request(prompt, new, n))


class CountingPool:
    def __init__(self):
        self.counts, self.made = {}, 0

    def allocate(self):
        self.made += 1
        self.counts[self.made] = 1
        return self.made

    def share(self, block):
        self.counts[block] += 1

    def release(self, block):
        self.counts[block] -= 1
        if not self.counts[block]:
            del self.counts[block]

    def references(self, block):
        return self.counts[block]

    def copy(self, source, destination):
        pass


def test_a_request_starts_when_rows_and_promised_memory_allow():
    one = request(100, 28)  # two blocks
    assert blocks_of(one) == 2
    assert may_start(one, running=3, max_answers=4, free_blocks=2)
    assert not may_start(one, running=4, max_answers=4, free_blocks=2)
    assert not may_start(one, running=3, max_answers=4, free_blocks=1)
    assert may_start(one, running=0, max_answers=1, free_blocks=0)
    assert not may_start(request(100, 28, n=2), running=3, max_answers=4, free_blocks=100)
