"""`moestro trace record`: runs prompts and writes which experts their tokens used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moestro.cli.options import EngineOptions
from moestro.errors import StorageError, UsageError

if TYPE_CHECKING:
    from moestro.trace.routing import RoutingTrace


def record(
    model: Annotated[str, typer.Argument(help="A directory, a Hugging Face name like org/name, or moestro:demo.")],
    prompt: Annotated[list[str] | None, typer.Argument(help="Texts to go on with.")] = None,
    *,
    prompts: Annotated[Path | None, typer.Option(help="A file with more of them, one per line.")] = None,
    out: Annotated[Path, typer.Option(help="The routing trace, an .npz file.")] = Path("trace.npz"),
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 128,
    ahead: Annotated[int, typer.Option(min=0, help="Also what so many later routers make of each layer's input.")] = 3,
    together: Annotated[bool, typer.Option("--together", help="All prompts as one batch.")] = False,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same tokens.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end token.")] = False,
    host_memory: Annotated[str, typer.Option(help="Memory to stay within: a size like 8GiB, auto or min.")] = "auto",
    expert_slots: Annotated[int | None, typer.Option(help="Exactly so many experts in memory.")] = None,
    engine: EngineOptions,
) -> None:
    """Runs prompts, one after the other, and writes what routers chose and thought, for `moestro trace replay`."""
    from moestro.checkpoint.resolve import resolve_model
    from moestro.cli.screen import Screen
    from moestro.config import SamplingParams
    from moestro.llm import LLM
    from moestro.text.model_text import read_model_text
    from moestro.trace.routing import write_routing_trace

    texts = [*(prompt or []), *_lines(prompts)]
    if not texts:
        raise UsageError("no prompt: give one or more, or a file of them with --prompts")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.absolute().parent}")
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed, ignore_eos=ignore_eos)
    with Screen(quiet=False) as screen:
        text = read_model_text(resolve_model(model, screen.say))
        tokens = sum(len(text.encode(one)) + max_tokens for one in texts)
        llm = LLM(
            model,
            host_memory=host_memory,
            expert_slots=expert_slots,
            record_tokens=tokens,
            record_ahead=ahead,
            **engine.arguments(),
            say=screen.say,
            progress=screen.bytes,
        )
    with llm:
        if not llm.report().experts:
            raise UsageError(f"{model}: a model without experts has no routing to record")
        for batch in [texts] if together else [[one] for one in texts]:
            llm.generate(batch, params)
        trace = llm.routing()
    write_routing_trace(out, trace)
    typer.echo(f"{summary(trace)}: {out}, {_size(out)}")


def summary(trace: RoutingTrace) -> str:
    """Tokens, steps, layers and experts of a trace that can be replayed. Raises CheckpointError for another."""
    experts = trace.array("experts").tolist()
    each = " or ".join(map(str, sorted(set(experts))))
    layers, tokens, top_k = trace.chosen.shape
    steps = len(trace.array("step_rows"))
    return f"{tokens} tokens in {steps} steps, {layers} layers of {each} experts, {top_k} per token"


def _lines(path: Path | None) -> Sequence[str]:
    if path is None:
        return ()
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise StorageError(f"{path}: cannot read the prompts: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot read the prompts: expected UTF-8 text, one prompt per line") from error


def _size(path: Path) -> str:
    from moestro.units import format_bytes

    return format_bytes(path.stat().st_size)
