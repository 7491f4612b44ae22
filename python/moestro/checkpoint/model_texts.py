"""The small files of a checkpoint that a packed store takes along: tokenizer, chat templates, settings, licence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moestro.errors import StorageError

_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.*",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
)


def model_texts(directory: Path) -> Iterator[tuple[str, bytes]]:
    """(name relative to `directory`, content). Links are followed. Raises StorageError."""
    for path in sorted({path for pattern in _PATTERNS for path in directory.glob(pattern) if path.is_file()}):
        try:
            yield path.relative_to(directory).as_posix(), path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
