"""The decoder: a batch of tokens in, logits out. One loop for every family; what differs is in the ModelSpec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from moestro import _core
from moestro._core import F32, U8, KvPool, Runtime, Workspace
from moestro.errors import NumericError, UsageError
from moestro.layers.embedding import Embedding
from moestro.models.halves import AttentionHalf, look_ahead, make_attention, make_feed_forward, make_head
from moestro.models.resident import ResidentWeights
from moestro.models.rotary import Rotary, query_factors
from moestro.models.spec import ModelSpec, MoeSpec
from moestro.models.step import Segment, StepBatch, accepted_counts, block_places, checked_segments
from moestro.models.work_sizes import make_workspace, rotary_dims


class Decoder:
    """Runs steps. Borrows runtime and KV pool (close the decoder first); not thread-safe.

    The logits of a row are a function of the weights and of the row's own sequence up to it, to the bit: not of the
    rows beside it, the chunks before it, or where the experts were.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: ResidentWeights,
        runtime: Runtime,
        kv_pool: KvPool,
        *,
        max_rows: int,
        max_logit_rows: int,
    ) -> None:
        """max_rows: rows that one step may have; the work arrays are allocated for it here. max_logit_rows: how many
        of them may ask for logits. The memory plan has room for no more.
        """
        self.spec = spec
        self.kv_pool = kv_pool
        self.max_rows = max_rows
        self.max_logit_rows = max_logit_rows
        self._runtime = runtime
        self._streamed = weights.streamed
        self._embedding = Embedding(weights.embedding)
        self._embedding_multiplier = np.float32(spec.embedding_multiplier)
        self._rotary = [Rotary(rope, dims) for rope, dims in zip(spec.ropes, rotary_dims(spec), strict=True)]
        self._layers = [
            DecoderLayer(
                make_attention(runtime, kv_pool, spec, index, layer), make_feed_forward(runtime, spec, index, layer)
            )
            for index, layer in enumerate(weights.layers)
        ]
        look_ahead([layer.feed_forward for layer in self._layers if isinstance(layer.feed_forward, _core.MoeLayer)])
        self._head = make_head(runtime, spec, weights)
        self.workspace = make_workspace(spec, max_rows, runtime)  # its contents belong to the step under way
        self._open: tuple[Segment, ...] = ()  # segments of a step with tentative rows, until finish or abort

    def reserve(self, blocks: int) -> None:
        """On a device that computes the whole model: takes what its largest step needs there while there is room, with
        `blocks` entries of block tables. The plan has counted it.
        """
        self.workspace.reserve(self.max_logit_rows * self.spec.vocab_size, blocks)
        if moe := [layer.mlp for layer in self.spec.layers if isinstance(layer.mlp, MoeSpec)]:
            top_k = max(mlp.num_experts_per_tok for mlp in moe)
            self._runtime.reserve_rows(self.max_rows, top_k, self.spec.hidden_size)

    def forward(self, batch: StepBatch) -> F32:
        """Runs one step and returns logits [len(batch.logit_rows), vocab], a new array.

        The rows are appended to their sequences and, when none is tentative, committed. With tentative rows the step
        stays open until `finish` or `abort`. On any exception, KeyboardInterrupt included, no row is kept: every
        sequence is back at its committed length and the decoder is usable. Raises UsageError, BudgetError (KV does not
        fit), StorageError, IntegrityError, NumericError (naming what is not finite).
        """
        if self._open:
            raise UsageError("step: the last one has tentative rows and is still open; finish or abort it first")
        segments = checked_segments(batch, self.spec.vocab_size, self.max_rows, self.max_logit_rows)
        try:
            for segment in segments:
                segment.sequence.append(segment.rows)
            self._begin(batch)
            logits = self._run(batch, segments)
            if batch.tentative is None:
                self._end(segments, [segment.rows for segment in segments], None)
            else:
                self._open = segments
        except BaseException:
            self._drop(segments)
            raise
        return logits

    def finish(self, accepted: U8) -> None:
        """Ends an open step: keeps the accepted rows, drops the others.

        accepted [rows]: non-zero keeps a row; within a segment, accepted rows come first. Raises UsageError and leaves
        the step open when they do not.
        """
        segments = self._open
        if not segments:
            raise UsageError("finish: no step is open")
        counts = accepted_counts(segments, accepted)
        self._open = ()
        try:
            self._end(segments, counts, accepted)
        except BaseException:
            self._drop(segments)
            raise

    def abort(self) -> None:
        """Drops an open step and its rows; does nothing when there is none."""
        segments, self._open = self._open, ()
        if segments:
            self._drop(segments)

    def close(self) -> None:
        """Closes the embedding's file. May be called again."""
        self.abort()
        self._embedding.close()

    def _begin(self, batch: StepBatch) -> None:
        if not self._streamed:
            self._runtime.begin_step(batch.rows, batch.tentative, tokens=batch.token_ids)
            return
        units = len(self._layers) + (self._head.units if len(batch.logit_rows) else 0)
        self._runtime.begin_step(batch.rows, batch.tentative, units, batch.token_ids)

    def _run(self, batch: StepBatch, segments: Sequence[Segment]) -> F32:
        work = self.workspace
        places = block_places(segments, batch.positions, _core.KV_BLOCK)
        rotary = [(rotary.frequencies(batch.positions, segments), rotary.factor) for rotary in self._rotary]
        factors = query_factors(self.spec.query_temperature, batch.positions)
        work.begin(batch.positions, places.tables, places.table_begin, places.blocks, rotary, factors)
        self._embedding(batch.token_ids, work.x)
        if self._embedding_multiplier != 1:
            np.multiply(work.x, self._embedding_multiplier, out=work.x)
        work.put_x()
        if self._streamed:
            self._run_streamed(work)
        else:
            for layer in self._layers:
                layer.attend(work)
                layer.feed(work)
        return self._logits(work, batch)

    def _run_streamed(self, work: Workspace) -> None:
        """As above; a layer's linears are in memory while it needs them. A failure is cleaned up by abort_step."""
        for unit, layer in enumerate(self._layers):
            self._runtime.hold_unit(unit)
            layer.attend(work)
            layer.feed(work, partial(self._runtime.release_unit, unit))

    def _logits(self, work: Workspace, batch: StepBatch) -> F32:
        rows = np.asarray(batch.logit_rows, dtype=np.int64)
        logits = self._head(work, rows)
        if logits.size and not np.isfinite([logits.min(), logits.max()]).all():  # NaN comes through both
            row = int(rows[np.flatnonzero(~np.isfinite(logits).all(axis=1))[0]])
            raise NumericError(f"logits of row {row} (position {batch.positions[row]}) are not finite")
        return logits

    def _end(self, segments: Sequence[Segment], counts: Sequence[int], accepted: U8 | None) -> None:
        self._runtime.end_step(accepted)
        for segment, count in zip(segments, counts, strict=True):
            segment.sequence.commit(count)

    def _drop(self, segments: Sequence[Segment]) -> None:
        try:
            self._runtime.abort_step()
        finally:
            for segment in segments:
                segment.sequence.commit(0)


class DecoderLayer(NamedTuple):
    """Two halves; each adds to the residual stream."""

    attention: AttentionHalf
    feed_forward: _core.MlpLayer | _core.MoeLayer

    def attend(self, work: Workspace) -> None:
        """Keys and values of the step's rows are stored on the way."""
        self.attention.run(work)

    def feed(self, work: Workspace, release: Callable[[], None] = lambda: None) -> None:
        """release: called when the layer's trunk has been used for the last time in this step.

        Errors of an expert's load surface here, naming the expert and its file.
        """
        if isinstance(self.feed_forward, _core.MlpLayer):
            self.feed_forward.run(work)
            release()
        else:  # experts are not of the trunk: what comes next can be read meanwhile
            self.feed_forward.submit(work)
            release()
            self.feed_forward.wait(work)
