"""`moestro inspect`: what a model holds, from its headers alone."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moestro.checkpoint.inspect import ModelSummary
    from moestro.cli.screen import Screen

app = typer.Typer(add_completion=False)

# Classes that are not kept in memory whole: where they are, instead.
_PLACES = {"experts": "SSD, cached in memory", "embedding": "SSD, read by row"}


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A directory, a Hugging Face name like org/name, or moestro:demo.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every checksum of a packed store.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Shows layers, experts, and bytes by class, format and tier, without loading anything."""
    from moestro.checkpoint.resolve import resolve_model
    from moestro.cli.screen import Screen
    from moestro.models.describe import describe_model

    with Screen(quiet=json) as screen:
        directory = resolve_model(model, screen.say)
        if verify:
            _verify(directory, screen)
    summary = describe_model(directory)
    if json:
        totals = {"parameters": summary.parameters, "nbytes": summary.nbytes}
        print(dumps({"directory": str(directory), **asdict(summary), **totals}))
        return
    print(f"{directory}: {summary.model_type}, {summary.layers} layers, {_experts(summary)}")
    _print_classes(summary)


def _verify(directory: Path, screen: Screen) -> None:
    from moestro.checkpoint.store_format import is_store
    from moestro.checkpoint.verify import verify_store
    from moestro.errors import UsageError
    from moestro.units import format_bytes

    if not is_store(directory):
        raise UsageError(f"--verify: {directory} is no packed store; a Hugging Face checkpoint carries no checksums")
    nbytes = verify_store(directory, lambda done, total: screen.bytes("verifying", done, total))
    screen.say(f"{format_bytes(nbytes)} are what was packed")


def _experts(summary: ModelSummary) -> str:
    from moestro.units import format_bytes

    counts = sorted({count for count in summary.experts if count})
    if not counts:
        return "dense"
    sizes = sorted({nbytes for nbytes in summary.expert_bytes if nbytes})
    layers = sum(1 for count in summary.experts if count)
    per_layer = " or ".join(map(str, counts))
    each = " or ".join(map(format_bytes, sizes))
    return f"{sum(summary.experts)} experts ({per_layer} in each of {layers} layers) of {each}"


def _print_classes(summary: ModelSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    from moestro.units import format_bytes

    table = Table(box=None, pad_edge=False)
    for title in ("class", "format", "parameters", "bytes", "tier"):
        table.add_column(title, justify="right" if title in ("parameters", "bytes") else "left", no_wrap=True)
    for entry in summary.classes:
        place = _PLACES.get(entry.kind, "memory")
        table.add_row(entry.kind, entry.format, f"{entry.parameters:,}", format_bytes(entry.nbytes), place)
    table.add_row("all", "", f"{summary.parameters:,}", format_bytes(summary.nbytes), "")
    Console(highlight=False).print(table)
