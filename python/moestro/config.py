"""What a caller may set: one frozen, validated dataclass for an engine, one for sampling.

Every text is parsed once, here; the rest of the package sees numbers and known names only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from moestro.device_names import CudaDevice, parse_device
from moestro.errors import UsageError
from moestro.stream_shape import parse_stream
from moestro.units import format_bytes, parse_bytes

FORMATS = ("f32", "bf16", "q8", "q4")
KV_DTYPES = ("f32", "bf16", "f16")
POLICIES = ("lru", "lfu", "lrfu", "score", "shallow", "workload", "static")
AUTO_POLICY = "lrfu"  # what misses least on our traces, at every size: docs/policies.md
PREDICTORS = ("none", "auto", "next_gate", "impact", "transition", "activation", "path", "pre_gated")
LEARNT_PREDICTORS = ("transition", "activation", "path")
COPIES = ("inclusive", "exclusive")
SCHEDULES = ("hybrid", "greedy_01", "static", "on_demand", "cpu", "device", "auto")
TRUNKS = ("auto", "device", "cpu")
VERIFY_MODES = ("first", "always", "never")
IO_MODES = ("auto", "direct", "cached")
IO_ENGINES = ("auto", "io_uring", "threads")
MATHS = ("exact", "fast")

# Below this temperature the most likely token is taken, as vLLM does.
GREEDY_TEMPERATURE = 1e-5

__all__ = [
    "COPIES",
    "FORMATS",
    "GREEDY_TEMPERATURE",
    "IO_ENGINES",
    "IO_MODES",
    "KV_DTYPES",
    "MATHS",
    "POLICIES",
    "PREDICTORS",
    "SCHEDULES",
    "TRUNKS",
    "VERIFY_MODES",
    "EngineConfig",
    "SamplingParams",
    "format_bytes",
    "parse_bytes",
]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The arguments of `LLM(...)`. Raises UsageError naming the argument, the value and what is allowed."""

    model: str  # a directory (checkpoint or packed store) or a Hugging Face name "org/name"
    host_memory: int | str = "auto"  # bytes | "auto" | "min"; sizes such as "8GiB" are parsed into bytes
    format: str = "auto"  # "auto" keeps the checkpoint's precision
    trunk_format: str | None = None  # None: the same as `format`
    threads: int | None = None  # None: the engine chooses
    kv_dtype: str = "auto"  # "auto": the model's
    max_model_len: int | None = None  # tokens, prompt and answer together; None: the model's own limit
    prefill_chunk: int | str = "auto"  # rows per prefill step
    policy: str = "auto"  # which unpinned expert leaves the cache first; "auto": AUTO_POLICY
    policy_trace: str | None = None  # of policy "static": a routing trace of this model, an .npz file
    prefetch: str = "none"  # who says which experts later layers will use, so that they are read ahead
    prefetch_trace: str | None = None  # what it learnt from: a routing trace; of "path" what `trace train-path` made
    verify: str = "first"  # when checksums of packed records are checked
    io: str = "auto"  # "direct", "cached" (the page cache, outside the budget); "auto": by a trial on the model's files
    io_engine: str = "auto"  # "io_uring", "threads"
    io_depth: int | None = None  # reads in flight; None: the engine's default, or the trial's
    stream: str = "auto"  # how weights that do not fit pass through memory: "auto", "off" (they must fit), a name
    device: str = "cpu"  # or "emulated:memory=2GiB,...": moestro.device_names
    device_memory: int | str = "auto"  # bytes that the device gives; "auto": all that it has, or has free
    trunk: str = "auto"  # what computes all but experts: TRUNKS; "auto": a CUDA device, where it fits there
    device_copies: str = "inclusive"  # whether host memory keeps experts that the device has: COPIES
    schedule: str = "hybrid"  # who decides what the device computes: SCHEDULES
    math: str = "exact"  # "fast": bf16 weights take activations rounded to bf16, where the CPU has AVX512_BF16
    trace_events: int = 0  # room for the latest events of `LLM.timeline()`
    record_tokens: int = 0  # room for the routing of so many tokens: `LLM.routing()`
    record_ahead: int = 0  # and for what so many next layers' routers make of each layer's input
    expert_slots: int | None = None  # for tests: exactly this many expert slots, whatever the budget holds

    def __post_init__(self) -> None:
        if isinstance(self.model, os.PathLike):
            object.__setattr__(self, "model", os.fspath(self.model))
        if not isinstance(self.model, str) or not self.model:
            raise UsageError(f"model: expected a directory or a name like 'org/name', got {self.model!r}")
        object.__setattr__(self, "host_memory", _memory(self.host_memory))
        _one_of("format", self.format, ("auto", *FORMATS))
        if self.trunk_format is not None:
            _one_of("trunk_format", self.trunk_format, ("auto", *FORMATS))
        _one_of("kv_dtype", self.kv_dtype, ("auto", *KV_DTYPES))
        _one_of("policy", self.policy, ("auto", *POLICIES))
        if (self.policy == "static") != (self.policy_trace is not None):
            raise UsageError(
                "policy_trace: policy 'static' keeps the experts that a routing trace used most, and no other policy"
                f" reads one; got policy={self.policy!r}, policy_trace={self.policy_trace!r}"
            )
        self._check_prefetch()
        _one_of("verify", self.verify, VERIFY_MODES)
        if self.io in IO_ENGINES[1:]:
            raise UsageError(f"io: expected one of {', '.join(IO_MODES)}; {self.io!r} is an io_engine")
        _one_of("io", self.io, IO_MODES)
        _one_of("io_engine", self.io_engine, IO_ENGINES)
        _whole("io_depth", self.io_depth, 1, optional=True)
        parse_stream(self.stream)
        self._check_device()
        _one_of("math", self.math, MATHS)
        _whole("threads", self.threads, 1, optional=True)
        _whole("max_model_len", self.max_model_len, 1, optional=True)
        _whole("trace_events", self.trace_events, 0)
        _whole("record_tokens", self.record_tokens, 0)
        _whole("record_ahead", self.record_ahead, 0)
        _whole("expert_slots", self.expert_slots, 2, optional=True)
        if self.prefill_chunk != "auto":
            _whole("prefill_chunk", self.prefill_chunk, 1, also="'auto'")

    @property
    def eviction(self) -> str:
        """The policy, "auto" resolved."""
        return AUTO_POLICY if self.policy == "auto" else self.policy

    def _check_device(self) -> None:
        _one_of("device_copies", self.device_copies, COPIES)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("trunk", self.trunk, TRUNKS)
        device = parse_device(self.device)
        if self.trunk == "device" and not isinstance(device, CudaDevice):
            raise UsageError(f"trunk: device {self.device!r} computes no trunk; 'device' needs device='cuda'")
        if self.device_memory != "auto":
            asked = parse_bytes(self.device_memory, "device_memory ('auto' or a size)")
            object.__setattr__(self, "device_memory", asked)
            if device is None and asked:
                raise UsageError(f"device_memory: device 'cpu' has no memory of its own, got {self.device_memory!r}")

    def _check_prefetch(self) -> None:
        _one_of("prefetch", self.prefetch, PREDICTORS)
        if self.prefetch in LEARNT_PREDICTORS and self.prefetch_trace is None:
            source = "`moestro trace train-path`" if self.prefetch == "path" else "`moestro trace record`"
            raise UsageError(f"prefetch_trace: {self.prefetch!r} learns from a file that {source} makes; name it")
        if self.prefetch == "none" and self.prefetch_trace is not None:
            raise UsageError("prefetch_trace: nothing is read ahead with prefetch='none'; choose a predictor")
        if self.prefetch == "pre_gated" and self.prefetch_trace is not None:
            raise UsageError("prefetch_trace: 'pre_gated' asks the model itself and learns from no file; leave it out")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when to stop: vLLM's names, defaults and meanings. Raises UsageError."""

    n: int = 1  # answers per prompt
    max_tokens: int | None = 16  # None: up to the model's limit
    temperature: float = 1.0  # 0 takes the most likely token
    top_k: int = 0  # keep the k most likely tokens; 0 or -1: all
    top_p: float = 1.0  # keep the smallest set whose probability reaches this
    min_p: float = 0.0  # drop tokens below this share of the most likely one's probability
    repetition_penalty: float = 1.0  # > 1 discourages tokens of the prompt and of the answer
    presence_penalty: float = 0.0  # subtracted once from the logit of every token in the answer
    frequency_penalty: float = 0.0  # the same, per occurrence
    # texts that end the answer and are not returned: one text, several or None; kept as a tuple
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()  # or None; kept as a tuple
    logprobs: int | None = None  # alternatives returned per token, besides the chosen one
    seed: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _whole("n", self.n, 1)
        _whole("max_tokens", self.max_tokens, 1, optional=True)
        _real("temperature", self.temperature, low=0.0)
        _whole("top_k", self.top_k, -1)
        _real("top_p", self.top_p, low=0.0, high=1.0, above=True)
        _real("min_p", self.min_p, low=0.0, high=1.0)
        _real("repetition_penalty", self.repetition_penalty, low=0.0, above=True)
        _real("presence_penalty", self.presence_penalty, low=-2.0, high=2.0)
        _real("frequency_penalty", self.frequency_penalty, low=-2.0, high=2.0)
        _whole("logprobs", self.logprobs, 0, optional=True)
        _whole("seed", self.seed, None, optional=True)
        if not isinstance(self.ignore_eos, bool):
            raise UsageError(f"ignore_eos: expected True or False, got {self.ignore_eos!r}")
        object.__setattr__(self, "stop", _stop_texts(self.stop))
        object.__setattr__(self, "stop_token_ids", _token_ids(self.stop_token_ids))
        if self.greedy and self.n > 1:
            raise UsageError(f"n: temperature 0 gives the same answer every time; n must be 1, got {self.n}")

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_TEMPERATURE


