"""`moestro doctor`: what this machine offers, what of it is used, and why the rest is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moestro.plan.machine import Fact, Machine
    from moestro.plan.rates import Rate

app = typer.Typer(add_completion=False)

Row = tuple[str, str, str]  # what, its state, detail


@app.command()
def doctor(
    disk: Annotated[
        Path | None,
        typer.Option(
            help="A file to read, or a directory to write 256 MiB to for a moment; where the cache is by default."
        ),
    ] = None,
    measure: Annotated[bool, typer.Option(help="Measure memory and disk, a few seconds.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Shows instruction sets, cores, memory, disk speed, readers, devices and versions: active or refused, and why."""
    from moestro.cli.screen import Screen
    from moestro.plan.machine import inspect_machine

    place = disk or _existing_parent()
    with Screen(quiet=json) as screen:
        if measure:
            screen.say(f"measuring memory and the disk of {place}")
        machine = inspect_machine(disk=place, measure=measure)
    if json:
        print(dumps(asdict(machine)))
    else:
        _print(machine)


def _existing_parent() -> Path:
    from moestro.cache_dir import cache_root

    root = cache_root()
    return next(folder for folder in (root, *root.parents) if folder.is_dir())


def _print(machine: Machine) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for overflow in ("fold", "fold", "fold"):
        table.add_column(overflow=overflow)
    for row in _rows(machine):
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def _rows(machine: Machine) -> Iterator[Row]:
    from moestro.units import format_bytes

    yield "cpu", "", f"{machine.cpu}: {machine.cores} cores, {machine.processors} hardware threads"
    yield "memory", "", f"{format_bytes(machine.memory_bytes)}, {format_bytes(machine.available_bytes)} available"
    yield from map(_fact, machine.memory)
    yield from map(_fact, machine.instruction_sets)
    yield _fact(machine.fast_math)
    yield from map(_fact, machine.devices)
    yield from map(_fact, machine.settings)
    if machine.memory_rate is not None:
        yield _rate(machine.memory_rate)
    yield "disk", "", machine.disk
    yield from map(_rate, machine.disk_rates)
    yield "versions", "", ", ".join(f"{name} {version}" for name, version in machine.versions.items())


def _fact(fact: Fact) -> Row:
    return fact.name, "active" if fact.active else "refused", fact.detail


def _rate(rate: Rate) -> Row:
    if rate.bytes_per_second is None:
        return rate.name, "refused", rate.reason
    return rate.name, "active", f"{rate.bytes_per_second / 1e9:.2f} GB/s"
