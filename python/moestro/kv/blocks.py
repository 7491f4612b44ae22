"""One sequence's keys and values: which blocks of 64 positions hold them, and how far they may be trusted.

    0 ............ length ............ end
    | committed    | tentative         |
    [ block 0 ][ block 1 ][ block 2 .. ]     ceil(end / 64) blocks, each with one reference held here

A step appends tentative positions, writes their keys and values, and then commits the accepted ones or drops them.
Blocks are shared between forks by reference; a shared block that is only partly filled is copied before it is written.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moestro.errors import InternalError, UsageError

BLOCK = 64  # positions in a block, as docs/numerics.md defines it


class BlockPool(Protocol):
    """Blocks with reference counts (`moestro._core.KvPool`); `allocate` raises BudgetError when none can be had."""

    def allocate(self) -> int: ...
    def share(self, block: int) -> None: ...
    def release(self, block: int) -> None: ...
    def references(self, block: int) -> int: ...
    def copy(self, source: int, destination: int) -> None: ...


class KvSequence:
    """The positions of one sequence. Not thread-safe: one step loop at a time. Close it to give its blocks back."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._blocks: list[int] = []
        self._length = 0
        self._end = 0
        self._closed = False
        self._table: NDArray[np.int32] | None = None

    @property
    def length(self) -> int:
        """Committed positions."""
        return self._length

    @property
    def tentative(self) -> int:
        """Positions appended but neither committed nor dropped."""
        return self._end - self._length

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def block_table(self) -> NDArray[np.int32]:
        """Block ids, I32 [ceil(end / 64)]: entry i holds positions 64 i .. 64 i + 63. Read only."""
        if self._table is None:
            self._table = np.array(self._blocks, dtype=np.int32)
            self._table.flags.writeable = False
        return self._table

    def blocks_needed(self, count: int) -> int:
        """Blocks that `append(count)` would allocate now."""
        return _blocks_for(self._end + count) - len(self._blocks) + int(self._tail_is_shared())

    def append(self, count: int) -> int:
        """Adds `count` tentative positions and returns the first. All or nothing: on BudgetError nothing changed."""
        self._require_open("append")
        if count < 1:
            raise UsageError(f"append: expected at least one position, got {count}")
        copy_tail = self._tail_is_shared()
        fresh = self._allocate(self.blocks_needed(count))
        if copy_tail:
            self._replace_tail(fresh.pop())
        self._blocks.extend(fresh)
        self._table = None if fresh or copy_tail else self._table
        first, self._end = self._end, self._end + count
        return first

    def commit(self, count: int) -> None:
        """Keeps the first `count` tentative positions and drops the rest; 0 drops all."""
        self._require_open("commit")
        if not 0 <= count <= self.tentative:
            raise UsageError(f"commit: {count} of {self.tentative} tentative positions")
        self._cut(self._length + count)

    def truncate(self, length: int) -> None:
        """Forgets every position from `length` on, tentative ones included. 0 <= length <= self.length."""
        self._require_open("truncate")
        if not 0 <= length <= self._length:
            raise UsageError(f"truncate: length {length} is not within the {self._length} committed positions")
        self._cut(length)

    def fork(self) -> KvSequence:
        """A second sequence with the same committed positions; both may go on independently. Copies no block now."""
        self._require_open("fork")
        if self.tentative:
            raise UsageError(f"fork: commit or drop the {self.tentative} tentative positions first")
        other = KvSequence(self._pool)
        for block in self._blocks:
            self._pool.share(block)
            other._blocks.append(block)
        other._length = other._end = self._length
        return other

    def close(self) -> None:
        """Gives all blocks back. May be called again."""
        if not self._closed:
            self._cut(0)
            self._closed = True

    def check_integrity(self) -> None:
        """Raises InternalError when blocks and positions contradict each other."""
        shared = [self._pool.references(block) for block in self._blocks]
        if not 0 <= self._length <= self._end:
            raise InternalError(f"KV sequence: {self._length} committed of {self._end} positions")
        if len(self._blocks) != _blocks_for(self._end):
            raise InternalError(f"KV sequence: {len(self._blocks)} blocks for {self._end} positions")
        if len(set(self._blocks)) != len(self._blocks) or not all(count >= 1 for count in shared):
            raise InternalError(f"KV sequence: blocks {self._blocks} with references {shared}")
        if self.tentative and any(count != 1 for count in shared[self._length // BLOCK :]):
            raise InternalError(f"KV sequence: tentative positions lie in shared blocks, references {shared}")

    def _tail_is_shared(self) -> bool:
        return self._end % BLOCK != 0 and self._pool.references(self._blocks[-1]) > 1

    def _allocate(self, count: int) -> list[int]:
        fresh: list[int] = []
        try:
            for _ in range(count):
                fresh.append(self._pool.allocate())
        except BaseException:
            for block in fresh:
                self._pool.release(block)
            raise
        return fresh

    def _replace_tail(self, block: int) -> None:
        shared = self._blocks[-1]
        self._pool.copy(shared, block)
        self._blocks[-1] = block
        self._pool.release(shared)

    def _cut(self, length: int) -> None:
        self._length = self._end = length
        keep = _blocks_for(length)
        if keep < len(self._blocks):
            self._table = None
            while len(self._blocks) > keep:
                self._pool.release(self._blocks.pop())

    def _require_open(self, what: str) -> None:
        if self._closed:
            raise UsageError(f"{what}: this sequence was closed")


def _blocks_for(positions: int) -> int:
    return -(-positions // BLOCK)
