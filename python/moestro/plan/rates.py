"""How fast this machine reads: memory through the kernels, and a disk through every reader. Quick, not a benchmark."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np

from moestro import core
from moestro.errors import MoestroError, StorageError, UnsupportedError, UsageError
from moestro.units import format_bytes

SCRATCH_FILE_BYTES = 256 << 20
_READ_BLOCK = 1 << 20
_DEPTH = 16
_WRITE_PIECE = 8 << 20


@dataclass(frozen=True)
class Rate:
    """One measurement, or why there is none."""

    name: str  # "io_uring, direct"
    bytes_per_second: float | None
    reason: str  # why there is none, else empty


def memory_rate(threads: int, *, nbytes: int = 256 << 20, seconds: float = 0.3) -> Rate:
    """Weights read per second by a one-row bf16 linear of about `nbytes`: the best of the runs that fit in `seconds`.

    Raises UsageError, UnsupportedError where MOESTRO_ISA does.
    """
    compute, cols = core.make_compute(threads), 4096
    rows = max(1, nbytes // (2 * cols))
    packed = np.ones(core.matrix_bytes("bf16", "none", rows, cols), np.uint8)
    matrix = core.Matrix.from_packed(packed, "bf16", "none", rows, cols)
    del packed
    x, out = np.ones((1, cols), np.float32), np.empty((1, rows), np.float32)
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        begin = time.perf_counter()
        core.linear(compute, x, [matrix], [out])
        best = min(best, time.perf_counter() - begin)
    return Rate(f"memory, {threads} thread{'s' if threads > 1 else ''}, {compute.isa}", matrix.nbytes / best, "")


def disk_rates(place: Path, *, seconds: float = 0.5, file_bytes: int = SCRATCH_FILE_BYTES) -> list[Rate]:
    """Every reader, O_DIRECT and buffered, on `place`: a file, only read; or a directory, where a temporary file of
    `file_bytes` is written and deleted. `seconds` bounds each measurement.

    Raises UsageError for a place that does not exist or is too small to measure, StorageError where no file can be
    written.
    """
    if place.is_dir():
        with _temporary_file(place, file_bytes) as path:
            return _rates_of(path, seconds)
    if not place.is_file() or place.stat().st_size < _READ_BLOCK:
        raise UsageError(f"{place}: expected a directory, or a file of at least {format_bytes(_READ_BLOCK)}")
    return _rates_of(place, seconds)


def _rates_of(path: Path, seconds: float) -> list[Rate]:
    return [_rate_of(path, reader, cache, seconds) for reader in core.READERS for cache in ("direct", "buffered")]


def _rate_of(path: Path, reader: str, cache: str, seconds: float) -> Rate:
    name = f"{reader}, {cache}"
    _forget(path)
    try:
        measured = core.measure_read_rate(str(path), _READ_BLOCK, _DEPTH, reader, cache, seconds)
    except (UnsupportedError, StorageError) as error:
        return Rate(name, None, str(error))
    if cache == "direct" and not measured["direct"]:
        return Rate(name, None, "; ".join(measured["refused"]))
    return Rate(name, float(measured["bytes_per_second"]), "")


def _forget(path: Path) -> None:
    """Asks the system to drop the file from its page cache, so that reading it means reading the disk."""
    with suppress(OSError):  # a file that cannot be opened: measuring it says so
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextmanager
def _temporary_file(directory: Path, nbytes: int) -> Iterator[Path]:
    """A file of random bytes that have reached the disk; deleted in the end, whatever happens."""
    try:
        with NamedTemporaryFile(dir=directory, prefix=".moestro-read-rate-") as file:
            piece = np.random.default_rng(0).bytes(min(nbytes, _WRITE_PIECE))
            for begin in range(0, nbytes, len(piece)):
                file.write(piece[: nbytes - begin])
            file.flush()
            os.fsync(file.fileno())
            yield Path(file.name)
    except MoestroError:
        raise
    except OSError as error:
        raise StorageError(
            f"{directory}: cannot write {format_bytes(nbytes)} to measure: {error.strerror or error};"
            " name another directory, or a file to read"
        ) from error
