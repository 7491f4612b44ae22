"""LLM: load a model, then generate, stream, chat; the one class most people need."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moestro.config import EngineConfig, SamplingParams
from moestro.errors import UsageError
from moestro.gen.engine import Engine
from moestro.gen.intake import Intake
from moestro.gen.outputs import RequestOutput, StreamChunk
from moestro.gen.prompts import Prompt
from moestro.gen.run import Event, PrefillProgress
from moestro.gen.stats import RunStats
from moestro.models.load import LoadedModel, load_model
from moestro.prepare import LoadProgress, Say, prepare_model, say_on_stderr
from moestro.report import Report, make_report
from moestro.text.chat import Message
from moestro.text.model_text import read_model_text
from moestro.text.tokenizer import Tokenizer
from moestro.trace.routing import RoutingTrace, recorded
from moestro.trace.timeline import Timeline
from moestro.units import format_bytes, parse_bytes


@dataclass(frozen=True)
class _Running:
    """What an LLM holds until it is closed."""

    model: LoadedModel
    intake: Intake
    engine: Engine


class LLM:
    """A model that answers.

    One run at a time: another call while a stream is open, from any thread, is a UsageError. Ctrl-C and closing a
    stream cancel at once and leave the object usable. Close it, or use it as a context manager, to give everything
    back. See `EngineConfig` for the arguments; further ones:

    say: receives the sentences of loading, one by one; None is silence (they are in `report()` all the same).
    progress: called with (stage, bytes done, bytes in all) while packing and loading.

    Raises UsageError for wrong arguments, CheckpointError for a model that cannot be understood, BudgetError for one
    that does not fit, StorageError when reading fails.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        host_memory: int | str = "auto",
        format: str = "auto",
        trunk_format: str | None = None,
        threads: int | None = None,
        kv_dtype: str = "auto",
        max_model_len: int | None = None,
        prefill_chunk: int | str = "auto",
        policy: str = "auto",
        policy_trace: str | os.PathLike[str] | None = None,
        prefetch: str = "none",
        prefetch_trace: str | os.PathLike[str] | None = None,
        verify: str = "first",
        io: str = "auto",
        io_engine: str = "auto",
        io_depth: int | None = None,
        stream: str = "auto",
        device: str = "cpu",
        device_memory: int | str = "auto",
        trunk: str = "auto",
        device_copies: str = "inclusive",
        schedule: str = "hybrid",
        math: str = "exact",
        trace_events: int = 0,
        record_tokens: int = 0,
        record_ahead: int = 0,
        expert_slots: int | None = None,
        say: Say | None = say_on_stderr,
        progress: LoadProgress | None = None,
    ) -> None:
        self.config = EngineConfig(
            model=os.fspath(model) if isinstance(model, os.PathLike) else model,
            host_memory=host_memory,
            format=format,
            trunk_format=trunk_format,
            threads=threads,
            kv_dtype=kv_dtype,
            max_model_len=max_model_len,
            prefill_chunk=prefill_chunk,
            policy=policy,
            policy_trace=None if policy_trace is None else os.fspath(policy_trace),
            prefetch=prefetch,
            prefetch_trace=None if prefetch_trace is None else os.fspath(prefetch_trace),
            verify=verify,
            io=io,
            io_engine=io_engine,
            io_depth=io_depth,
            stream=stream,
            device=device,
            device_memory=device_memory,
            trunk=trunk,
            device_copies=device_copies,
            schedule=schedule,
            math=math,
            trace_events=trace_events,
            record_tokens=record_tokens,
            record_ahead=record_ahead,
            expert_slots=expert_slots,
        )
        say, progress = say or _silence, progress or _no_progress
        self.directory: Path = prepare_model(self.config, say, progress)
        text = read_model_text(self.directory)
        self._text = text
        loaded = load_model(
            self.directory,
            self.config,
            lambda done, total: progress("loading", done, total),
            text=text.held_bytes,
        )
        self._last_stats: RunStats | None = None
        try:
            spec, pool = loaded.spec, loaded.kv_pool
            length = max_model_len or spec.context_length
            why = "" if max_model_len else spec.context_reason
            intake = Intake(text, pool, vocab_size=spec.vocab_size, max_model_len=length, why=why)
            engine = Engine(loaded.decoder, pool, loaded.runtime, spec.rope, text.tokenizer)
            self._running: _Running | None = _Running(loaded, intake, engine)
            self._report = make_report(self.config, self.directory, loaded, text, length)
            for line in self._report.lines():
                say(line)
        except BaseException:
            self._running = None
            loaded.close()
            raise

    # ---- answers ----------------------------------------------------------------------------------------------------
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_prefill: PrefillProgress | None = None,
    ) -> list[RequestOutput]:
        """One output per prompt, in order; prompts are texts or lists of token ids and run as one batch.

        sampling_params: for all prompts or one each; None takes the model's own (generation_config.json).
        on_prefill: called with (prompt tokens read, prompt tokens in all).
        """
        running = self._open()
        return running.engine.run(running.intake.batch(prompts, sampling_params), progress=on_prefill)

    def stream(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        on_prefill: PrefillProgress | None = None,
    ) -> Generator[StreamChunk, None, None]:
        """The same answer in pieces, as they are known. Wrong arguments are refused here, not at the first piece."""
        running = self._open()
        return _chunks(running.engine.stream([running.intake.one(prompt, sampling_params)], progress=on_prefill))

    def chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        on_prefill: PrefillProgress | None = None,
    ) -> RequestOutput:
        """An answer to a conversation, through the model's chat template.

        The last conversation's KV is kept: what a new call has in common with it, from the start, is not read again.
        """
        running = self._open()
        request = running.intake.chat(messages, sampling_params, add_generation_prompt, tools, template_variables)
        return running.engine.run([request], keep=True, progress=on_prefill)[0]

    def stream_chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        on_prefill: PrefillProgress | None = None,
    ) -> Generator[StreamChunk, None, None]:
        """`chat` in pieces."""
        running = self._open()
        request = running.intake.chat(messages, sampling_params, add_generation_prompt, tools, template_variables)
        return _chunks(running.engine.stream([request], keep=True, progress=on_prefill))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [T, vocab] for T token ids: row i is what the model expects after tokens 0..i.

        The array is the caller's, outside the memory budget: 4 bytes x T x vocab.
        """
        running = self._open()
        return running.engine.logits(running.intake.token_ids(token_ids), running.intake.vocab_size)

    # ---- looking ----------------------------------------------------------------------------------------------------
    def report(self) -> Report:
        """What is running and what was refused, with reasons: everything that was said at load."""
        return self._report

    def stats(self) -> RunStats | None:
        """What the last run cost; None before the first."""
        return self._running.engine.stats if self._running else self._last_stats

    def timeline(self) -> Timeline:
        """What happened when since the last call, as far as `trace_events` had room; see `moestro trace timeline`."""
        return Timeline.of(*self._open().model.runtime.take_trace())

    def routing(self) -> RoutingTrace:
        """What routers chose since the last call, as far as `record_tokens` had room; see `moestro trace record`.

        Raises UsageError without `record_tokens`, or for a model without experts.
        """
        runtime = self._open().model.runtime
        record, offsets, lost = runtime.take_record()
        sizes = runtime.record_sizes()
        if lost:
            raise UsageError(f"record_tokens: {self.config.record_tokens} were too few; {lost} more tokens were run")
        return recorded(record, offsets, sizes, self.config)

    def resize(self, *, host_memory: int | str | None = None, device_memory: int | str | None = None) -> None:
        """Other budgets from now on, between runs; None: as it is. What is over is given up, experts first.

        Raises BudgetError, and nothing changed, where that does not suffice or the device has less.
        """
        host = None if host_memory is None else parse_bytes(host_memory, "host_memory")
        device = None if device_memory is None else parse_bytes(device_memory, "device_memory")
        self._open().model.runtime.resize(host, device)

    def get_default_sampling_params(self) -> SamplingParams:
        """What is used where a call gives none: the model's generation_config.json."""
        return self._text.sampling

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where the model came without a tokenizer.json; prompts are then token ids."""
        return self._text.tokenizer

    def __repr__(self) -> str:
        state = "" if self._running else ", closed"
        report = self._report
        size = format_bytes(report.budget)
        return f"LLM({self.config.model!r}, {report.model_type}, {report.formats}, {size}, {report.device}{state})"

    # ---- end --------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Ends an open stream, waits for reads in flight and gives all memory back. May be called again."""
        if self._running is None:
            return
        self._running.engine.close()
        self._last_stats = self._running.engine.stats
        model, self._running = self._running.model, None  # whoever keeps this object keeps no weight and no thread
        model.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- inside -----------------------------------------------------------------------------------------------------
    def _open(self) -> _Running:
        if self._running is None:
            raise UsageError("this LLM was closed")
        return self._running


def _chunks(events: Generator[Event, None, None]) -> Generator[StreamChunk, None, None]:
    with closing(events):
        for event in events:
            yield event.chunk


def _silence(_: str) -> None:
    pass


def _no_progress(stage: str, done: int, total: int) -> None:
    pass
