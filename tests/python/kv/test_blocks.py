"""KvSequence against a naive model: a list of the tokens that each sequence should hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from moestro import _core
from moestro.errors import BudgetError, InternalError, UsageError
from moestro.kv.blocks import BLOCK, KvSequence

EMPTY = -1


class MemoryPool:
    """Blocks whose content can be read back; refuses use of a block that nobody holds."""

    def __init__(self, blocks: int) -> None:
        self.content = np.full((blocks, BLOCK), EMPTY, dtype=np.int64)
        self.counts = [0] * blocks
        self.free = list(range(blocks))[::-1]

    def allocate(self) -> int:
        if not self.free:
            raise BudgetError("no block is left")
        block = self.free.pop()
        self.content[block] = EMPTY
        self.counts[block] = 1
        return block

    def share(self, block: int) -> None:
        assert self.counts[block] > 0
        self.counts[block] += 1

    def release(self, block: int) -> None:
        assert self.counts[block] > 0
        self.counts[block] -= 1
        if self.counts[block] == 0:
            self.free.append(block)

    def references(self, block: int) -> int:
        return self.counts[block]

    def copy(self, source: int, destination: int) -> None:
        self.content[destination] = self.content[source]


def write(pool: MemoryPool, sequence: KvSequence, position: int, token: int) -> None:
    pool.content[sequence.block_table[position // BLOCK], position % BLOCK] = token


def read(pool: MemoryPool, sequence: KvSequence) -> list[int]:
    flat = pool.content[sequence.block_table].reshape(-1)
    return flat[: sequence.length].tolist()


def extended(pool: MemoryPool, count: int) -> KvSequence:
    sequence = KvSequence(pool)
    sequence.append(count)
    for position in range(count):
        write(pool, sequence, position, position)
    sequence.commit(count)
    return sequence


COUNTS = st.one_of(st.integers(1, 5), st.integers(60, 70), st.integers(120, 200))


class Sequences(RuleBasedStateMachine):
    """Random appends, commits, truncations, forks and closes of up to six sequences over a pool that runs dry."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = MemoryPool(blocks=12)
        self.next_token = 0
        self.live: list[tuple[KvSequence, list[int], list[int]]] = []  # sequence, committed tokens, tentative tokens

    def pick(self, which: int) -> tuple[KvSequence, list[int], list[int]]:
        return self.live[which % len(self.live)]

    @precondition(lambda self: len(self.live) < 6)
    @rule()
    def new(self) -> None:
        self.live.append((KvSequence(self.pool), [], []))

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 5), count=COUNTS)
    def append(self, which: int, count: int) -> None:
        sequence, committed, tentative = self.pick(which)
        needed, free = sequence.blocks_needed(count), len(self.pool.free)
        table = sequence.block_table.tolist()
        if needed > free:
            with pytest.raises(BudgetError):
                sequence.append(count)
            assert sequence.block_table.tolist() == table
            assert len(self.pool.free) == free
            return
        first = sequence.append(count)
        assert len(self.pool.free) == free - needed
        assert first == len(committed) + len(tentative)
        for offset in range(count):
            write(self.pool, sequence, first + offset, self.next_token)
            tentative.append(self.next_token)
            self.next_token += 1

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 5), share=st.floats(0, 1))
    def commit(self, which: int, share: float) -> None:
        sequence, committed, tentative = self.pick(which)
        count = round(share * len(tentative))
        sequence.commit(count)
        committed.extend(tentative[:count])
        tentative.clear()

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 5), share=st.floats(0, 1))
    def truncate(self, which: int, share: float) -> None:
        sequence, committed, tentative = self.pick(which)
        length = round(share * len(committed))
        sequence.truncate(length)
        del committed[length:]
        tentative.clear()

    @precondition(lambda self: self.live and len(self.live) < 6)
    @rule(which=st.integers(0, 5))
    def fork(self, which: int) -> None:
        sequence, committed, tentative = self.pick(which)
        if tentative:
            with pytest.raises(UsageError, match="tentative"):
                sequence.fork()
            return
        free = len(self.pool.free)
        self.live.append((sequence.fork(), list(committed), []))
        assert len(self.pool.free) == free

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 5))
    def close(self, which: int) -> None:
        sequence, _, _ = self.live.pop(which % len(self.live))
        sequence.close()
        sequence.close()
        with pytest.raises(UsageError, match="closed"):
            sequence.append(1)

    @invariant()
    def contents_and_references_agree(self) -> None:
        held = np.zeros(len(self.pool.counts), dtype=int)
        for sequence, committed, tentative in self.live:
            sequence.check_integrity()
            assert (sequence.length, sequence.tentative) == (len(committed), len(tentative))
            assert read(self.pool, sequence) == committed
            held[sequence.block_table] += 1
        assert held.tolist() == self.pool.counts

    def teardown(self) -> None:
        for sequence, _, _ in self.live:
            sequence.close()
        assert len(self.pool.free) == len(self.pool.counts)


Sequences.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSequences = Sequences.TestCase


def test_blocks_are_those_of_the_core() -> None:
    assert BLOCK == _core.KV_BLOCK


def test_fork_copies_a_partly_filled_block_only_when_written() -> None:
    pool = MemoryPool(blocks=4)
    first = extended(pool, BLOCK + 3)
    second = first.fork()
    assert len(pool.free) == 2
    second.append(1)
    write(pool, second, BLOCK + 3, 1000)
    second.commit(1)
    assert second.block_table[0] == first.block_table[0]
    assert second.block_table[1] != first.block_table[1]
    first.append(1)  # alone with its block again: no copy
    assert len(pool.free) == 1
    write(pool, first, BLOCK + 3, 2000)
    first.commit(1)
    assert read(pool, second)[-1] == 1000
    assert read(pool, first)[-1] == 2000


def test_full_shared_blocks_are_never_copied() -> None:
    pool = MemoryPool(blocks=4)
    first = extended(pool, 2 * BLOCK)
    second = first.fork()
    assert second.blocks_needed(1) == 1
    second.append(1)
    assert second.block_table[:2].tolist() == first.block_table.tolist()


def test_wrong_arguments_are_named() -> None:
    sequence = extended(MemoryPool(blocks=2), 10)
    with pytest.raises(UsageError, match="at least one position"):
        sequence.append(0)
    with pytest.raises(UsageError, match="1 of 0 tentative"):
        sequence.commit(1)
    with pytest.raises(UsageError, match="length 11"):
        sequence.truncate(11)
    assert sequence.length == 10


def test_check_integrity_sees_a_block_given_away() -> None:
    pool = MemoryPool(blocks=2)
    sequence = extended(pool, 10)
    pool.release(int(sequence.block_table[0]))
    with pytest.raises(InternalError, match="references"):
        sequence.check_integrity()
