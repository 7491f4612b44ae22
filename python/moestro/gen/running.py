"""A sequence on its way through the model: a prompt whose answers have not begun, or one answer being written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moestro.gen.answer import Answer
from moestro.gen.outputs import StreamChunk
from moestro.gen.request import Request
from moestro.kv.blocks import KvSequence

# Takes a sequence over when it is done: (sequence, its tokens, prompt length).
Keep = Callable[[KvSequence, list[int], int], None]


class Running:
    """Owns its KvSequence until `release`. `answers` holds all n until the prompt is read, one afterwards."""

    def __init__(self, number: int, request: Request, answers: list[Answer], kv: KvSequence, keep: Keep | None) -> None:
        self.number = number  # of the request in its run
        self.request = request
        self.answers = answers
        self.kv = kv
        self.reused = kv.length  # prompt tokens an earlier turn has computed
        self._tokens = list(request.prompt_ids)
        self._keep = keep
        self._released = False

    @property
    def pending(self) -> int:
        """Tokens the model has not seen."""
        return len(self._tokens) - self.kv.length

    @property
    def reading_prompt(self) -> bool:
        return self.kv.length < len(self.request.prompt_ids)

    def next_tokens(self, rows: int) -> list[int]:
        begin = self.kv.length
        return self._tokens[begin : begin + rows]

    def accept(self, logits: NDArray[np.float32]) -> tuple[list[StreamChunk], list[Running]]:
        """logits [vocab] of the last token -> what each answer said, and the forks that go on beside this sequence.

        At the end of the prompt every answer draws from the same logits; those that go on get a fork of the KV each.
        No answers are left once all have finished.
        """
        chunks = [answer.accept(logits) for answer in self.answers]
        alive = [answer for answer in self.answers if not answer.finished]
        forks = [self._fork(answer) for answer in alive[1:]]
        self.answers = alive[:1]
        self._tokens += [answer.output.token_ids[-1] for answer in self.answers]
        return chunks, forks

    def release(self) -> None:
        """Gives the KV back, or hands it to whoever keeps it. May be called again."""
        keep, self._keep = self._keep, None
        if keep is not None:
            keep(self.kv, self._tokens, len(self.request.prompt_ids))
        elif not self._released:
            self.kv.close()
        self._released = True

    def _fork(self, answer: Answer) -> Running:
        fork = Running(self.number, self.request, [answer], self.kv.fork(), None)
        fork._tokens = [*self._tokens, answer.output.token_ids[-1]]
        return fork
