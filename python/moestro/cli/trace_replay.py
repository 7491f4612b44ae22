"""`moestro trace replay`: what another cache, policy, predictor or machine would have made of a recorded run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moestro.errors import StorageError, UsageError

if TYPE_CHECKING:
    from moestro.trace.replays import Learnt, Platform, Replayed
    from moestro.trace.routing import RoutingTrace

_ALL = "all"
_RECORDED = "recorded"


def replay(
    trace: Annotated[Path, typer.Argument(help="What `moestro trace record` wrote.")],
    *,
    policy: Annotated[str, typer.Option(help="Names with commas between them, or all.")] = _ALL,
    prefetch: Annotated[str, typer.Option(help="The same, of predictors.")] = "none",
    planner: Annotated[
        str | None, typer.Option(help="The same, of planners: on a machine with a device.  [default: hybrid]")
    ] = None,
    memory: Annotated[
        str, typer.Option(help="Caches: shares of all experts, sizes like 2GiB, or numbers of experts.")
    ] = "12.5%,25%,50%,75%",
    host_memory: Annotated[
        str | None,
        typer.Option(
            help="With a device, in one of these words: host memory, empty at first; else all experts are in it."
        ),
    ] = None,
    copies: Annotated[
        str, typer.Option(help="Experts of the device in host memory too: inclusive, exclusive.")
    ] = "inclusive",
    machine: Annotated[
        str, typer.Option(help="recorded: what the run took; a machine that comes along; a file; or emulated:...")
    ] = _RECORDED,
    model: Annotated[
        str | None, typer.Option(help="With another machine: whose experts they are (their size and work).")
    ] = None,
    learn: Annotated[
        Path | None, typer.Option(help="Another trace of the model, for static, transition and activation.")
    ] = None,
    learn_first: Annotated[
        str | None, typer.Option(help="Or a share like 50% of this one's steps, which are then not replayed.")
    ] = None,
    path_weights: Annotated[Path | None, typer.Option(help="What path learnt.")] = None,
    skip: Annotated[str, typer.Option(help="Share of the steps that only fill the cache.")] = "0%",
    plot: Annotated[Path | None, typer.Option(help="An image (needs matplotlib).")] = None,
    json: Annotated[Path | None, typer.Option(help="A file for the same figures.")] = None,
) -> None:
    """Replays a recorded run in virtual time: hits beside the best possible, bytes and time per token.

    On a machine with a device the cache is in its memory, hits are experts found there, and bytes cross its link.
    """
    from moestro.cli.trace_record import summary
    from moestro.trace.replays import Replayer, grid, parse_share, parse_slots, replay_grid
    from moestro.trace.routing import read_routing_trace

    _check_folders(plot, json)
    recorded = read_routing_trace(trace)
    platform = _platform(recorded, machine, model)
    head = f"{trace}: {recorded.model or 'a model'}, {summary(recorded)}"
    recorded, learnt = _learnt(recorded, learn, learn_first, path_weights)
    steps = len(recorded.array("step_rows"))
    first_step = int(parse_share(skip, "--skip") * steps)
    if first_step >= steps:
        raise UsageError(f"--skip {skip}: leaves none of {steps} steps to count")
    if host_memory is not None and not platform.has_device:
        raise UsageError(f"--host-memory: {platform.name} has no device; its cache is --memory")
    total, record = int(recorded.array("experts").sum()), max(platform.record_bytes)
    host = None if host_memory is None else parse_slots(host_memory, total, record)
    replayer = Replayer(recorded, platform, learnt, first_step, host, copies)
    experts, largest = sum(replayer.experts), max(platform.record_bytes)
    slots = list(dict.fromkeys(parse_slots(word, experts, largest) for word in _words(memory, "--memory")))
    settings = grid(*_names(policy, prefetch, planner, recorded, learnt, platform))
    typer.echo(head)
    typer.echo(f"machine: {platform.name}, experts of {_bytes(largest)}; {steps - first_step} of {steps} steps count")
    results = list(replay_grid(replayer, settings, slots))
    for line in _table(results):
        typer.echo(line)
    if json is not None:
        _write_json(json, trace, recorded, platform, results)
    if plot is not None:
        _draw(results, plot, f"{head}\n{platform.name}")


def _platform(trace: RoutingTrace, machine: str, model: str | None) -> Platform:
    from moestro.device_names import EMULATED, EmulatedDevice, parse_device
    from moestro.models.emulated import emulated_machine
    from moestro.trace.machines import MODELS, read_machine
    from moestro.trace.replays import Platform

    named = parse_device(machine) if machine.startswith(EMULATED) else None
    device = named if isinstance(named, EmulatedDevice) else None
    if machine == _RECORDED:
        if model is not None:
            raise UsageError("--model: a recorded machine goes with the recorded model; name another --machine")
        return Platform.recorded(trace)
    model = model or (device.like if device else None)
    if model not in MODELS:
        raise UsageError(f"--model: {machine} needs one of {', '.join(MODELS)}; got {model!r}")
    return Platform.of(trace, emulated_machine(device) if device else read_machine(machine), MODELS[model])


def _learnt(
    trace: RoutingTrace, other: Path | None, first: str | None, weights: Path | None
) -> tuple[RoutingTrace, Learnt]:
    """What is replayed, and what is known before."""
    from moestro.trace.path_weights import read_path_weights
    from moestro.trace.replays import Learnt, parse_share
    from moestro.trace.routing import read_routing_trace

    path = None if weights is None else read_path_weights(weights, trace.array("experts").tolist())
    if other is not None and first is not None:
        raise UsageError("--learn and --learn-first: choose one")
    if other is not None:
        earlier = read_routing_trace(other)
        earlier.check(trace.array("experts").tolist(), str(other))
        return trace, Learnt(earlier, path)
    if first is None:
        return trace, Learnt(path=path)
    steps = len(trace.array("step_rows"))
    cut = int(parse_share(first, "--learn-first") * steps)
    if not 0 < cut < steps:
        raise UsageError(f"--learn-first {first}: leaves nothing of {steps} steps to learn from, or to replay")
    return trace.part(cut, steps), Learnt(trace.part(0, cut), path)


def _names(
    policy: str, prefetch: str, planner: str | None, trace: RoutingTrace, learnt: Learnt, platform: Platform
) -> tuple[list[str], list[str], list[str]]:
    from moestro._core import PLANNERS, POLICIES, PREDICTORS
    from moestro.trace.replays import lacking_for_planner, lacking_for_policy, lacking_for_prefetch

    if planner is None:
        planner = PLANNERS[0] if platform.has_device else ""
    return (
        _chosen("--policy", policy, POLICIES, lambda name: lacking_for_policy(name, learnt)),
        _chosen("--prefetch", prefetch, PREDICTORS, lambda name: lacking_for_prefetch(name, trace, learnt)),
        _chosen("--planner", planner, PLANNERS, lambda name: lacking_for_planner(name, platform)) if planner else [""],
    )


def _chosen(option: str, text: str, known: Sequence[str], lacking: Callable[[str], str]) -> list[str]:
    """All that lack nothing, saying what the others lack; or those that are named, which must lack nothing."""
    names = list(known) if text == _ALL else _words(text, option)
    left = {name: lacking(name) for name in names}
    refused = {name: why for name, why in left.items() if why}
    if text != _ALL and refused:
        raise UsageError("; ".join(refused.values()))
    for why in refused.values():
        typer.echo(f"left out: {why}", err=True)
    usable = [name for name in left if name not in refused]
    if not usable:
        raise UsageError(f"{option} all: none can be replayed")
    return usable


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{option}: expected at least one, with commas between them")
    return words


def _table(results: Sequence[Replayed]) -> Iterator[str]:
    from moestro.cli.columns import columns

    titles = ("policy", "prefetch", "planner", "memory", "hits", "best", "misses", "least", "read/token", "ms/token",
              "tok/s", "recall", "precision")  # fmt: skip
    rows = [titles, *map(_row, results)]
    used = [number for number in range(len(titles)) if any(row[number] for row in rows[1:])]
    yield from columns([[row[number] for number in used] for row in rows], left=2 + any(row[2] for row in rows[1:]))


def _row(result: Replayed) -> tuple[str, ...]:
    setting, seconds = result.setting, result.seconds_per_token
    return (
        setting.policy,
        setting.prefetch,
        setting.planner,
        f"{result.share:.1%}",
        f"{result.hit_rate:.1%}",
        f"{result.best_hit_rate:.1%}",
        str(result.misses + result.joined),
        str(result.least_misses),
        _bytes(int(result.bytes_per_token)),
        f"{1e3 * seconds:.3g}" if seconds else "-",
        f"{1 / seconds:.3g}" if seconds else "-",
        "" if result.recall is None else f"{result.recall:.1%}",
        "" if result.precision is None else f"{result.precision:.1%}",
    )


def _bytes(count: int) -> str:
    from moestro.units import format_bytes

    return format_bytes(count)


def _check_folders(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.absolute().parent}")


def _write_json(
    path: Path, trace: Path, recorded: RoutingTrace, platform: Platform, results: Sequence[Replayed]
) -> None:
    head = {"trace": str(trace), "model": recorded.model, "machine": platform.name, "device": platform.has_device}
    text = dumps({**head, "replays": [result.as_dict() for result in results]}, indent=1)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot write the figures: {error.strerror or error}") from error


def _draw(results: Sequence[Replayed], path: Path, title: str) -> None:
    from moestro.trace.replay_plot import draw_replays

    try:
        draw_replays(results, path, title)
    except ImportError:
        raise UsageError("--plot needs matplotlib: pip install matplotlib") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot write the picture: {error.strerror or error}") from error
    typer.echo(f"picture: {path}")
