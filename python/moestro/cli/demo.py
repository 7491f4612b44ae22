"""`moestro demo`: a model larger than the memory it is given, made on the spot and run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

_PROMPT = "The experts of this model do not fit in memory, so"


@app.command()
def demo(
    prompt: Annotated[str, typer.Argument(help="The text to go on with.")] = _PROMPT,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 128,
    host_memory: Annotated[
        str | None, typer.Option(help="Memory to stay within; room for a quarter of the experts by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same tokens.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object when done.")] = False,
) -> None:
    """Runs a random-weight MoE model of about 1 GB with room for a quarter of its experts.

    The model is made once (and kept: see `moestro cache`), in the form a model from Hugging Face has.
    """
    from moestro.cli.answering import answer_as_json, answer_as_text
    from moestro.cli.screen import Screen
    from moestro.config import SamplingParams
    from moestro.demo.budget import PREFILL_CHUNK, quarter_budget
    from moestro.demo.model import demo_directory, make_demo_model
    from moestro.llm import LLM

    with Screen(quiet=json) as screen:
        if not demo_directory().exists():
            screen.say("making the demo model, about 1 GB of random weights (once)")
        directory = make_demo_model(lambda done, total: screen.bytes("making the demo model", done, total))
        memory = host_memory or quarter_budget(directory)
        llm = LLM(directory, host_memory=memory, prefill_chunk=PREFILL_CHUNK, say=screen.say, progress=screen.bytes)
    with llm:
        if not json:
            print("The weights are random, so the text is noise; what counts are the numbers.", file=sys.stderr)
        params = SamplingParams(max_tokens=max_tokens, seed=seed, ignore_eos=True)
        (answer_as_json if json else answer_as_text)(llm, prompt, params)
