"""One run: requests in, chunks out, step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from moestro.gen.answer import Answer
from moestro.gen.batching import Span, blocks_of, may_start, plan_step
from moestro.gen.detokenize import TextDecoder
from moestro.gen.outputs import RequestOutput, StreamChunk
from moestro.gen.parts import MeasuredPool, MeasuredRuntime, StepDecoder
from moestro.gen.prefix import KeptPrefix
from moestro.gen.request import Request
from moestro.gen.running import Running
from moestro.gen.stats import RunMeter, RunStats
from moestro.kv.blocks import KvSequence
from moestro.models.step import StepBatch

# Called with (prompt tokens read, prompt tokens of the run).
PrefillProgress = Callable[[int, int], None]


class Event(NamedTuple):
    number: int  # which request
    chunk: StreamChunk


class Machine(NamedTuple):
    """What runs share; borrowed."""

    decoder: StepDecoder
    pool: MeasuredPool
    runtime: MeasuredRuntime
    text: TextDecoder | None
    kept: KeptPrefix


class Run:
    """Owns the KV of its sequences; `end` gives it back, and must be called. Not thread-safe."""

    def __init__(
        self, machine: Machine, requests: Sequence[Request], *, keep: bool, progress: PrefillProgress | None
    ) -> None:
        """keep: the first request continues the kept KV and leaves its own there. Nothing is taken before `step`."""
        self._machine = machine
        self._requests = tuple(requests)
        self._keep = keep
        self._progress = progress
        self._answers = [
            [Answer(request, index, machine.text) for index in range(request.params.n)] for request in self._requests
        ]
        self._waiting = deque(range(len(self._requests)))
        self._running: list[Running] = []
        self._meter = RunMeter(machine.runtime)
        self._stats: RunStats | None = None
        self.computing = False  # within `step`, chunks not yet handed out

    @property
    def unfinished(self) -> bool:
        return bool(self._waiting or self._running)

    def step(self) -> Iterator[Event]:
        """Admits what fits, runs one step, and yields what it said."""
        self.computing = True
        try:
            events = self._compute()
        finally:
            self.computing = False
        yield from events

    def outputs(self) -> list[RequestOutput]:
        return [
            RequestOutput(request.prompt, list(request.prompt_ids), [answer.output for answer in answers])
            for request, answers in zip(self._requests, self._answers, strict=True)
        ]

    def end(self) -> RunStats:
        """Cancels what is unfinished and gives every sequence back. May be called again."""
        if self._stats is not None:
            return self._stats
        self._waiting.clear()
        for answers in self._answers:
            for answer in answers:
                answer.cancel()
        while self._running:
            self._running.pop().release()
        outputs = [answer.output for answers in self._answers for answer in answers]
        self._stats = self._meter.finish(
            sum(len(output.token_ids) for output in outputs), [str(output.finish_reason) for output in outputs]
        )
        return self._stats

    def _compute(self) -> list[Event]:
        self._admit()
        self._meter.begin_step()
        pending = [sequence.pending for sequence in self._running]
        spans = plan_step(pending, self._machine.decoder.max_rows, self._machine.decoder.max_logit_rows)
        prompt_rows = sum(span.rows for span in spans if self._running[span.place].reading_prompt)
        events = self._forward(spans)
        self._meter.end_step(prompt_rows, len(events))
        if prompt_rows and self._progress:
            everything = sum(len(request.prompt_ids) for request in self._requests)
            self._progress(self._meter.prompt_rows, everything - self._meter.reused_tokens)
        return events

    def _admit(self) -> None:
        while self._waiting:
            request = self._requests[self._waiting[0]]
            decoder = self._machine.decoder
            most = min(decoder.max_rows, decoder.max_logit_rows)
            running = sum(len(sequence.answers) for sequence in self._running)
            if not may_start(request, running=running, max_answers=most, free_blocks=self._free_blocks()):
                return
            self._start(self._waiting.popleft())

    def _free_blocks(self) -> int:
        """Blocks that are neither promised to a running request nor kept for the chat."""
        pool, kept = self._machine.pool, self._machine.kept
        promised = {sequence.number: blocks_of(sequence.request) for sequence in self._running}
        return pool.blocks_in_use + pool.blocks_available - kept.blocks - sum(promised.values())

    def _start(self, number: int) -> None:
        request, kept, pool = self._requests[number], self._machine.kept, self._machine.pool
        keep = self._keep and number == 0
        if not keep and blocks_of(request) > self._free_blocks():
            kept.drop()  # a running request goes before a finished turn
        sequence = kept.take(request.prompt_ids, pool) if keep else KvSequence(pool)
        running = Running(number, request, list(self._answers[number]), sequence, kept.keep if keep else None)
        self._running.append(running)
        self._meter.prompt_tokens += len(request.prompt_ids)
        self._meter.reused_tokens += running.reused

    def _forward(self, spans: Sequence[Span]) -> list[Event]:
        batch, ends = self._batch(spans)
        logits = self._machine.decoder.forward(batch)
        events: list[Event] = []
        served = [self._running[place] for place in ends]
        for sequence, row in zip(served, logits, strict=True):
            chunks, forks = sequence.accept(row)
            self._running += forks
            events += [Event(sequence.number, chunk) for chunk in chunks]
        for sequence in served:
            if not sequence.answers:
                sequence.release()
        # Whoever had its turn goes behind the others, so that more answers than rows take turns.
        self._running = [sequence for sequence in self._running if sequence.answers]
        self._running.sort(key=served.__contains__)
        return events

    def _batch(self, spans: Sequence[Span]) -> tuple[StepBatch, list[int]]:
        """The step's batch, and the places of the sequences whose last token is in it, in the order of the logits."""
        tokens: list[int] = []
        positions: list[int] = []
        segments: list[tuple[KvSequence, int, int, int]] = []
        logit_rows: list[int] = []
        ends: list[int] = []
        for span in spans:
            sequence, begin = self._running[span.place], len(tokens)
            first = sequence.kv.length
            tokens += sequence.next_tokens(span.rows)
            positions += range(first, first + span.rows)
            segments.append((sequence.kv, begin, len(tokens), len(sequence.request.prompt_ids)))
            if span.rows == sequence.pending:
                logit_rows.append(len(tokens) - 1)
                ends.append(span.place)
        batch = StepBatch(np.array(tokens, np.int32), np.array(positions, np.int64), segments, logit_rows)
        return batch, ends
