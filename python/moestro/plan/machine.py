"""What this machine offers moestro, for `moestro doctor`: every fact is active, or refused with its reason.

Nothing is imported or started that a run would not: torch's version is read from its metadata.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from moestro import core, knobs
from moestro.errors import MoestroError
from moestro.memory_limits import automatic_budget
from moestro.plan.rates import Rate, disk_rates, memory_rate
from moestro.threads import default_threads
from moestro.units import format_bytes

_ROOT = Path("/")
_PACKAGES = ("numpy", "tokenizers", "jinja2", "huggingface_hub", "torch", "transformers")
_DRIVER_LIBRARY = "libcuda.so.1"
_LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "usr/lib/wsl/lib", "usr/local/cuda/compat")


@dataclass(frozen=True)
class Fact:
    """One thing that a run uses or would like to."""

    name: str
    active: bool
    detail: str  # active: what it is; refused: why, and what to do where something can be done


@dataclass(frozen=True)
class Machine:
    cpu: str  # the model's name
    cores: int  # physical ones this process may use: the default number of threads
    processors: int  # hardware threads this process may use
    memory_bytes: int  # of the machine
    available_bytes: int  # now
    instruction_sets: tuple[Fact, ...]
    fast_math: Fact
    memory: tuple[Fact, ...]  # the automatic budget, locked memory
    devices: tuple[Fact, ...]
    settings: tuple[Fact, ...]  # environment variables that are set
    versions: Mapping[str, str]
    memory_rate: Rate | None  # None: not measured
    disk_rates: tuple[Rate, ...]  # empty: not measured
    disk: str  # what was measured there, or why nothing was


def inspect_machine(*, disk: Path | None = None, measure: bool = True, root: Path = _ROOT) -> Machine:
    """Looks, and measures memory for a third of a second and `disk` (a file, or a directory to write a temporary file
    of 256 MiB to) for a few seconds. Never raises for what it finds: it becomes a reason.

    root: where /proc, /usr and /sys are looked for.
    """
    threads = default_threads(root)
    disk_found, disk_reason = _disk(disk) if measure else ((), "not measured")
    return Machine(
        cpu=cpu_name(root),
        cores=threads,
        processors=len(os.sched_getaffinity(0)),
        memory_bytes=_meminfo(root, "MemTotal"),
        available_bytes=_meminfo(root, "MemAvailable"),
        instruction_sets=instruction_sets(),
        fast_math=fast_math(),
        memory=(_or_reason("automatic budget", lambda: automatic_budget(root).source), locked_memory()),
        devices=(Fact("cpu", True, f"{threads} threads by default"), *cuda(root)),
        settings=settings(os.environ),
        versions=_versions(),
        memory_rate=_memory(threads) if measure else None,
        disk_rates=disk_found,
        disk=disk_reason,
    )


def cpu_name(root: Path = _ROOT) -> str:
    """As the system gives it; "unknown" where it does not."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def instruction_sets() -> tuple[Fact, ...]:
    """Best first: the one that a run would take now, and why not the others."""
    tables = {table["name"]: table for table in core.isa_tables()}
    forced = _or_reason("MOESTRO_ISA", lambda: knobs.ISA.read())
    best = next(name for name, table in reversed(tables.items()) if table["usable"])
    chosen = (forced.detail or best) if forced.active else None
    facts = []
    for name, table in reversed(tables.items()):
        if name == chosen and table["usable"]:
            facts.append(Fact(name, True, "forced by MOESTRO_ISA" if forced.detail else "the best this CPU has"))
        elif table["usable"] and forced.detail:
            facts.append(Fact(name, False, f"MOESTRO_ISA={forced.detail}" if forced.active else forced.detail))
        else:
            facts.append(Fact(name, False, table["reason"] or f"{best} is faster"))
    return tuple(facts)


def fast_math() -> Fact:
    """Whether a run that asks for math='fast' gets it. Active means available: the default is exact."""
    name = "fast math"
    try:
        compute = core.make_compute(math="fast")
    except MoestroError as error:
        return Fact(name, False, str(error))
    if compute.math == "fast":
        return Fact(name, True, "available for bf16 weights, where math='fast' asks for it")
    return Fact(name, False, next(line for line in compute.refused if line.startswith(name)).removeprefix(f"{name}: "))


def locked_memory() -> Fact:
    """Whether the staging buffers may be registered with the kernel."""
    needed = core.Runtime.staging_bytes()
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY:
        return Fact("locked memory", True, "unlimited")
    if limit >= needed:
        return Fact("locked memory", True, f"{format_bytes(limit)}, enough to register {format_bytes(needed)}")
    return Fact(
        "locked memory",
        False,
        f"RLIMIT_MEMLOCK is {format_bytes(limit)}, registering read buffers takes {format_bytes(needed)}: ulimit -l",
    )


def cuda(root: Path = _ROOT) -> tuple[Fact, ...]:
    """Every device that the driver shows, or one fact that says why there is none."""
    info = core.cuda_info()
    facts = [
        Fact(f"cuda:{number}", not device["missing"], _device(device)) for number, device in enumerate(info["devices"])
    ]
    if not info["missing"]:
        return tuple(facts)
    found = next((folder for folder in _LIBRARY_FOLDERS if (root / folder / _DRIVER_LIBRARY).exists()), None)
    driver = f"an NVIDIA driver is installed (/{found}/{_DRIVER_LIBRARY})" if found else "no NVIDIA driver was found"
    return (*facts, Fact("cuda", False, f"{info['missing']} ({driver})"))


def _device(device: Mapping[str, Any]) -> str:
    major, minor = device["compute_capability"]
    what = (
        f"{device['name']}, compute capability {major}.{minor}, {device['multiprocessors']} multiprocessors,"
        f" {format_bytes(device['free'])} of {format_bytes(device['total'])} free, PCIe {device['bus']}"
    )
    return f"{what}: {device['missing']}" if device["missing"] else what


def settings(environment: Mapping[str, str]) -> tuple[Fact, ...]:
    """The MOESTRO_* variables that are set: read, malformed, or misspelt."""
    facts = []
    for knob in knobs.KNOBS:
        if environment.get(knob.name):
            facts.append(_or_reason(knob.name, lambda knob=knob: str(knob.read(environment))))  # type: ignore[misc]
    unread = "nothing reads it; known: " + ", ".join(knob.name for knob in knobs.KNOBS)
    return (*facts, *(Fact(name, False, unread) for name in knobs.unknown(environment)))


def _or_reason(name: str, detail: Callable[[], str]) -> Fact:
    try:
        return Fact(name, True, detail())
    except MoestroError as error:
        return Fact(name, False, str(error))


def _memory(threads: int) -> Rate:
    try:
        return memory_rate(threads)
    except MoestroError as error:
        return Rate("memory", None, str(error))


def _disk(place: Path | None) -> tuple[tuple[Rate, ...], str]:
    if place is None:
        return (), "not measured: no file or directory was named"
    try:
        return tuple(disk_rates(place)), str(place)
    except (MoestroError, OSError) as error:
        return (), f"not measured: {error}"


def _meminfo(root: Path, field: str) -> int:
    """Bytes; 0 where the system does not say."""
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _versions() -> dict[str, str]:
    found = {"moestro": core.__version__, "python": platform.python_version(), "kernel": platform.release()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
