"""`moestro trace train-path`: learns to foresee whole routing paths from a routing trace."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from moestro.errors import UsageError


def train_path(
    trace: Annotated[Path, typer.Argument(help="What `moestro trace record` wrote.")],
    *,
    out: Annotated[Path, typer.Option(help="The weights, for --prefetch path.")] = Path("path.npz"),
    width: Annotated[int, typer.Option(min=1, help="Of the predictor's hidden state.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Times it reads the trace.")] = 30,
    seed: Annotated[int, typer.Option(help="The same seed trains the same weights.")] = 0,
) -> None:
    """Trains ExpertFlow's predictor of whole routing paths on a routing trace (needs torch; a few thousand tokens)."""
    from moestro.trace.path_weights import write_path_weights
    from moestro.trace.routing import read_routing_trace

    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.absolute().parent}")
    read = read_routing_trace(trace)
    tokens, experts = read.array("tokens"), [int(count) for count in read.array("experts")]
    try:
        from moestro.learn.path import train_path as train

        begin = time.perf_counter()
        weights = train(tokens, read.chosen, experts, int(tokens.max()) + 1, width, epochs, seed)
    except ImportError:
        raise UsageError("train-path needs torch: pip install torch") from None
    write_path_weights(out, weights, experts)
    seconds = time.perf_counter() - begin
    typer.echo(
        f"learnt from {len(tokens)} tokens in {seconds:.0f} s: {out}, for --prefetch path --prefetch-trace {out}"
    )
