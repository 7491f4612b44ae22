"""Everything a caller can get wrong in a step is refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from moestro.errors import UsageError
from moestro.models.step import Segment, StepBatch, accepted_counts, block_places, checked_segments


class Positions:
    """A sequence of `length` committed positions in blocks numbered from `first_block`."""

    def __init__(self, length: int, tentative: int = 0, first_block: int = 0) -> None:
        self.length = length
        self.tentative = tentative
        self._first_block = first_block

    @property
    def block_table(self) -> Any:
        blocks = -(-(self.length + self.tentative) // 64)
        return np.arange(self._first_block, self._first_block + blocks, dtype=np.int32)

    def append(self, count: int) -> int:
        self.tentative += count
        return self.length

    def commit(self, count: int) -> None:
        self.length, self.tentative = self.length + count, 0


def batch(segments: Sequence[Any], positions: Sequence[int], **changes: Any) -> StepBatch:
    rows = len(positions)
    fields = {
        "token_ids": np.zeros(rows, dtype=np.int32),
        "positions": np.array(positions, dtype=np.int64),
        "segments": segments,
        "logit_rows": [rows - 1],
    }
    return StepBatch(**{**fields, **changes})


def check(step: StepBatch) -> tuple[Segment, ...]:
    return checked_segments(step, vocab_size=10, max_rows=8, max_logit_rows=2)


def test_a_ragged_batch_is_accepted() -> None:
    first, second = Positions(5), Positions(0)
    segments = check(batch([(first, 0, 1, 5), Segment(second, 1, 4, 3)], [5, 0, 1, 2]))
    assert [segment.rows for segment in segments] == [1, 3]


@pytest.mark.parametrize(
    ("segments", "positions", "changes", "message"),
    [
        ([(Positions(0), 0, 9, 9)], range(9), {}, "9 rows; expected 1 to 8"),
        ([], [], {}, "0 rows"),
        ([(Positions(0), 0, 2, 2)], [0, 1], {"token_ids": np.zeros(2, np.int64)}, "token_ids: expected int32"),
        ([(Positions(0), 0, 2, 2)], [0, 1], {"token_ids": np.array([3, 10], np.int32)}, "token id 10 in row 1"),
        ([(Positions(0), 0, 2, 2)], [0, 1], {"token_ids": np.array([-1, 1], np.int32)}, "token id -1 in row 0"),
        ([(Positions(0), 0, 2, 2)], [0, 1], {"logit_rows": [2]}, "logit row 2"),
        ([(Positions(0), 0, 3, 3)], [0, 1, 2], {"logit_rows": [0, 1, 2]}, "logits of 3 rows; .* room for 2"),
        ([(Positions(0), 0, 2, 2)], [0, 1], {"logit_rows": [-1]}, "logit row -1"),
        ([(Positions(0), 0, 2, 2)], [1, 2], {}, "do not continue at 0"),
        ([(Positions(0), 0, 1, 2)], [0, 1], {}, "cover 1 of 2 rows"),
        ([(Positions(0), 1, 2, 2)], [0, 0], {}, "next row is 0"),
        ([(Positions(0), 0, 0, 2)], [0], {}, "next row is 0"),
        ([(Positions(0, tentative=1), 0, 1, 2)], [0], {}, "unfinished step"),
        ([(Positions(0), 0, 1, 1)], [0], {"tentative": np.zeros(2, np.uint8)}, "tentative: expected uint8"),
    ],
)
def test_wrong_steps_are_named(segments: Any, positions: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(batch(segments, list(positions), **changes))


def test_a_sequence_may_not_appear_twice() -> None:
    sequence = Positions(0)
    with pytest.raises(UsageError, match="two segments"):
        check(batch([(sequence, 0, 1, 1), (sequence, 1, 2, 1)], [0, 0]))


def test_accepted_rows_come_first_in_every_segment() -> None:
    segments = [Segment(Positions(0), 0, 3, 3), Segment(Positions(0), 3, 5, 2)]
    assert accepted_counts(segments, np.array([1, 1, 0, 0, 0], np.uint8)) == [2, 0]
    assert accepted_counts(segments, np.ones(5, np.uint8)) == [3, 2]
    with pytest.raises(UsageError, match=r"rows 0\.\.3: a rejected row comes before"):
        accepted_counts(segments, np.array([1, 0, 1, 1, 1], np.uint8))
    with pytest.raises(UsageError, match="expected uint8"):
        accepted_counts(segments, np.ones(4, np.uint8))


def test_block_places_point_into_the_joined_tables() -> None:
    long, short = Positions(130, first_block=20), Positions(63, first_block=7)
    segments = [Segment(long, 0, 1, 1), Segment(short, 1, 3, 1)]
    for segment in segments:
        segment.sequence.append(segment.rows)
    places = block_places(segments, np.array([130, 63, 64]), 64)
    assert places.tables.tolist() == [20, 21, 22, 7, 8]
    assert places.table_begin.tolist() == [0, 3, 3]
    assert places.blocks.tolist() == [22, 7, 8]
    assert (places.tables.dtype, places.table_begin.dtype, places.blocks.dtype) == (np.int32, np.int64, np.int32)
