"""`moestro demo`: the model that comes with the package, run in less memory than it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

_PROMPT = "def parse_args(args):"


@app.command()
def demo(
    prompt: Annotated[str, typer.Argument(help="The text to go on with: Python, or prose about it.")] = _PROMPT,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 200,
    host_memory: Annotated[
        str | None, typer.Option(help="Memory to stay within; room for a quarter of the experts by default.")
    ] = None,
    math: Annotated[str, typer.Option(help="exact, or fast: rounds what bf16 weights multiply to bf16.")] = "exact",
    seed: Annotated[int, typer.Option(help="The same seed draws the same tokens.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object when done.")] = False,
) -> None:
    """Runs moestro:demo, a tiny MoE model that has read Python's library, with room for a quarter of its experts.

    It writes what looks like Python. The same model with every option: moestro generate moestro:demo "import "
    """
    from moestro.checkpoint.built_in import built_in_directory
    from moestro.cli.answering import answer_as_json, answer_as_text
    from moestro.cli.screen import Screen
    from moestro.demo.budget import PREFILL_CHUNK, quarter_budget
    from moestro.llm import LLM

    model = "moestro:demo"
    with Screen(quiet=json) as screen:
        memory = host_memory or quarter_budget(built_in_directory(model), math)
        llm = LLM(
            model, host_memory=memory, prefill_chunk=PREFILL_CHUNK, math=math, say=screen.say, progress=screen.bytes
        )
    with llm:
        if not json:
            print(prompt, end="", flush=True)
        params = replace(llm.get_default_sampling_params(), max_tokens=max_tokens, seed=seed)
        (answer_as_json if json else answer_as_text)(llm, prompt, params)
