"""One answer being written: logits in, chunks out, until something ends it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moestro.gen.detokenize import Detokenizer, TextDecoder
from moestro.gen.outputs import CompletionOutput, FinishReason, StreamChunk, TokenLogprobs
from moestro.gen.request import Request
from moestro.gen.sampler import Sampler
from moestro.gen.stop_text import Passed, StopTexts

# So many prompt tokens precede the answer when it is decoded (see Detokenizer).
_CONTEXT_TOKENS = 5


class _Step(NamedTuple):
    """What one token did: text that became certain, and whether and why it was the last."""

    text: str
    reason: FinishReason | None = None
    cause: int | str | None = None


class Answer:
    """Answer number `index` to a request. `output` is complete once `finished`."""

    def __init__(self, request: Request, index: int, decoder: TextDecoder | None) -> None:
        self.request = request
        self.output = CompletionOutput(index, logprobs=None if request.params.logprobs is None else [])
        self._sampler = Sampler(request.params, request.prompt_ids, index)
        self._stops = StopTexts(request.params.stop or ())
        self._decoder = decoder
        self._text = None if decoder is None else Detokenizer(decoder, request.prompt_ids[-_CONTEXT_TOKENS:])

    @property
    def finished(self) -> bool:
        return self.output.finish_reason is not None

    def accept(self, logits: NDArray[np.float32]) -> StreamChunk:
        """Samples the next token from logits [vocab] and says what it added."""
        sampled = self._sampler(logits)
        self.output.token_ids.append(sampled.token)
        step = self._ended_by_token(sampled.token) or self._ended_by_text(sampled.token)
        self.output.text += step.text
        self.output.finish_reason, self.output.stop_reason = step.reason, step.cause
        logprobs = None
        if self.output.logprobs is not None and sampled.logprobs is not None:
            logprobs = [self._named(sampled.logprobs)]
            self.output.logprobs += logprobs
        return StreamChunk(self.output.index, step.text, [sampled.token], step.reason, step.cause, logprobs)

    def cancel(self) -> None:
        if not self.finished:
            self.output.finish_reason = "cancelled"

    def _ended_by_token(self, token: int) -> _Step | None:
        params = self.request.params
        if token in (params.stop_token_ids or ()):
            return _Step(self._rest(), "stop", token)
        if token in self.request.eos_ids and not params.ignore_eos:
            return _Step(self._rest(), "stop")
        return None

    def _ended_by_text(self, token: int) -> _Step:
        passed = Passed("") if self._text is None else self._stops.feed(self._text.feed(token))
        if passed.stop is not None:
            return _Step(passed.text, "stop", passed.stop)
        if len(self.output.token_ids) < self.request.max_new:
            return _Step(passed.text)
        return _Step(passed.text + self._rest(), "length")

    def _rest(self) -> str:
        """The text held back so far, now that nothing can follow it."""
        if self._text is None:
            return ""
        passed = self._stops.feed(self._text.flush())
        return passed.text if passed.stop is not None else passed.text + self._stops.flush()

    def _named(self, logprobs: TokenLogprobs) -> TokenLogprobs:
        decoder = self._decoder
        if decoder is None:
            return logprobs
        return {token: entry.named(decoder.decode([token])) for token, entry in logprobs.items()}
