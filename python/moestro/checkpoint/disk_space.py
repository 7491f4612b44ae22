"""Asks for room before writing, so that a disk never fills up half-way through."""

from __future__ import annotations

import shutil
from pathlib import Path

from moestro.errors import StorageError
from moestro.units import format_bytes

# Left free for everybody else on the disk.
_RESERVE = 256 << 20


def require_space(directory: Path, nbytes: int, what: str) -> None:
    """Raises StorageError with the missing number unless the disk of `directory` has room for `nbytes`.

    `directory` need not exist yet: the nearest existing parent is asked.
    """
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < nbytes + _RESERVE:
        missing = nbytes + _RESERVE - free
        raise StorageError(
            f"{what} needs {format_bytes(nbytes)} on the disk of {existing} (and leaves {format_bytes(_RESERVE)} free);"
            f" {format_bytes(free)} are free: {format_bytes(missing)} are missing"
        )
