"""`moestro chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from moestro.cli.option_groups import with_option_groups
from moestro.cli.options import EngineOptions, SamplingOptions

if TYPE_CHECKING:
    from moestro.config import SamplingParams
    from moestro.llm import LLM

app = typer.Typer(add_completion=False)

_HELP = "/reset forgets the conversation, /exit (or Ctrl-D) leaves; Ctrl-C ends an answer"


@app.command()
@with_option_groups
def chat(
    model: Annotated[str, typer.Argument(help="A directory, a Hugging Face name like org/name, or moestro:demo.")],
    *,
    system: Annotated[str | None, typer.Option(help="What the model is told beforehand.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens per answer; as many as fit by default.")] = None,
    host_memory: Annotated[str, typer.Option(help="Memory to stay within: a size like 8GiB, auto or min.")] = "auto",
    engine: EngineOptions,
    sampling: SamplingOptions,
) -> None:
    """Talks with a model; earlier turns are not read again. Lines come from stdin, so a script can talk too."""
    from moestro.cli.screen import Screen
    from moestro.llm import LLM

    with Screen() as screen:
        llm = LLM(model, host_memory=host_memory, **engine.arguments(), say=screen.say, progress=screen.bytes)
    with llm:
        print(_HELP, file=sys.stderr)
        _converse(llm, sampling.params(llm.get_default_sampling_params(), max_tokens), system)


def _converse(llm: LLM, params: SamplingParams, system: str | None) -> None:
    beginning = [{"role": "system", "content": system}] if system else []
    messages = list(beginning)
    while (line := _next_line()) is not None:
        if line == "/exit":
            return
        if line == "/reset":
            messages = list(beginning)
        elif line.strip():
            messages.append({"role": "user", "content": line})
            _answer(llm, messages, params)


def _next_line() -> str | None:
    """None at the end of the input. The prompt is shown to people only."""
    try:
        return input("\n> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _answer(llm: LLM, messages: list[dict[str, str]], params: SamplingParams) -> None:
    """Adds the answer to the messages; a cancelled one as far as it got."""
    from moestro.cli.answering import closing_stats, write_chunks
    from moestro.cli.screen import Screen

    said: list[str] = []
    try:
        with Screen() as screen, closing_stats(llm):
            chunks = llm.stream_chat(messages, params, on_prefill=screen.prompt)
            write_chunks(llm, chunks, screen, said)
    except KeyboardInterrupt:
        print("(ended)", file=sys.stderr)
    messages.append({"role": "assistant", "content": "".join(said)})
