"""`moestro trace`: what a run did, event by event, and what its routers chose; replays of that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moestro.cli.option_groups import with_option_groups
from moestro.cli.options import EngineOptions
from moestro.cli.trace_record import record
from moestro.cli.trace_replay import replay
from moestro.cli.trace_train import train_path
from moestro.errors import StorageError, UsageError

if TYPE_CHECKING:
    from moestro.trace.timeline import Timeline

app = typer.Typer(add_completion=False, no_args_is_help=True)

_EVENTS = 1 << 18  # 16 MB


@app.callback()
def _trace() -> None:
    """Looks at a run event by event; records what routers chose, and replays it with other policies and machines."""


@app.command()
@with_option_groups
def timeline(
    model: Annotated[str, typer.Argument(help="A directory, a Hugging Face name like org/name, or moestro:demo.")],
    prompt: Annotated[str, typer.Argument(help="The text to go on with.")] = "The",
    *,
    out: Annotated[Path, typer.Option(help="For chrome://tracing and ui.perfetto.dev.")] = Path("timeline.json"),
    plot: Annotated[Path | None, typer.Option(help="An image of the same (needs matplotlib).")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to show: the last ones.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answer.")] = 32,
    host_memory: Annotated[str, typer.Option(help="Memory to stay within: a size like 8GiB, auto or min.")] = "auto",
    engine: EngineOptions,
) -> None:
    """Runs a prompt and writes when each lane computed, read and waited, in the answer's last steps."""
    from moestro.cli.screen import Screen
    from moestro.config import SamplingParams
    from moestro.llm import LLM

    for path in (out, plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.absolute().parent}")
    with Screen(quiet=False) as screen:
        llm = LLM(
            model,
            host_memory=host_memory,
            trace_events=_EVENTS,
            **engine.arguments(),
            say=screen.say,
            progress=screen.bytes,
        )
    with llm:
        llm.generate([prompt], SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True))
        stats = llm.stats()
        shown = llm.timeline().last_steps(steps)
    assert stats is not None
    try:
        _write(shown, out, plot)
    except OSError as error:
        raise StorageError(f"cannot write the timeline: {error}") from error
    begin, end = shown.span
    typer.echo(f"{len(shown.events)} events of {min(steps, stats.steps)} steps, {(end - begin) / 1e6:.1f} ms: {out}")
    for lane, share in stats.busy.items():
        if share > 0:
            queued = stats.queued_s.get(lane)
            behind = "" if queued is None else f", {queued:.3f} s queued behind its own work"
            typer.echo(f"{lane}: busy {share:.0%} of the run{behind}")
    typer.echo(f"bound by: {stats.binding}")


def _write(shown: Timeline, out: Path, plot: Path | None) -> None:
    shown.write_chrome(out)
    if plot is None:
        return
    from moestro.trace.gantt import draw

    try:
        draw(shown, plot)
    except ImportError:
        raise UsageError("--plot needs matplotlib: pip install matplotlib") from None
    typer.echo(f"picture: {plot}")


app.command()(with_option_groups(record))
app.command()(replay)
app.command(name="train-path")(train_path)
