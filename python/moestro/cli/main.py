"""`moestro`: finds the subcommand, and turns errors into one message and an exit code.

Exit codes: 0 done, 1 an error of moestro (one message, no traceback unless --debug), 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moestro.errors import MoestroError

# Name -> module, in the order of the help.
_COMMANDS = {
    "demo": "moestro.cli.demo",
    "generate": "moestro.cli.generate",
    "chat": "moestro.cli.chat",
    "pack": "moestro.cli.pack",
    "cache": "moestro.cli.cache",
    "inspect": "moestro.cli.inspect",
    "models": "moestro.cli.models",
    "trace": "moestro.cli.trace",
    "doctor": "moestro.cli.doctor",
}

_DEBUG = "--debug"


class _Group(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        command = typer.main.get_command(importlib.import_module(_COMMANDS[cmd_name]).app)
        command.name = cmd_name
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """--debug may stand anywhere before a `--`."""
        end = args.index("--") if "--" in args else len(args)
        before = [word for word in args[:end] if word != _DEBUG]
        debug = [_DEBUG] if len(before) < end else []
        return super().parse_args(ctx, [*debug, *before, *args[end:]])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("cancelled", err=True)
            raise typer.Exit(130) from None
        except MoestroError as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"moestro: {error}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        from moestro import __version__

        typer.echo(f"moestro {__version__}")
        raise typer.Exit


@app.callback()
def _moestro(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show the traceback of an error.")] = False,
) -> None:
    """Runs Mixture-of-Experts language models larger than memory, experts streamed from SSD under a hard budget."""


def main() -> None:
    """The entry point of the installed command."""
    sys.exit(app(prog_name="moestro"))
