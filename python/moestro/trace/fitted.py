"""What a recorded run took, as costs: so that a replay can say what another cache, policy or predictor would have taken
on the same machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moestro._core import LaneCosts, PredictorSettings
from moestro._core import replay as core_replay
from moestro.errors import CheckpointError
from moestro.trace.routing import RoutingTrace

Line = tuple[float, float]  # fixed, per row; nanoseconds

_ROUNDS = 24  # of halving the interval in which the disk's rate lies
_SLOWEST = 1000.0  # ns per byte
_LEAST_STEPS = 16  # for telling what asking for reads takes, and beginning to
_LEAST_RATE = 0.05  # of what bytes took, beginnings included


@dataclass(frozen=True)
class FittedCosts:
    expert: Line  # of an expert on the CPU
    read_ns_per_byte: float  # of the disk, asking and taking in what arrived included; 0 where nothing was waited for
    read_start_ns: float  # more for the first read after the disk had nothing to do
    layer: Line  # of a layer beside its experts
    step: Line  # of a step beside its layers

    def lanes(self, record_bytes: int) -> LaneCosts:
        return LaneCosts(cpu=self.expert, ssd=self.read_ns_per_byte * record_bytes, ssd_start=self.read_start_ns)


def replay(trace: RoutingTrace, costs: FittedCosts, **options: Any) -> dict[str, Any]:
    """The trace on the machine that it was recorded on. options: of `moestro.core.replay`."""
    sizes = [int(size) for size in trace.array("record_bytes")]
    lanes = [costs.lanes(size) for size in sizes]
    options.setdefault("predictor", predictor_settings(trace))
    return core_replay(trace.record(), record_bytes=sizes, costs=lanes, layer=costs.layer, step=costs.step, **options)


def predictor_settings(trace: RoutingTrace, learnt: RoutingTrace | None = None) -> PredictorSettings:
    """For predictors that learn from another trace of the same model."""
    top_k = [trace.chosen.shape[2]] * len(trace.chosen)
    if learnt is None:
        return PredictorSettings(top_k=top_k)
    return PredictorSettings(top_k=top_k, tokens=learnt.tokens, chosen=learnt.chosen)


def fit_costs(trace: RoutingTrace, recorded: Mapping[str, Any] | None = None) -> FittedCosts:
    """Lines through medians of the trace's steps, scaled so that they add up to what the run took; the disk's line is
    scaled until a replay waits as long as the run did.

    recorded: the run's policy, frequencies and max_slots, as `replay` takes them; None: as the trace says. Raises
    CheckpointError for a trace without `step_costs` or steps, and where what it says of its run is not enough: it read
    ahead, or kept what another trace had used.
    """
    recorded = _run(trace) if recorded is None else recorded
    rows, costs = trace.array("step_rows"), trace.array("step_costs").astype(float)
    if len(rows) == 0:
        raise CheckpointError("this routing trace has no steps: nothing can be learnt of what they took")
    began, ended, compute, stall, arrival = costs.T[:5]
    experts, pairs = _work(trace)
    layers = len(trace.chosen)
    between = began[1:] - ended[:-1]
    other = ended - began - compute - stall - arrival
    reads = costs[:, 6] / float(np.mean(trace.array("record_bytes")))
    asking = _asking(other, rows, reads)
    fitted = FittedCosts(
        expert=_line(compute, experts, pairs),
        read_ns_per_byte=0.0,
        read_start_ns=0.0,
        layer=_line(other - asking, np.full(len(rows), layers, float), rows * float(layers)),
        step=(float(np.median(between)) if between.size else 0.0, 0.0),
    )
    waited = float((stall + arrival + asking).sum())
    start = _start(costs[:, 5], costs[:, 6], reads, layers)

    def disk(rate: float) -> FittedCosts:
        return replace(fitted, read_ns_per_byte=rate, read_start_ns=start * rate)

    low, high = 0.0, _SLOWEST
    for _ in range(_ROUNDS if waited > 0 else 0):
        middle = (low + high) / 2
        waits = replay(trace, disk(middle), **recorded)["stall_ns"]
        low, high = (middle, high) if waits < waited else (low, middle)
    return disk(low)


def _start(busy: NDArray[np.float64], nbytes: NDArray[np.float64], reads: NDArray[np.float64], layers: int) -> float:
    """What beginning to read costs, as so many bytes: how much longer than its bytes a step's reads took, by the
    layers that read. Which those were the trace does not say; reads are taken to meet layers evenly. busy, nbytes,
    reads: of steps.
    """
    some = nbytes > 0
    if some.sum() < _LEAST_STEPS:
        return 0.0
    begun = layers * (1 - (1 - 1 / layers) ** reads[some])
    rate, each = map(float, np.linalg.lstsq(np.stack([nbytes[some], begun], axis=1), busy[some], rcond=None)[0])
    # A disk that reads at no cost is one that was not seen.
    least = _LEAST_RATE * float(busy[some].sum() / nbytes[some].sum())
    return max(0.0, each) / max(rate, least)


def _run(trace: RoutingTrace) -> dict[str, Any]:
    """Policy and slots of the run, as `replay` takes them."""
    policy, prefetch = (
        str(trace.arrays.get(name, default)) for name, default in (("policy", "lru"), ("prefetch", "none"))
    )
    if policy == "static" or prefetch != "none":
        raise CheckpointError(
            f"this routing trace is of a run with policy {policy!r} and prefetch {prefetch!r}; its machine's"
            " costs are learnt from runs of other policies than 'static' that read nothing ahead: record one, or name a"
            " machine"
        )
    slots = int(trace.arrays.get("slots", 0))
    return {"policy": policy, **({"max_slots": slots} if slots else {})}


def _work(trace: RoutingTrace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each step, all layers together: experts that were computed, and rows that they were computed on."""
    experts, pairs, begin = [], [], 0
    for rows in trace.array("step_rows"):
        step = trace.chosen[:, begin : begin + rows]
        experts.append(sum(len(np.unique(layer)) for layer in step))
        pairs.append(step.size)
        begin += int(rows)
    return np.asarray(experts, float), np.asarray(pairs, float)


def _asking(other: NDArray[np.float64], rows: NDArray[np.int32], reads: NDArray[np.float64]) -> NDArray[np.float64]:
    """What of each step's other time went into asking for reads: it grows with them in steps that are alike else."""
    alike = rows == np.median(rows)
    varied = reads[alike] - reads[alike].mean()
    if alike.sum() < _LEAST_STEPS or not varied.any():
        return np.zeros(len(rows))
    slope = float((varied * other[alike]).sum() / (varied * varied).sum())
    most = float(np.median(other[alike])) / max(1.0, float(reads[alike].mean()))
    return min(max(0.0, slope), most) * reads


def _line(times: NDArray[np.float64], counts: NDArray[np.float64], units: NDArray[np.float64]) -> Line:
    """What each of `counts` things of a step took, fixed and per unit of `units`, which all things share: through the
    median of the steps of fewest units per thing and, where there are others, those of most. times: of steps.
    """
    each, size = times / counts, units / counts
    least, most = float(size.min()), float(size.max())
    low = float(np.median(each[size <= 1.5 * least]))
    large = size > max(2 * least, most / 2)
    slope = float(np.median((each[large] - low) / (size[large] - least))) if large.any() else 0.0
    slope = max(0.0, min(slope, low / least))
    fixed = low - slope * least
    said = float((fixed * counts + slope * units).sum())
    scale = float(times.sum()) / said if said > 0 else 1.0
    return scale * fixed, scale * slope
