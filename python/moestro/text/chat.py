"""Messages to a prompt through the model's own chat template.

A template is code from a checkpoint, so it runs in jinja2's immutable sandbox and sees only what transformers would
show it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moestro.errors import CheckpointError, UsageError
from moestro.text.tokenizer_config import DEFAULT_TEMPLATE, TokenizerConfig

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]  # at least "role" and "content"


class ChatTemplates:
    """The templates of one model. Thread-safe: nothing in it changes."""

    def __init__(self, config: TokenizerConfig, directory: Path) -> None:
        self._config = config
        self._directory = directory

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, special tokens written out. `variables` are further names for the template.

        Raises UsageError where there is no template, or where the template refuses the messages; CheckpointError where
        the template itself is broken.
        """
        import jinja2

        _check_messages(messages)
        source = self._source("tool_use" if tools else DEFAULT_TEMPLATE)
        names = {**self._config.special_tokens, **(variables or {})}
        try:
            template = _environment().from_string(source)
            return template.render(
                **names,
                messages=[dict(message) for message in messages],
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except (jinja2.TemplateSyntaxError, jinja2.exceptions.SecurityError) as error:
            raise CheckpointError(f"chat template of {self._directory}: {error}") from error
        except jinja2.TemplateError as error:
            raise UsageError(f"chat template of {self._directory} refuses these messages: {error}") from error
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            raise UsageError(f"chat template of {self._directory} cannot use these messages: {error!r}") from error

    def _source(self, wanted: str) -> str:
        templates = self._config.templates
        source = templates.get(wanted, templates.get(DEFAULT_TEMPLATE))
        if source is None:
            raise UsageError(
                f"{self._directory} has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json): it is not a chat model; use generate() with a prompt of your own"
            )
        return source


def _check_messages(messages: Sequence[Message]) -> None:
    if isinstance(messages, (str, Mapping)) or not messages:
        raise UsageError(f"messages: expected a list like [{{'role': 'user', 'content': '...'}}], got {messages!r}")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(f"messages[{place}]: expected a mapping with a role and a content, got {message!r}")


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives a template, so that templates written for it render the same."""
    import jinja2.ext
    import jinja2.sandbox

    from moestro.text.chat_names import GenerationBlock, TemplateDict, TemplateNamespace

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = TemplateDict()
    environment.globals["namespace"] = TemplateNamespace
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML characters, which no model expects."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
