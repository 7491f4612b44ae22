"""Reads extents of files one ahead of whoever works on them, into two buffers that are used again and again."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moestro._core import U8
from moestro.checkpoint.weights import ELEMENT_BYTES, Stack, TensorSlice
from moestro.errors import StorageError

PIECE_BYTES = 16 << 20

# Pieces of a matrix end on whole panels of every format, so that each packs into one run of bytes.
_PANEL_ROWS = 32


class Extent(NamedTuple):
    path: Path
    offset: int
    nbytes: int


def row_pieces(source: TensorSlice) -> Iterator[TensorSlice]:
    """`source` cut into runs of rows of about PIECE_BYTES; all but the last have a multiple of 32 rows.

    What does not lie row by row is one piece, a stack one of each of its matrices.
    """
    if (stack := source.stack) is not None:
        rows = source.rows // stack.count
        for number in range(stack.count):
            one = Stack(1, stack.rows, stack.stride)
            yield replace(source, offset=source.offset + number * stack.stride, rows=rows, stack=one)
        return
    if source.columns is not None:
        yield source
        return
    row_bytes = source.cols * ELEMENT_BYTES[source.dtype]
    step = max(1, PIECE_BYTES // row_bytes // _PANEL_ROWS) * _PANEL_ROWS
    for first in range(0, source.rows, step):
        rows = min(step, source.rows - first)
        yield TensorSlice(source.path, source.offset + first * row_bytes, source.dtype, rows, source.cols)


def read_ahead(extents: Iterable[Extent]) -> Generator[U8, None, None]:
    """The bytes of each extent, in order. An array is overwritten once the next one is asked for.

    Close the generator when it is not exhausted. Raises StorageError naming the file.
    """
    with _Files() as files, ThreadPoolExecutor(1) as thread:
        buffers = [np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint8)]
        pending: Future[U8] | None = None
        for number, extent in enumerate(extents):
            slot = number % 2
            if buffers[slot].size < extent.nbytes:
                buffers[slot] = np.empty(extent.nbytes, dtype=np.uint8)
            following = thread.submit(files.read, extent, buffers[slot][: extent.nbytes])
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


class _Files:
    """The files read so far, open."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._cleanup = ExitStack()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def read(self, extent: Extent, into: U8) -> U8:
        done = 0
        try:
            descriptor = self._open(extent.path)
            while done < extent.nbytes and (count := os.preadv(descriptor, [into.data[done:]], extent.offset + done)):
                done += count
        except OSError as error:
            raise StorageError(f"cannot read {extent.path}: {error.strerror or error}") from error
        if done != extent.nbytes:
            raise StorageError(
                f"{extent.path} ends early: expected {extent.nbytes} bytes at {extent.offset}, found {done}; it was cut"
                " short after it was opened"
            )
        return into

    def _open(self, path: Path) -> int:
        if path not in self._descriptors:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._cleanup.callback(os.close, descriptor)
            self._descriptors[path] = descriptor
        return self._descriptors[path]
