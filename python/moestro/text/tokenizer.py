"""tokenizer.json through the `tokenizers` package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moestro.errors import CheckpointError
from moestro.memory_limits import anonymous_bytes

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILE = "tokenizer.json"


class Tokenizer:
    """Thread-safe: nothing in it changes."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, nbytes: int = 0) -> None:
        """nbytes: memory it was seen to take."""
        self._tokenizer = tokenizer
        self.nbytes = nbytes

    @property
    def vocab_size(self) -> int:
        """Token ids known by name, added ones included; a model's vocabulary may be padded beyond it."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """add_special_tokens: what the tokenizer puts around a text of its own accord, such as a start token."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Without special tokens; bytes that are no UTF-8 show as U+FFFD."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def piece(self, token: int) -> str:
        """One token as text, special ones by name."""
        return str(self._tokenizer.decode([token], skip_special_tokens=False))

    def token_id(self, name: str) -> int | None:
        token = self._tokenizer.token_to_id(name)
        return None if token is None else int(token)


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """None where the directory has no tokenizer.json. Raises CheckpointError where it cannot be read."""
    path = directory / TOKENIZER_FILE
    if not path.exists():
        return None
    import tokenizers

    before = anonymous_bytes()
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exceptions
        raise CheckpointError(f"{path} is not a tokenizer this version of `tokenizers` can read: {error}") from error
    tokenizer.no_truncation()  # some files carry the settings of their last use
    tokenizer.no_padding()
    return Tokenizer(tokenizer, max(0, anonymous_bytes() - before))


def missing_tokenizer(directory: Path) -> str:
    """The sentence for a text prompt where there is no tokenizer."""
    return (
        f"{directory} has no {TOKENIZER_FILE}, so text cannot become tokens: pass prompts as lists of token ids, or "
        "make the file with transformers: AutoTokenizer.from_pretrained(directory).save_pretrained(directory)"
    )
