"""One prompt on its way through the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moestro.config import SamplingParams
from moestro.errors import UsageError
from moestro.units import format_bytes


@dataclass(frozen=True)
class Request:
    """A prompt whose lengths have been checked; see `make_request`."""

    prompt: str | None
    prompt_ids: tuple[int, ...]  # at least one
    params: SamplingParams
    eos_ids: frozenset[int]
    max_new: int  # tokens per answer, at least 1

    @property
    def positions(self) -> int:
        """KV positions one answer needs at most: the last token of an answer is never run through the model."""
        return len(self.prompt_ids) + self.max_new - 1


@dataclass(frozen=True)
class Limits:
    """What a model on this machine can hold."""

    vocab_size: int
    max_model_len: int  # tokens, prompt and answer together
    kv_positions: int  # positions that fit the memory budget, one sequence alone
    why: str = ""  # max_model_len is what it is, where nobody chose it


def make_request(
    prompt: str | None,
    prompt_ids: tuple[int, ...],
    params: SamplingParams,
    eos_ids: frozenset[int],
    limits: Limits,
) -> Request:
    """Raises UsageError for an empty, too long or impossible prompt. Whether its KV fits is asked at admission."""
    if not prompt_ids:
        raise UsageError("prompt: expected at least one token, got none; models without a start token need some text")
    check_token_ids(prompt_ids, limits.vocab_size, "prompt")
    room = limits.max_model_len - len(prompt_ids)
    if room < 1:
        advice = f": {limits.why}; shorten the prompt" if limits.why else "; shorten the prompt or raise max_model_len"
        raise UsageError(
            f"prompt: {len(prompt_ids)} tokens, but max_model_len is {limits.max_model_len} and an answer needs at"
            f" least one{advice}"
        )
    if params.max_tokens is not None:
        room = min(room, params.max_tokens)
    else:  # as much as the model and the memory can hold
        room = max(1, min(room, limits.kv_positions - len(prompt_ids) + 1))
    return Request(prompt, prompt_ids, params, eos_ids, room)


def check_token_ids(token_ids: Sequence[int], vocab_size: int, what: str) -> None:
    """Raises UsageError for an id that the model does not have."""
    for token in token_ids:
        if not 0 <= token < vocab_size:
            raise UsageError(f"{what}: token id {token} is outside the vocabulary [0, {vocab_size})")


def kv_refusal(request: Request, blocks: int, capacity: int, block_bytes: int) -> str:
    """The sentence for a request whose KV cannot fit, with its arithmetic."""
    need, have = blocks * block_bytes, capacity * block_bytes
    return (
        f"prompt of {len(request.prompt_ids)} tokens with up to {request.max_new} new ones, {request.params.n} "
        f"answer(s), needs {blocks} KV blocks of {format_bytes(block_bytes)} = {format_bytes(need)}, but the memory "
        f"budget leaves {capacity} = {format_bytes(have)}; {format_bytes(need - have)} are missing: raise host_memory, "
        "shorten the prompt, or lower max_tokens or n"
    )
