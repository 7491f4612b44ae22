"""`moestro cache`: what moestro has put on the disk of its own accord."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Shows and deletes packed copies.")


@app.command()
def ls(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Lists what is there and how large it is."""
    from moestro.cache_dir import cache_root, entries
    from moestro.units import format_bytes

    found = entries()
    if json:
        print(dumps({"root": str(cache_root()), "entries": [{**asdict(one), "path": str(one.path)} for one in found]}))
        return
    for entry in found:
        print(f"{format_bytes(entry.nbytes):>12}  {entry.name}{'' if entry.finished else '  (unfinished)'}")
    print(f"{format_bytes(sum(entry.nbytes for entry in found)):>12}  in {cache_root()}")


@app.command()
def rm(
    names: Annotated[list[str] | None, typer.Argument(help="Names as `moestro cache ls` shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Deletes entries; what is needed again is made again."""
    from moestro.cache_dir import entries, remove
    from moestro.errors import UsageError
    from moestro.units import format_bytes

    if bool(names) == everything:
        raise UsageError("give the names of entries, or --all")
    for name in names or [entry.name for entry in entries()]:
        entry = remove(name)
        print(f"deleted {entry.name}, {format_bytes(entry.nbytes)}")
