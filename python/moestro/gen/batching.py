"""Which rows run in a step and which requests may start: pure decisions over plain numbers.

Every sequence that runs has its whole KV promised at admission (blocks for its longest possible answer), so a running
answer never meets a full memory; the bytes themselves are taken block by block as it grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moestro.gen.request import Request
from moestro.kv.blocks import BLOCK


@dataclass(frozen=True)
class Span:
    """`rows` next tokens of the sequence at `place` of the list that was planned."""

    place: int
    rows: int


def plan_step(pending: Sequence[int], max_rows: int, max_ends: int) -> list[Span]:
    """pending[i] >= 1: tokens of sequence i that the model has not seen; the front of the list comes first.

    Sequences with one token (decodes, and prompts' last tokens) run before longer prompts; prompts share the rows that
    remain, first come first served. At most `max_rows` rows, and at most `max_ends` sequences reach their last token
    (each wants its logits); at least one row where anything is pending.
    """
    spans: list[Span] = []
    left, ends = max_rows, max_ends
    for place in sorted(range(len(pending)), key=lambda place: pending[place] > 1):
        rows = min(pending[place], left)
        if rows == pending[place] and ends == 0:
            rows -= 1
        if rows > 0:
            spans.append(Span(place, rows))
            left -= rows
            ends -= rows == pending[place]
    return spans


def blocks_for(positions: int) -> int:
    return -(-positions // BLOCK)


def blocks_of(request: Request) -> int:
    """KV blocks of all answers to a request at their longest: full blocks of the prompt are shared, the rest is not."""
    shared = len(request.prompt_ids) // BLOCK if request.params.n > 1 else 0
    return shared + request.params.n * (blocks_for(request.positions) - shared)


def may_start(request: Request, *, running: int, max_answers: int, free_blocks: int) -> bool:
    """Whether a waiting request may join `running` answers. Alone it always may: its KV was checked before.

    As many answers as a step can serve, so that every answer moves in every step; KV that is promised stays promised.
    """
    if running == 0:
        return True
    return running + request.params.n <= max_answers and blocks_of(request) <= free_blocks
