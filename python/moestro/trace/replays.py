"""Replays of one trace over a grid of policies, predictors, planners and caches, beside what no policy could avoid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from moestro._core import F32, PLANNERS, POLICIES, PREDICTORS, LaneCosts, PredictorSettings, belady_misses
from moestro._core import replay as core_replay
from moestro.errors import UsageError
from moestro.trace.fitted import Line, fit_costs, predictor_settings
from moestro.trace.machines import ExpertShape, Machine
from moestro.trace.routing import RoutingTrace
from moestro.units import parse_bytes

# Predictors that ask later routers early: a trace must have recorded what those said.
_LOOKING_AHEAD = ("auto", "next_gate", "impact")
_LEAST_SLOTS = 2


@dataclass(frozen=True)
class Platform:
    """A model on a machine: what its experts and everything else cost there."""

    name: str
    record_bytes: tuple[int, ...]  # by layer with experts, like lanes
    lanes: tuple[LaneCosts, ...]
    layer: Line  # of a layer beside its experts
    step: Line = (0.0, 0.0)  # of a step beside its layers
    has_device: bool = False  # the cache is in its memory; without one, in the host's

    @classmethod
    def recorded(cls, trace: RoutingTrace) -> Platform:
        """The model and the machine of the trace. Raises CheckpointError as `fit_costs`."""
        costs = fit_costs(trace)
        sizes = tuple(int(size) for size in trace.array("record_bytes"))
        lanes = tuple(costs.lanes(size) for size in sizes)
        return cls("as recorded", sizes, lanes, costs.layer, costs.step)

    @classmethod
    def of(cls, trace: RoutingTrace, machine: Machine, model: ExpertShape) -> Platform:
        """The trace's layers, experts and choices with the experts of another model, on another machine."""
        layers = len(trace.chosen)
        return cls(
            f"{model.name} on {machine.name}",
            (model.record_bytes,) * layers,
            (machine.costs(model),) * layers,
            machine.layer(model),
            has_device=machine.has_device,
        )


@dataclass(frozen=True)
class Learnt:
    """What was known before the trace began."""

    trace: RoutingTrace | None = None  # of the same model
    path: Mapping[str, F32] | None = None  # weights of "path"


@dataclass(frozen=True)
class Setting:
    policy: str = "lru"
    prefetch: str = "none"
    planner: str = ""  # without a device there is none


@dataclass(frozen=True)
class Replayed:
    """Counts per distinct expert of a step and layer, from the step on where counting began."""

    setting: Setting
    slots: int
    share: float  # of all experts
    hits: int
    misses: int
    joined: int  # found while being read
    least_misses: int  # that no policy can avoid without reading ahead
    evictions: int
    nbytes: int  # that were read, or crossed the link
    steps: int
    tokens: int
    time_ns: int
    stall_ns: int
    prefetch: tuple[dict[str, int], ...] = field(default=(), repr=False)  # by layer; as RunStats.prefetch

    @property
    def asked(self) -> int:
        return self.hits + self.misses + self.joined

    @property
    def hit_rate(self) -> float:
        return self.hits / max(1, self.asked)

    @property
    def best_hit_rate(self) -> float:
        """Without reading ahead."""
        return 1 - self.least_misses / max(1, self.asked)

    @property
    def bytes_per_token(self) -> float:
        return self.nbytes / max(1, self.tokens)

    @property
    def seconds_per_token(self) -> float:
        return self.time_ns / 1e9 / max(1, self.tokens)

    @property
    def recall(self) -> float | None:
        """Share of the chosen experts that had been expected; None without a predictor."""
        return self._share_foreseen("needed")

    @property
    def precision(self) -> float | None:
        """Share of the expected experts that were chosen; None where none was expected."""
        return self._share_foreseen("hinted")

    def as_dict(self) -> dict[str, Any]:
        derived = ("hit_rate", "best_hit_rate", "bytes_per_token", "seconds_per_token", "recall", "precision")
        return {
            **asdict(self.setting),
            **{name: value for name, value in vars(self).items() if name != "setting"},
            **{name: getattr(self, name) for name in derived},
        }

    def _share_foreseen(self, of: str) -> float | None:
        whole = sum(layer[of] for layer in self.prefetch)
        return sum(layer["foreseen"] for layer in self.prefetch) / whole if whole else None