def _memory(value: int | str) -> int | str:
    if isinstance(value, str) and value in ("auto", "min"):
        return value
    nbytes = parse_bytes(value, "host_memory ('auto', 'min' or a size)")
    if nbytes == 0:
        raise UsageError("host_memory: expected 'auto', 'min' or a size above 0, got 0")
    return nbytes


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{name}: expected one of {', '.join(allowed)}; got {value!r}")


def _whole(name: str, value: object, low: int | None, *, optional: bool = False, also: str = "None") -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
        bound = "an integer" if low is None else f"an integer of at least {low}"
        extra = f" or {also}" if optional or also != "None" else ""
        raise UsageError(f"{name}: expected {bound}{extra}, got {value!r}")


def _real(name: str, value: object, *, low: float, high: float = math.inf, above: bool = False) -> None:
    """Finite and in [low, high], or in (low, high] where `above`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and math.isfinite(value) and (low < value if above else low <= value) and value <= high:  # type: ignore[arg-type, operator]
        return
    bound = f"above {low:g}" if above else f"of at least {low:g}"
    upper = "" if high == math.inf else f" and at most {high:g}"
    raise UsageError(f"{name}: expected a finite number {bound}{upper}, got {value!r}")


def _stop_texts(value: object) -> tuple[str, ...]:
    texts = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) and text for text in texts):
        raise UsageError(f"stop: expected a non-empty text or a list of them, got {value!r}")
    return tuple(texts)


def _token_ids(value: object) -> tuple[int, ...]:
    ids = () if value is None else value
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise UsageError(f"stop_token_ids: expected a list of token ids, got {value!r}")
    for token in ids:
        _whole("stop_token_ids", token, 0)
    return tuple(ids)
