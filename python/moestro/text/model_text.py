"""The text side of one model directory, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moestro.config import SamplingParams
from moestro.errors import UsageError
from moestro.text.chat import ChatTemplates, Message
from moestro.text.generation_config import read_generation_defaults
from moestro.text.tokenizer import Tokenizer, load_tokenizer, missing_tokenizer
from moestro.text.tokenizer_config import read_tokenizer_config

LARGE_TOKENIZER = 8 << 20  # bytes


@dataclass(frozen=True)
class ModelText:
    directory: Path
    tokenizer: Tokenizer | None
    templates: ChatTemplates
    eos_ids: frozenset[int]
    sampling: SamplingParams  # the model's own defaults

    def encode(self, text: str) -> tuple[int, ...]:
        """Raises UsageError where there is no tokenizer."""
        return tuple(self.required_tokenizer().encode(text))

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> tuple[str, tuple[int, ...]]:
        """The prompt as text and as tokens; the template writes special tokens out, so none are added."""
        tokenizer = self.required_tokenizer()
        prompt = self.templates.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, variables=variables
        )
        return prompt, tuple(tokenizer.encode(prompt, add_special_tokens=False))

    @property
    def held_bytes(self) -> int:
        """What a memory budget must count: a tokenizer of 150,000 tokens takes 100 MB, a small one less than the
        interpreter's own heap moves."""
        nbytes = self.tokenizer.nbytes if self.tokenizer else 0
        return nbytes if nbytes >= LARGE_TOKENIZER else 0

    def required_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UsageError(missing_tokenizer(self.directory))
        return self.tokenizer


def read_model_text(directory: Path) -> ModelText:
    """Missing files are no error here; using them is. Raises CheckpointError, StorageError for broken ones."""
    tokenizer = load_tokenizer(directory)
    config = read_tokenizer_config(directory)
    defaults = read_generation_defaults(directory)
    eos = defaults.eos_ids
    named = config.special_tokens.get("eos_token")
    if tokenizer is not None and named is not None:
        # As vLLM does: the tokenizer's end token ends an answer whatever generation_config.json adds.
        own = tokenizer.token_id(named)
        eos = eos if own is None else eos | {own}
    return ModelText(directory, tokenizer, ChatTemplates(config, directory), eos, defaults.sampling)
