"""From what a caller passes to checked requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moestro.config import SamplingParams
from moestro.errors import UsageError
from moestro.gen.parts import MeasuredPool
from moestro.gen.prompts import Prompt, as_prompt, as_prompts, params_for
from moestro.gen.request import Limits, Request, check_token_ids, make_request
from moestro.kv.blocks import BLOCK
from moestro.text.chat import Message
from moestro.text.model_text import ModelText


class Intake:
    """Borrows the pool, to know how long an answer without max_tokens may become."""

    def __init__(
        self, text: ModelText, pool: MeasuredPool, *, vocab_size: int, max_model_len: int, why: str = ""
    ) -> None:
        self._text = text
        self._pool = pool
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self._why = why

    def batch(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[Request]:
        wanted = as_prompts(prompts)
        each = params_for(params, len(wanted), self._text.sampling)
        return [self._request(prompt, one) for prompt, one in zip(wanted, each, strict=True)]

    def one(self, prompt: Prompt, params: SamplingParams | None) -> Request:
        return self._request(as_prompt(prompt), self._one_params(params))

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> Request:
        prompt, ids = self._text.encode_chat(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, variables=variables
        )
        return self._checked(prompt, ids, self._one_params(params))

    def token_ids(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """A list of token ids that may be run at once. Raises UsageError."""
        ids = as_prompt(token_ids, "token_ids")
        if isinstance(ids, str):
            raise UsageError("token_ids: expected a list of token ids, got a text")
        if len(ids) > self.max_model_len:
            why = f": {self._why}" if self._why else ""
            raise UsageError(f"token_ids: {len(ids)} tokens, but max_model_len is {self.max_model_len}{why}")
        check_token_ids(ids, self.vocab_size, "token_ids")
        return ids

    def _one_params(self, params: SamplingParams | None) -> SamplingParams:
        return params_for(params, 1, self._text.sampling)[0]

    def _request(self, prompt: str | tuple[int, ...], params: SamplingParams) -> Request:
        if isinstance(prompt, str):
            return self._checked(prompt, self._text.encode(prompt), params)
        return self._checked(None, prompt, params)

    def _checked(self, prompt: str | None, ids: tuple[int, ...], params: SamplingParams) -> Request:
        if params.stop:
            self._text.required_tokenizer()  # stop strings are texts
        blocks = self._pool.blocks_in_use + self._pool.blocks_available
        limits = Limits(self.vocab_size, self.max_model_len, blocks * BLOCK, self._why)
        return make_request(prompt, ids, params, self._text.eos_ids, limits)
