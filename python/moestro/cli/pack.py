"""`moestro pack`: a checkpoint into a packed store."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="A directory, a Hugging Face name like org/name, or moestro:demo.")],
    destination: Annotated[Path, typer.Argument(help="The directory to make.")],
    format: Annotated[str, typer.Option(help="f32, bf16, q8 or q4.")] = "q8",
    trunk_format: Annotated[str | None, typer.Option(help="Another format for all but the experts.")] = None,
    stripe: Annotated[
        list[Path] | None,
        typer.Option(help="A directory on another drive that shares the weights; may be repeated."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object when done.")] = False,
) -> None:
    """Packs a checkpoint so that one expert is one read. Stopped, it goes on where it was when started again."""
    from moestro.checkpoint.resolve import resolve_model
    from moestro.cli.screen import Screen
    from moestro.pack import pack_checkpoint
    from moestro.units import format_bytes

    with Screen(quiet=json) as screen:
        directory = resolve_model(source, screen.say)
        made = pack_checkpoint(
            directory,
            destination,
            format,
            trunk_format=trunk_format,
            stripe=stripe or (),
            threads=threads,
            progress=lambda done, total: screen.bytes("packing", done, total),
            say=screen.say,
        )
    nbytes = sum(path.stat().st_size for path in made.iterdir() if path.is_file())
    if json:
        print(dumps({"source": str(directory), "destination": str(made), "format": format, "bytes": nbytes}))
    else:
        print(f"{made}: {format_bytes(nbytes)}, {format}")
