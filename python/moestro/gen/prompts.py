"""What callers may pass as prompts."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeAlias

from moestro.config import SamplingParams
from moestro.errors import UsageError

Prompt: TypeAlias = str | Sequence[int]  # text, or token ids


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[str | tuple[int, ...]]:
    """One prompt or a list of them, as a list. Raises UsageError."""
    if isinstance(prompts, str) or _is_token_ids(prompts):
        return [as_prompt(prompts)]
    if not isinstance(prompts, Sequence):
        raise UsageError(f"prompts: expected a text, token ids or a list of these, got {type(prompts).__name__}")
    return [as_prompt(prompt, f"prompts[{place}]") for place, prompt in enumerate(prompts)]


def as_prompt(prompt: Any, what: str = "prompt") -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Sequence) and not prompt:
        raise UsageError(f"{what}: there is no token in it; a prompt has at least one")
    if not _is_token_ids(prompt):
        raise UsageError(f"{what}: expected a text or a list of token ids, got {type(prompt).__name__}: {prompt!r:.80}")
    return tuple(operator.index(token) for token in prompt)


def params_for(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int, default: SamplingParams
) -> list[SamplingParams]:
    """One SamplingParams per prompt: the same for all, one each, or the model's own. Raises UsageError."""
    if params is None or isinstance(params, SamplingParams):
        return [params or default] * count
    if isinstance(params, Sequence) and all(isinstance(one, SamplingParams) for one in params):
        if len(params) == count:
            return list(params)
        raise UsageError(f"sampling_params: {len(params)} for {count} prompts; give one, or one per prompt")
    raise UsageError(f"sampling_params: expected SamplingParams or a list of them, got {type(params).__name__}")


def _is_token_ids(prompt: Any) -> bool:
    """A non-empty sequence (or 1-D array) of integers."""
    try:
        items = list(prompt)
    except TypeError:
        return False
    return bool(items) and all(isinstance(item, Integral) and not isinstance(item, bool) for item in items)
