"""How many threads to compute with when nobody says."""

from __future__ import annotations

import os
from pathlib import Path


def default_threads(root: Path = Path("/")) -> int:
    """Physical cores that this process may run on: a core's second hardware thread adds nothing to these kernels.

    `root` is where /sys is looked for; a processor it does not describe counts as a core of its own.
    """
    return len({_core(root / f"sys/devices/system/cpu/cpu{number}/topology") for number in os.sched_getaffinity(0)})


def _core(topology: Path) -> tuple[str, ...]:
    try:
        return tuple((topology / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(topology),)
