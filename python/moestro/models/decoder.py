"""The decoder: a batch of tokens in, logits out. One loop for every family; what differs is in the ModelSpec."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moestro import _core
from moestro._core import F32, U8, KvPool, Runtime
from moestro.errors import InternalError, NumericError, UsageError
from moestro.layers.attention import Attention, Places
from moestro.layers.embedding import Embedding
from moestro.layers.head import Head
from moestro.layers.mlp import Mlp, MlpWeights
from moestro.layers.moe import Moe, RouterWeights
from moestro.layers.norm import RmsNorm
from moestro.layers.work import Work, WorkArrays, WorkShape
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
        compute = runtime.compute
        self.spec = spec
        self.kv_pool = kv_pool
        self.max_rows = max_rows
        self.max_logit_rows = max_logit_rows
        self._runtime = runtime
        self._compute = compute
        self._embedding = Embedding(weights.embedding)
        self._rotary = Rotary(spec.rope, spec.head_dim)
        self._layers = tuple(
            _Layer(runtime, kv_pool, spec, index, layer, layer_weights)
            for index, (layer, layer_weights) in enumerate(zip(spec.layers, weights.layers, strict=True))
        )
        self._final_norm = RmsNorm(compute, weights.final_norm, spec.rms_norm_eps)
        self._head = Head(compute, weights.head)
        self._work = WorkArrays(work_shape(spec), max_rows)
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
            self._runtime.begin_step(batch.rows, batch.tentative)
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

    def _run(self, batch: StepBatch, segments: Sequence[Segment]) -> F32:
        work = self._work.take(batch.rows)
        blocks = block_places(segments, batch.positions, _core.KV_BLOCK)
        cos, sin = self._rotary(batch.positions, segments)
        places = Places(batch.positions, cos, sin, blocks.tables, blocks.table_begin, blocks.blocks)
        self._embedding(batch.token_ids, work.x)
        for layer in self._layers:
            layer(work, places)
        return self._logits(work, batch)

    def _logits(self, work: Work, batch: StepBatch) -> F32:
        rows = np.asarray(batch.logit_rows, dtype=np.int64)
        if rows.size == 0:
            return np.empty((0, self._head.vocab_size), dtype=np.float32)
        chosen = work.normed[: len(rows)]
        np.take(work.x, rows, axis=0, out=chosen)
        self._final_norm(chosen, chosen)
        logits = self._head(chosen)
        if not np.isfinite(logits).all():
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


class _Layer:
    """x += attention(norm(x)); x += mlp(norm(x)), with everything constant bound once."""

    def __init__(
        self, runtime: Runtime, kv: KvPool, model: ModelSpec, index: int, spec: LayerSpec, weights: ResidentLayer
    ) -> None:
        compute, eps = runtime.compute, model.rms_norm_eps
        self._compute = compute
        self._input_norm = RmsNorm(compute, weights.input_norm, eps)
        self._attention = Attention(
            compute,
            kv,
            index,
            weights.attention,
            eps=eps,
            scale=model.head_dim**-0.5,
            window=spec.sliding_window or 0,
        )
        self._mlp_norm = RmsNorm(compute, weights.post_attention_norm, eps)
        self._mlp = _feed_forward(runtime, index, spec.mlp, weights)

    def __call__(self, work: Work, places: Places) -> None:
        self._input_norm(work.x, work.normed)
        self._attention(work, places)
        _core.add(self._compute, work.x, work.branch)
        self._mlp_norm(work.x, work.normed)
        self._mlp(work)
        _core.add(self._compute, work.x, work.branch)


def _feed_forward(runtime: Runtime, index: int, spec: DenseSpec | MoeSpec, weights: ResidentLayer) -> Mlp | Moe:
    if isinstance(spec, DenseSpec) and isinstance(weights.mlp, MlpWeights):
        return Mlp(runtime.compute, weights.mlp)
    if isinstance(spec, MoeSpec) and isinstance(weights.mlp, RouterWeights):
        return Moe(
            runtime,
            runtime.compute,
            index,
            weights.mlp,
            top_k=spec.num_experts_per_tok,
            normalise=spec.norm_topk_prob,
        )
    raise InternalError(f"layer {index}: {type(spec).__name__} was given {type(weights.mlp).__name__}")


def work_shape(spec: ModelSpec) -> WorkShape:
    """What the work arrays of a model depend on."""
    experts = [layer.mlp.num_experts for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    return WorkShape(spec.hidden_size, spec.num_heads, spec.num_kv_heads, spec.head_dim, max(experts, default=0))
