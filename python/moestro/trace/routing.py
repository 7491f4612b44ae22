"""Routing traces: which experts tokens used and what the routers thought of them, in a file.

An .npz file. L layers with experts, T tokens, S steps, k experts per token, K = min(2 k, experts) best ones kept, D
distances ahead:

    chosen         [L, T, k]     integers: the experts of each token, ascending
    tokens         [T] int32     token ids
    accepted       [T] uint8     0: computed, then rejected
    best_ids       [L, T, K]     the experts that the router liked best, best first
    best_scores    [L, T, K]     and their softmax, float32
    ahead_ids      [L, D, T, K]  what this layer's router made of the input of the one 1, 2, ... D before it: first the
    ahead_scores                 k it would choose; -1 where there is no such layer
    offsets        [L, D, E]     float32: the mean of the router's logits less the ones so foreseen
    layers         [L] int32     the model's numbers of them, and `experts` [L] int32 and `record_bytes` [L] int64 there
    step_rows      [S] int32     tokens of each step
    step_bytes     [S] int64     the expert cache's limit in it
    step_costs     [S, 7] int64  when it began and ended, and of that time computing experts, waiting for their reads,
                                 taking in what arrived, and the disk reading, in ns; bytes read
    model          text, like `policy` and `prefetch`: what the run was asked for; `slots`: its expert_slots, 0 for none

`chosen` alone is a routing trace too: enough for frequencies, not for a replay. Integers are stored as small as they
fit.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moestro._core import F32, I32, RoutingRecord
from moestro.config import EngineConfig
from moestro.errors import CheckpointError, StorageError

_RECORD = (
    "layers", "experts", "step_rows", "step_bytes", "tokens", "accepted", "chosen", "best_ids", "best_scores",
    "ahead_ids", "ahead_scores",
)  # fmt: skip
_TYPES = {"step_bytes": np.int64, "accepted": np.uint8, "best_scores": np.float32, "ahead_scores": np.float32}
_SMALL = ("chosen", "best_ids", "ahead_ids")


@dataclass(frozen=True)
class RoutingTrace:
    """The arrays above; all but `chosen` may be missing."""

    chosen: I32  # [L, T, k]
    arrays: Mapping[str, NDArray[Any]]  # the others, by name
    model: str = ""

    @property
    def tokens(self) -> I32 | None:
        return self.arrays.get("tokens")

    @property
    def offsets(self) -> F32 | None:
        return self.arrays.get("offsets")

    @property
    def complete(self) -> bool:
        """Whether it can be replayed."""
        return all(name in self.arrays for name in (*_RECORD[:6], *_RECORD[7:9], "record_bytes"))

    def array(self, name: str) -> NDArray[Any]:
        """Raises CheckpointError where the trace lacks it."""
        if name not in self.arrays:
            raise CheckpointError(f"this routing trace lacks {name}: record one with `moestro trace record`")
        return self.arrays[name]

    def record(self) -> RoutingRecord:
        """What `core.replay` takes. Raises CheckpointError for a trace that is not complete, UsageError for one that
        contradicts itself.
        """
        values = {name: self.array(name) for name in _RECORD[:9] if name != "chosen"}
        if self.arrays.get("ahead_ids") is not None and self.arrays["ahead_ids"].shape[1] > 0:
            values |= {name: self.arrays[name] for name in _RECORD[9:]}
        return RoutingRecord(
            chosen=self.chosen,
            **{name: np.ascontiguousarray(value, dtype=_TYPES.get(name, np.int32)) for name, value in values.items()},
        )

    def frequencies(self, experts: Sequence[int], where: str) -> list[float]:
        """How many tokens used each expert, layer after layer. experts: how many each layer of the model has.

        Raises CheckpointError where the trace is of another model.
        """
        self.check(experts, where)
        counts: list[float] = []
        for count, used in zip(experts, self.chosen, strict=True):
            counts += np.bincount(used.reshape(-1), minlength=count).astype(float).tolist()
        return counts

    def check(self, experts: Sequence[int], where: str) -> None:
        """Raises CheckpointError where the trace is not of a model with so many experts in its layers."""
        if len(experts) != len(self.chosen):
            raise CheckpointError(
                f"{where}: a trace of {len(self.chosen)} layers with experts; the model has {len(experts)}"
            )
        for layer, (count, used) in enumerate(zip(experts, self.chosen, strict=True)):
            if used.size and not 0 <= used.min() <= used.max() < count:
                raise CheckpointError(
                    f"{where}: layer {layer} of the trace uses experts {used.min()} to {used.max()}; the model has"
                    f" {count} there"
                )

    def part(self, begin: int, end: int) -> RoutingTrace:
        """Steps begin to end - 1 alone."""
        rows = np.concatenate([[0], np.cumsum(self.array("step_rows"))])
        first, last = int(rows[begin]), int(rows[end])
        axes = {"tokens": 0, "accepted": 0, "best_ids": 1, "best_scores": 1, "ahead_ids": 2, "ahead_scores": 2}
        cut = {name: value.take(range(first, last), axes[name]) for name, value in self.arrays.items() if name in axes}
        steps = ("step_rows", "step_bytes", "step_costs")
        cut |= {name: self.arrays[name][begin:end] for name in steps if name in self.arrays}
        chosen = np.ascontiguousarray(self.chosen[:, first:last])
        return RoutingTrace(chosen, {**self.arrays, **cut}, self.model)


def recorded(record: RoutingRecord, offsets: F32, record_bytes: Sequence[int], config: EngineConfig) -> RoutingTrace:
    """What a runtime recorded. record_bytes: of an expert, by layer with experts."""
    arrays = dict(record.arrays())
    chosen = arrays.pop("chosen")
    arrays["step_costs"] = arrays["step_costs"].reshape(-1, 7)
    arrays["record_bytes"] = np.asarray(record_bytes, np.int64)
    arrays["offsets"] = offsets
    arrays["policy"], arrays["prefetch"] = np.array(config.eviction), np.array(config.prefetch)
    arrays["slots"] = np.array(config.expert_slots or 0)
    return RoutingTrace(chosen, arrays, config.model)


def write_routing_trace(path: Path, trace: RoutingTrace) -> None:
    """Raises StorageError."""
    small = {name: _shrunk(value) if name in _SMALL else value for name, value in trace.arrays.items()}
    try:
        with path.open("wb") as file:
            np.savez_compressed(file, chosen=_shrunk(trace.chosen), model=np.array(trace.model), **small)  # type: ignore[arg-type]
    except OSError as error:
        raise StorageError(f"{path}: cannot write the routing trace: {error.strerror or error}") from error


def _shrunk(values: NDArray[Any]) -> NDArray[Any]:
    for dtype in (np.int8, np.int16):
        if values.size == 0 or values.max() <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values


def read_routing_trace(path: Path) -> RoutingTrace:
    """Raises StorageError, CheckpointError naming the file and what was expected."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except OSError as error:
        raise StorageError(f"{path}: cannot read the routing trace: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{path}: not a routing trace: expected an .npz file with `chosen`") from error
    chosen, model = arrays.pop("chosen", None), arrays.pop("model", np.array(""))
    if not isinstance(chosen, np.ndarray) or chosen.ndim != 3 or chosen.dtype.kind not in "iu":
        raise CheckpointError(f"{path}: not a routing trace: expected integers `chosen` [layers, tokens, top_k]")
    for name, value in arrays.items():
        if name in _TYPES or name in _RECORD:
            arrays[name] = np.ascontiguousarray(value, _TYPES.get(name, np.int32))
    return RoutingTrace(np.ascontiguousarray(chosen, np.int32), arrays, str(model))
