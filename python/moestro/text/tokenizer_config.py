"""What the tokenizer's side files say: names of special tokens, and chat templates by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moestro.checkpoint.strict_json import read_object
from moestro.errors import CheckpointError, StorageError

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"

DEFAULT_TEMPLATE = "default"


@dataclass(frozen=True)
class TokenizerConfig:
    special_tokens: dict[str, str] = field(default_factory=dict)  # "bos_token" -> "<s>", as templates name them
    templates: dict[str, str] = field(default_factory=dict)  # "default", "tool_use", ... -> jinja source


def read_tokenizer_config(directory: Path) -> TokenizerConfig:
    """Missing files say nothing. Raises CheckpointError, StorageError."""
    config = _optional_object(directory / CONFIG_FILE)
    names = {**_optional_object(directory / SPECIAL_TOKENS_FILE), **config}
    special = {key: _content(value) for key, value in names.items() if key.endswith("_token")}
    templates = _inline_templates(config.get("chat_template"), directory / CONFIG_FILE)
    files = {path.stem: path for path in sorted((directory / MORE_TEMPLATES).glob("*.jinja"))}
    files[DEFAULT_TEMPLATE] = directory / TEMPLATE_FILE
    templates |= {name: _text(path) for name, path in files.items() if path.exists()}
    return TokenizerConfig({key: text for key, text in special.items() if text is not None}, templates)


def _content(value: Any) -> str | None:
    """A token is written as its text, or as an object that holds it."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _inline_templates(value: Any, path: Path) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT_TEMPLATE: value}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        pairs = [(entry.get("name"), entry.get("template")) for entry in value]
        if all(isinstance(name, str) and isinstance(text, str) for name, text in pairs):
            return dict(pairs)
    raise CheckpointError(f"{path}: chat_template: expected a template or a list of names and templates")


def _optional_object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text: {error}") from error
