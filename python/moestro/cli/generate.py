"""`moestro generate`: one prompt, one answer (or several), as it is written."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from moestro.cli.option_groups import with_option_groups
from moestro.cli.options import EngineOptions, SamplingOptions
from moestro.errors import UsageError

if TYPE_CHECKING:
    from moestro.gen.prompts import Prompt

app = typer.Typer(add_completion=False)


@app.command()
@with_option_groups
def generate(
    model: Annotated[str, typer.Argument(help="A directory, a Hugging Face name like org/name, or moestro:demo.")],
    prompt: Annotated[str | None, typer.Argument(help="The text to go on with; - or nothing reads stdin.")] = None,
    *,
    token_ids: Annotated[str | None, typer.Option(help="The prompt as token ids: 1,2,3.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 128,
    n: Annotated[int, typer.Option(help="How many answers.")] = 1,
    host_memory: Annotated[str, typer.Option(help="Memory to stay within: a size like 8GiB, auto or min.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object when done.")] = False,
    engine: EngineOptions,
    sampling: SamplingOptions,
) -> None:
    """Goes on with a text. The answer goes to stdout, everything else to stderr."""
    from moestro.cli.answering import answer_as_json, answer_as_text
    from moestro.cli.screen import Screen
    from moestro.llm import LLM

    wanted = _prompt(prompt, token_ids)
    with Screen(quiet=json) as screen:
        llm = LLM(model, host_memory=host_memory, **engine.arguments(), say=screen.say, progress=screen.bytes)
    with llm:
        params = replace(sampling.params(llm.get_default_sampling_params(), max_tokens), n=n)
        (answer_as_json if json else answer_as_text)(llm, wanted, params)


def _prompt(text: str | None, token_ids: str | None) -> Prompt:
    if token_ids is not None:
        if text is not None:
            raise UsageError("give a prompt or --token-ids, not both")
        try:
            return [int(token) for token in token_ids.split(",")]
        except ValueError:
            raise UsageError(f"--token-ids: expected numbers like 1,2,3, got {token_ids!r}") from None
    if text is not None and text != "-":
        return text
    if sys.stdin.isatty():
        raise UsageError("no prompt: give one, or pipe it in")
    return sys.stdin.read()
