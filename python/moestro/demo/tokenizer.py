"""A small byte-level BPE tokenizer for random models, trained on text every Python brings: its own documentation."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

VOCAB_SIZE = 4096
END_TOKEN = "<|im_end|>"
START_TOKEN = "<|im_start|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer() -> tokenizers.Tokenizer:
    """At most VOCAB_SIZE tokens, fewer where the text does not suffice; any text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[START_TOKEN, END_TOKEN],
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _texts() -> Iterator[str]:
    for owner in vars(builtins).values():
        for value in (owner, *vars(type(owner)).values(), *getattr(owner, "__dict__", {}).values()):
            text = getattr(value, "__doc__", None)
            if isinstance(text, str):
                yield text
