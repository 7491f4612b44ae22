"""`moestro models`: which families run, and what is special about each."""

from __future__ import annotations

from json import dumps
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def models(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Lists the model types that run, as config.json names them."""
    from moestro.models.registry import families

    rows = [
        {
            "model_type": family.model_type,
            "experts": not family.dense,
            "architectures": list(family.architectures),
            "examples": family.examples,
            "about": family.about,
        }
        for family in families()
    ]
    if json:
        print(dumps({"models": rows}))
        return
    width = max(len(str(row["model_type"])) for row in rows)
    for title, experts in (("Mixtures of experts", True), ("Dense models", False)):
        print(f"{title}:")
        for row in rows:
            if row["experts"] == experts:
                print(f"  {row['model_type']:<{width}}  {row['examples']}\n  {'':<{width}}    {row['about']}")
