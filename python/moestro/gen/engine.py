"""The engine: runs one after the other on one decoder, and what stays between them."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from moestro.errors import BudgetError, UsageError
from moestro.gen.batching import blocks_for, blocks_of
from moestro.gen.detokenize import TextDecoder
from moestro.gen.outputs import RequestOutput
from moestro.gen.parts import MeasuredPool, MeasuredRuntime, StepDecoder
from moestro.gen.prefix import KeptPrefix
from moestro.gen.request import Request, kv_refusal
from moestro.gen.run import Event, Machine, PrefillProgress, Run
from moestro.gen.stats import RunMeter, RunStats
from moestro.kv.blocks import KvSequence
from moestro.models.spec import RopeSpec
from moestro.models.step import StepBatch
from moestro.units import format_bytes


class Engine:
    """Borrows decoder, pool and runtime. One run at a time: another one meanwhile, from any thread, is a UsageError."""

    def __init__(
        self,
        decoder: StepDecoder,
        pool: MeasuredPool,
        runtime: MeasuredRuntime,
        rope: RopeSpec,
        text: TextDecoder | None = None,
    ) -> None:
        self.stats: RunStats | None = None  # of the last run
        self._machine = Machine(decoder, pool, runtime, text, KeptPrefix(rope))
        self._busy = threading.Lock()
        self._open: Run | None = None

    def run(
        self, requests: Sequence[Request], *, keep: bool = False, progress: PrefillProgress | None = None
    ) -> list[RequestOutput]:
        """Runs to the end. An exception, KeyboardInterrupt included, leaves the engine usable.

        Raises BudgetError, before anything is computed, for a request whose KV cannot fit.
        """
        self._check_room(requests)
        with self._alone():
            run = Run(self._machine, requests, keep=keep, progress=progress)
            for _ in self._events(run):
                pass
            return run.outputs()

    def stream(
        self, requests: Sequence[Request], *, keep: bool = False, progress: PrefillProgress | None = None
    ) -> Generator[Event, None, None]:
        """Chunks as they come. Closing the iterator cancels at once. Nothing runs before the first `next`.

        Raises BudgetError here, not later, for a request whose KV cannot fit.
        """
        self._check_room(requests)
        return self._stream(requests, keep, progress)

    def logits(self, token_ids: Sequence[int], vocab_size: int) -> NDArray[np.float32]:
        """float32 [len(token_ids), vocab]: row i follows tokens 0..i. Raises BudgetError when the KV cannot fit."""
        with self._alone():
            self._make_room(len(token_ids))
            result = np.empty((len(token_ids), vocab_size), np.float32)
            meter = RunMeter(self._machine.runtime)
            meter.prompt_tokens = len(token_ids)
            sequence = KvSequence(self._machine.pool)
            try:
                self._fill(result, token_ids, sequence, meter)
            finally:
                sequence.close()
                self.stats = meter.finish(0, [])
            return result

    def close(self) -> None:
        """Ends an open stream and drops the kept chat turn. Raises UsageError while another thread computes."""
        if self._open is not None and self._open.computing:
            raise UsageError("another thread is computing with this model: let it finish, then close")
        if self._open is not None:
            self.stats = self._open.end()
        self._machine.kept.drop()

    def _stream(
        self, requests: Sequence[Request], keep: bool, progress: PrefillProgress | None
    ) -> Generator[Event, None, None]:
        with self._alone():
            yield from self._events(Run(self._machine, requests, keep=keep, progress=progress))

    def _events(self, run: Run) -> Iterator[Event]:
        self._open = run
        try:
            while run.unfinished:
                yield from run.step()
        finally:
            self._open = None
            self.stats = run.end()

    def _check_room(self, requests: Sequence[Request]) -> None:
        pool = self._machine.pool
        capacity = pool.blocks_in_use + pool.blocks_available
        for request in requests:
            blocks = blocks_of(request)
            if blocks > capacity:
                raise BudgetError(kv_refusal(request, blocks, capacity, pool.block_bytes))

    def _fill(
        self, result: NDArray[np.float32], token_ids: Sequence[int], sequence: KvSequence, meter: RunMeter
    ) -> None:
        decoder = self._machine.decoder
        rows = min(decoder.max_rows, decoder.max_logit_rows)
        for begin in range(0, len(token_ids), rows):
            chunk = np.asarray(token_ids[begin : begin + rows], np.int32)
            segment = (sequence, 0, chunk.size, len(token_ids))
            batch = StepBatch(chunk, np.arange(begin, begin + chunk.size), [segment], range(chunk.size))
            meter.begin_step()
            result[begin : begin + chunk.size] = decoder.forward(batch)
            meter.end_step(chunk.size, 0)

    def _make_room(self, positions: int) -> None:
        pool, blocks = self._machine.pool, blocks_for(positions)
        if blocks > pool.blocks_available:
            self._machine.kept.drop()
        if blocks > pool.blocks_available:
            missing = (blocks - pool.blocks_available) * pool.block_bytes
            raise BudgetError(
                f"logits of {positions} tokens need {blocks} KV blocks of {format_bytes(pool.block_bytes)}, but the "
                f"memory budget leaves {pool.blocks_available}; {format_bytes(missing)} are missing: raise host_memory "
                "or pass fewer tokens"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise UsageError("this model is busy: finish or close the open stream before starting something else")
        try:
            yield
        finally:
            self._busy.release()
