"""The decoder: a batch of tokens in, logits out. One loop for every family; what differs is in the ModelSpec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from moestro import _core
from moestro._core import F32, U8, KvPool, Runtime, Workspace
from moestro.errors import InternalError, NumericError, UsageError
from moestro.layers.attention import Attention
from moestro.layers.embedding import Embedding
from moestro.layers.head import Head, StreamedHead
from moestro.layers.mlp import Mlp, MlpWeights
from moestro.layers.moe import Moe, RouterWeights
from moestro.models.resident import ResidentLayer, ResidentWeights
from moestro.models.rotary import Rotary
from moestro.models.spec import DenseSpec, LayerSpec, ModelSpec, MoeSpec
from moestro.models.step import Segment, StepBatch, accepted_counts, block_places, checked_segments


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
        self._rotary = Rotary(spec.rope, spec.head_dim)
        self._layers = tuple(
            _layer(runtime, kv_pool, spec, index, layer, layer_weights)
            for index, (layer, layer_weights) in enumerate(zip(spec.layers, weights.layers, strict=True))
        )
        self._head = make_head(runtime, weights, eps=spec.rms_norm_eps)
        self.workspace = make_workspace(spec, max_rows)  # its contents belong to the step under way
        self._open: tuple[Segment, ...] = ()  # segments of a step with tentative rows, until finish or abort

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
            self._runtime.begin_step(batch.rows, batch.tentative)
            return
        units = len(self._layers) + (self._head.units if len(batch.logit_rows) else 0)
        self._runtime.begin_step(batch.rows, batch.tentative, units)

    def _run(self, batch: StepBatch, segments: Sequence[Segment]) -> F32:
        work = self.workspace
        places = block_places(segments, batch.positions, _core.KV_BLOCK)
        frequencies = self._rotary.frequencies(batch.positions, segments)
        work.begin(batch.positions, places.tables, places.table_begin, places.blocks, frequencies, self._rotary.factor)
        self._embedding(batch.token_ids, work.x)
        if self._streamed:
            self._run_streamed(work)
        else:
            for layer in self._layers:
                layer.attention(work)
                layer.feed_forward(work)
        return self._logits(work, batch)

    def _run_streamed(self, work: Workspace) -> None:
        """As above; a layer's linears are in memory while it needs them. A failure is cleaned up by abort_step."""
        for unit, layer in enumerate(self._layers):
            self._runtime.hold_unit(unit)
            layer.attention(work)
            if layer.dense:
                layer.feed_forward(work)
                self._runtime.release_unit(unit)
            else:  # experts and their router are not of the unit: what comes next can be read meanwhile
                self._runtime.release_unit(unit)
                layer.feed_forward(work)

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


class _Layer(NamedTuple):
    """Two halves; each adds to the residual stream."""

    attention: Callable[[Workspace], None]
    feed_forward: Callable[[Workspace], None]
    dense: bool


def _layer(
    runtime: Runtime, kv: KvPool, model: ModelSpec, index: int, spec: LayerSpec, weights: ResidentLayer
) -> _Layer:
    attention = Attention(
        runtime.compute,
        kv,
        index,
        weights.input_norm,
        weights.attention,
        eps=model.rms_norm_eps,
        scale=model.head_dim**-0.5,
        window=spec.sliding_window or 0,
        rotary=spec.rotary,
    )
    feed_forward = _feed_forward(runtime, model.rms_norm_eps, index, spec.mlp, weights)
    return _Layer(attention, feed_forward, isinstance(spec.mlp, DenseSpec))


def _feed_forward(
    runtime: Runtime, eps: float, index: int, spec: DenseSpec | MoeSpec, weights: ResidentLayer
) -> Mlp | Moe:
    norm = weights.post_attention_norm
    if isinstance(spec, DenseSpec) and isinstance(weights.mlp, MlpWeights):
        return Mlp(runtime.compute, index, norm, weights.mlp, eps=eps)
    if isinstance(spec, MoeSpec) and isinstance(weights.mlp, RouterWeights):
        return Moe(
            runtime,
            index,
            norm,
            weights.mlp,
            eps=eps,
            top_k=spec.num_experts_per_tok,
            normalise=spec.norm_topk_prob,
        )
    raise InternalError(f"layer {index}: {type(spec).__name__} was given {type(weights.mlp).__name__}")


def make_head(runtime: Runtime, weights: ResidentWeights, *, eps: float) -> Head | StreamedHead:
    if weights.streamed:
        return StreamedHead(runtime, weights.final_norm, weights.head, eps=eps, first_unit=len(weights.layers))
    return Head(runtime.compute, weights.final_norm, weights.head, eps=eps)


def make_workspace(spec: ModelSpec, max_rows: int) -> Workspace:
    """What the steps of a model compute in. `work_bytes` of the memory plan counts it."""
    moe = [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    return Workspace(
        hidden=spec.hidden_size,
        heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        experts=max((mlp.num_experts for mlp in moe), default=0),
        top_k=max((mlp.num_experts_per_tok for mlp in moe), default=0),
        max_rows=max_rows,
    )