class Replayer:
    """One trace on one platform. Raises CheckpointError for a trace that cannot be replayed, or where `learnt` is of
    another model.
    """

    def __init__(
        self,
        trace: RoutingTrace,
        platform: Platform,
        learnt: Learnt | None = None,
        first_step: int = 0,
        host_slots: int | None = None,
        copies: str = "inclusive",
    ) -> None:
        """first_step: steps before it fill the cache and are not counted. With a device: host_slots, of the host's
        cache, which is empty at first; None: it has all experts from the start.
        """
        learnt = learnt or Learnt()
        self.experts = [int(count) for count in trace.array("experts")]
        self.platform = platform
        self._trace, self._learnt, self._first_step = trace, learnt, first_step
        self._host = None if host_slots is None else host_slots * max(platform.record_bytes)
        self._copies = copies
        self._record = trace.record()
        if learnt.trace is not None:
            learnt.trace.check(self.experts, "what is learnt from")
        self._least: dict[int, int] = {}

    def lacking(self, setting: Setting) -> str:
        """Why the setting cannot be replayed, or nothing."""
        return (
            lacking_for_policy(setting.policy, self._learnt)
            or lacking_for_prefetch(setting.prefetch, self._trace, self._learnt)
            or lacking_for_planner(setting.planner, self.platform)
        )

    def run(self, setting: Setting, slots: int) -> Replayed:
        """slots: of the largest record. Raises UsageError where the setting lacks something."""
        lacking = self.lacking(setting)
        if lacking:
            raise UsageError(lacking)
        platform, learnt = self.platform, self._learnt
        frequencies: Sequence[float] = ()
        if setting.policy == "static" and learnt.trace is not None:
            frequencies = learnt.trace.frequencies(self.experts, "what is learnt from")
        result = core_replay(
            self._record,
            record_bytes=platform.record_bytes,
            costs=platform.lanes,
            layer=platform.layer,
            step=platform.step,
            cache_bytes=slots * max(platform.record_bytes),
            max_slots=slots,
            policy=setting.policy,
            frequencies=frequencies,
            prefetch=setting.prefetch,
            predictor=self._predictor(setting.prefetch),
            planner=setting.planner or PLANNERS[0],
            host_bytes=self._host,
            copies=self._copies,
            first_step=self._first_step,
        )
        return Replayed(
            setting=setting,
            slots=slots,
            share=slots / sum(self.experts),
            hits=int(result["hits"].sum()),
            misses=int(result["misses"].sum()),
            joined=int(result["joined"].sum()),
            least_misses=self._least_misses(slots),
            evictions=result["evictions"],
            nbytes=result["nbytes"],
            steps=result["steps"],
            tokens=result["rows"],
            time_ns=result["time_ns"],
            stall_ns=result["stall_ns"],
            prefetch=tuple(result["prefetch"]),
        )

    def _predictor(self, prefetch: str) -> PredictorSettings:
        if prefetch == "path" and self._learnt.path is not None:
            top_k = [self._trace.chosen.shape[2]] * len(self.experts)
            return PredictorSettings(top_k=top_k, path=dict(self._learnt.path))
        return predictor_settings(self._trace, self._learnt.trace)

    def _least_misses(self, slots: int) -> int:
        if slots not in self._least:
            self._least[slots] = int(belady_misses(self._record, [slots], self._first_step)[0])
        return self._least[slots]


def grid(policies: Iterable[str], prefetches: Iterable[str], planners: Iterable[str]) -> list[Setting]:
    return [Setting(*names) for names in product(policies, prefetches, planners)]


def replay_grid(replayer: Replayer, settings: Iterable[Setting], slots: Sequence[int]) -> Iterator[Replayed]:
    """Every setting with every cache, as they are done."""
    for setting in settings:
        for count in slots:
            yield replayer.run(setting, count)


def lacking_for_policy(name: str, learnt: Learnt) -> str:
    """What the policy lacks, as a sentence; nothing where it lacks nothing. So do the next two."""
    if name not in POLICIES:
        return f"policy: expected one of {', '.join(POLICIES)}; got {name!r}"
    if name == "static" and learnt.trace is None:
        return "policy 'static' keeps what a routing trace used most: give a trace to learn from"
    return ""


def lacking_for_prefetch(name: str, trace: RoutingTrace, learnt: Learnt) -> str:
    if name == "pre_gated":
        return (
            "prefetch 'pre_gated' needs a model whose routers choose the next layer's experts; its traces say nothing"
        )
    if name not in PREDICTORS:
        return f"prefetch: expected one of {', '.join(PREDICTORS)}; got {name!r}"
    ahead = trace.arrays.get("ahead_ids")
    if name in _LOOKING_AHEAD and (ahead is None or ahead.shape[1] == 0):
        return (
            f"prefetch {name!r} asks later routers early; this trace does not say what they answered: record one with"
            " --ahead 3"
        )
    if name == "path" and learnt.path is None:
        return "prefetch 'path' is a trained network: give its weights"
    if name in ("transition", "activation") and learnt.trace is None:
        return f"prefetch {name!r} learns from earlier tokens: give a trace to learn from"
    if name == "transition" and learnt.trace is not None and learnt.trace.tokens is None:
        return "prefetch 'transition' goes by tokens; the trace to learn from does not say which they were"
    return ""


def lacking_for_planner(name: str, platform: Platform) -> str:
    if not name:
        return "planner: this machine has a device; say who plans for it" if platform.has_device else ""
    if name not in PLANNERS:
        return f"planner: expected one of {', '.join(PLANNERS)}; got {name!r}"
    if not platform.has_device:
        return f"planner {name!r} shares experts out between processor and device; {platform.name} has no device"
    return ""


def parse_slots(text: str, experts: int, record_bytes: int) -> int:
    """Slots of a cache: "25%" of all experts, a size such as "2GiB", or their number; no more than there are experts.

    Raises UsageError, also below the two that a cache needs.
    """
    word = text.strip()
    if word.endswith("%"):
        slots = round(parse_share(word, "memory") * experts)
    elif word.isdecimal():
        slots = int(word)
    else:
        slots = parse_bytes(word, "memory (a share like 25%, a size, or a number of slots)") // record_bytes
    if slots < _LEAST_SLOTS:
        raise UsageError(
            f"memory: {text} is room for {slots} of {experts} experts of {record_bytes} bytes; a cache needs"
            f" {_LEAST_SLOTS}"
        )
    return min(slots, experts)


def parse_share(text: str, what: str) -> float:
    """ "12.5%" as 0.125. Raises UsageError."""
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not text.strip().endswith("%") or not 0 <= share <= 1:
        raise UsageError(f"{what}: expected a share from 0% to 100%, got {text!r}")
    return share
