"""How much memory this process may plan with: what the machine has free and what its control group allows."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moestro.errors import UnsupportedError
from moestro.units import format_bytes

# Room left for the interpreter, the page cache and everybody else.
_SHARE_PERCENT = 80

# cgroup v1 writes "no limit" as a huge page-rounded number.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class MemoryLimit:
    """Bytes to plan with, and a sentence that says where the number comes from."""

    nbytes: int
    source: str


def automatic_budget(root: Path = Path("/")) -> MemoryLimit:
    """The least of 80 % of the available memory and 80 % of the control group's limit (v1 or v2).

    `root` is where /proc and /sys are looked for. Raises UnsupportedError where /proc/meminfo cannot be read.
    """
    available = _available(root)
    limit, where = min(((available, "available memory"), *_cgroup_limits(root)), key=lambda pair: pair[0])
    nbytes = limit * _SHARE_PERCENT // 100
    source = f"{format_bytes(nbytes)} = {_SHARE_PERCENT} % of {format_bytes(limit)} ({where})"
    return MemoryLimit(nbytes, source)


def anonymous_bytes(root: Path = Path("/")) -> int:
    """Memory of this process that no file backs, now."""
    _, resident, shared, *_ = (root / "proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * resource.getpagesize()


def _available(root: Path) -> int:
    path = root / "proc/meminfo"
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError) as error:
        raise UnsupportedError(f"cannot read {path} ({error}): give host_memory a size such as '8GiB'") from error
    raise UnsupportedError(f"{path} has no MemAvailable line: give host_memory a size such as '8GiB'")


def _cgroup_limits(root: Path) -> Iterator[tuple[int, str]]:
    """Every limit that binds this process: its own group's and those of the groups above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # no control groups
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            yield from _limits_above(root / "sys/fs/cgroup", group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_above(root / "sys/fs/cgroup/memory", group, "memory.limit_in_bytes")


def _limits_above(mount: Path, group: str, file: str) -> Iterator[tuple[int, str]]:
    # Inside a container `group` may name a path that only the host sees; the mount then shows our own group at its top.
    relative = PurePosixPath(group.lstrip("/"))
    for part in (relative, *relative.parents):
        if ".." in part.parts:
            continue
        path = mount / part / file
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):
            continue  # absent, or "max"
        if 0 < limit < _UNLIMITED:
            yield limit, f"control group limit, {path}"
