"""What one step runs: a ragged batch of rows from one or many sequences, prefill and decode mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from moestro._core import I32, I64, U8
from moestro.errors import UsageError


class KvPositions(Protocol):
    """What a step needs of a sequence (`moestro.kv.blocks.KvSequence`)."""

    @property
    def length(self) -> int: ...
    @property
    def tentative(self) -> int: ...
    @property
    def block_table(self) -> NDArray[np.int32]: ...
    def append(self, count: int) -> int: ...
    def commit(self, count: int) -> None: ...


class Segment(NamedTuple):
    """Rows row_begin .. row_end - 1 of the batch continue `sequence`, in order.

    prompt_length: tokens of the request's prompt. Length-dependent rotary scalings use max(prompt_length, position +
    1), so that the result does not depend on how the prompt was cut into chunks.
    """

    sequence: KvPositions
    row_begin: int
    row_end: int
    prompt_length: int

    @property
    def rows(self) -> int:
        return self.row_end - self.row_begin


@dataclass(frozen=True)
class StepBatch:
    """One step. Segments cover all rows, in order; a sequence appears once.

    The decoder appends the rows to their sequences. A row's position must be the next one of its sequence.
    """

    token_ids: I32  # [rows]
    positions: I64  # [rows]
    segments: Sequence[tuple[KvPositions, int, int, int]]  # Segment or a plain tuple like it
    logit_rows: Sequence[int] | I64  # rows whose logits are wanted, in the order of the result; may be empty
    tentative: U8 | None = None  # [rows]: non-zero marks speculative rows; None: all rows are certain

    @property
    def rows(self) -> int:
        return len(self.token_ids)


def checked_segments(batch: StepBatch, vocab_size: int, max_rows: int, max_logit_rows: int) -> tuple[Segment, ...]:
    """The batch's segments, after checking everything a caller could get wrong. Raises UsageError naming it."""
    rows = batch.rows
    if not 1 <= rows <= max_rows:
        raise UsageError(f"step: {rows} rows; expected 1 to {max_rows}, as planned for a prefill chunk")
    _check_array("token_ids", batch.token_ids, np.int32, rows)
    _check_array("positions", batch.positions, np.int64, rows)
    if batch.tentative is not None:
        _check_array("tentative", batch.tentative, np.uint8, rows)
    if int(batch.token_ids.min()) < 0 or int(batch.token_ids.max()) >= vocab_size:
        row = int(np.flatnonzero((batch.token_ids < 0) | (batch.token_ids >= vocab_size))[0])
        token = int(batch.token_ids[row])
        raise UsageError(f"step: token id {token} in row {row} is outside the vocabulary of {vocab_size}")
    segments = tuple(Segment(*segment) for segment in batch.segments)
    _check_cover(segments, batch)
    if len(batch.logit_rows) > max_logit_rows:
        raise UsageError(f"step: logits of {len(batch.logit_rows)} rows; the memory plan has room for {max_logit_rows}")
    for row in batch.logit_rows:
        if not 0 <= row < rows:
            raise UsageError(f"step: logit row {row} of {rows} rows")
    return segments


def _check_array(name: str, values: NDArray[Any], dtype: type[np.generic], rows: int) -> None:
    if values.dtype != dtype or values.shape != (rows,):
        raise UsageError(f"step: {name}: expected {np.dtype(dtype)} [{rows}], got {values.dtype} {values.shape}")


def _check_cover(segments: tuple[Segment, ...], batch: StepBatch) -> None:
    at = 0
    for segment in segments:
        if segment.row_begin != at or segment.row_end <= at:
            raise UsageError(f"step: a segment has rows {segment.row_begin}..{segment.row_end}; the next row is {at}")
        at, sequence = segment.row_end, segment.sequence
        if sequence.tentative:
            raise UsageError("step: a sequence has tentative positions of an unfinished step")
        expected = np.arange(sequence.length, sequence.length + segment.rows)
        if not np.array_equal(batch.positions[segment.row_begin : segment.row_end], expected):
            raise UsageError(f"step: positions of rows {segment.row_begin}..{at} do not continue at {sequence.length}")
    if at != batch.rows:
        raise UsageError(f"step: segments cover {at} of {batch.rows} rows")
    if len({id(segment.sequence) for segment in segments}) != len(segments):
        raise UsageError("step: a sequence appears in two segments")


def accepted_counts(segments: Sequence[Segment], accepted: U8) -> list[int]:
    """Accepted rows per segment: within a segment they must come first. Raises UsageError otherwise."""
    _check_array("accepted", accepted, np.uint8, segments[-1].row_end if segments else 0)
    counts = []
    for segment in segments:
        flags = accepted[segment.row_begin : segment.row_end] != 0
        count = int(flags.sum())
        if not flags[:count].all():
            raise UsageError(
                f"accepted: rows {segment.row_begin}..{segment.row_end}: a rejected row comes before an accepted one"
            )
        counts.append(count)
    return counts


@dataclass(frozen=True)
class BlockPlaces:
    """The KV blocks of a batch in the form the core's attention reads."""

    tables: I32  # block tables of the segments, one after the other
    table_begin: I64  # [rows]: where the table of a row's sequence starts
    blocks: I32  # [rows]: the block that holds a row's position


def block_places(segments: Sequence[Segment], positions: I64, block: int) -> BlockPlaces:
    """To be called after the segments' rows were appended. block: positions in a block."""
    tables = [segment.sequence.block_table for segment in segments]
    if len(tables) == 1:
        return BlockPlaces(tables[0], np.zeros(len(positions), np.int64), tables[0][positions // block])
    begins = np.cumsum([0, *(len(table) for table in tables[:-1])])
    joined = np.concatenate(tables)
    table_begin = np.repeat(begins, [segment.rows for segment in segments]).astype(np.int64, copy=False)
    return BlockPlaces(joined, table_begin, joined[table_begin + positions // block])
