"""What a caller gets back, named as in vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from moestro.gen.logprobs import Logprob

FinishReason = Literal["stop", "length", "cancelled"]
TokenLogprobs = dict[int, Logprob]


@dataclass
class CompletionOutput:
    """One answer to one prompt."""

    index: int  # which of the n answers
    text: str = ""  # "" where the model came without a tokenizer; without the stop string and the stop token
    token_ids: list[int] = field(default_factory=list)  # with the stop token, if one ended the answer
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None  # the stop token or stop string of SamplingParams that ended it; None for eos
    logprobs: list[TokenLogprobs] | None = None  # per token: the chosen one first, then the alternatives


@dataclass
class RequestOutput:
    """All answers to one prompt. The short names are those of the first answer."""

    prompt: str | None  # None where the prompt was token ids
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]

    @property
    def text(self) -> str:
        return self.outputs[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.outputs[0].finish_reason

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        return self.outputs[0].logprobs


@dataclass(frozen=True)
class StreamChunk:
    """What one step added to one answer. Text lags where a character or a stop string is still undecided."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None  # set in the answer's last chunk
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprobs] | None = None
