"""Embedding rows, read from the file when a token needs them: the matrix is never resident."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moestro import _core
from moestro._core import F32, U8
from moestro.errors import IntegrityError, StorageError

_ROWS_AT_ONCE = 16  # bounds the bytes in flight; rows are read one by one in any case


@dataclass(frozen=True)
class EmbeddingTable:
    """Where the rows lie: row-major [rows, cols] of `dtype` ("f32" | "bf16" | "f16") from byte `offset` of `path`."""

    path: Path
    offset: int
    dtype: str
    rows: int
    cols: int
    checksums: NDArray[np.uint64] | None = None  # [rows]: XXH64 of each row's bytes; a plain checkpoint has none

    @property
    def row_bytes(self) -> int:
        return self.cols * (4 if self.dtype == "f32" else 2)


class Embedding:
    """Reads rows of an EmbeddingTable. Holds one open file; close it. Reads go through the page cache.

    With checksums every row read is verified. Without, the file's size, times and inode are compared before reading;
    a flipped bit on disk cannot be seen then.
    """

    def __init__(self, table: EmbeddingTable) -> None:
        self._table = table
        self._buffer: U8 = np.empty((_ROWS_AT_ONCE, table.row_bytes), dtype=np.uint8)
        try:
            self._file = os.open(table.path, os.O_RDONLY | os.O_CLOEXEC)
            self._identity = _identity(os.fstat(self._file))
        except OSError as error:
            raise StorageError(f"embedding: cannot open {table.path}: {error.strerror}") from error
        # Rows of a prompt are scattered: reading ahead would fetch rows nobody asked for.
        os.posix_fadvise(self._file, table.offset, table.rows * table.row_bytes, os.POSIX_FADV_RANDOM)

    def __call__(self, token_ids: NDArray[np.int32], out: F32) -> None:
        """out[r] = row token_ids[r], widened. token_ids: [rows] within the vocabulary; out: [rows, cols].

        Raises StorageError or IntegrityError naming row, file and cause.
        """
        self._check_unchanged()
        for begin in range(0, len(token_ids), _ROWS_AT_ONCE):
            tokens = token_ids[begin : begin + _ROWS_AT_ONCE]
            rows = self._buffer[: len(tokens)]
            for token, row in zip(tokens.tolist(), rows, strict=True):
                self._read_row(token, row)
            wide = _core.widen(rows.reshape(-1), self._table.dtype, rows.shape[0] * self._table.cols)
            out[begin : begin + len(tokens)] = wide.reshape(len(tokens), self._table.cols)

    def close(self) -> None:
        """Closes the file. May be called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read_row(self, token: int, row: U8) -> None:
        offset = self._table.offset + token * self._table.row_bytes
        view, done = row.data, 0
        while done < len(view):
            try:
                count = os.preadv(self._file, [view[done:]], offset + done)
            except OSError as error:
                raise StorageError(f"{self._name(token)}: {error.strerror or error}") from error
            if count == 0:
                raise StorageError(f"{self._name(token)}: the file ends early; it was cut short after it was opened")
            done += count
        self._verify(token, row)

    def _verify(self, token: int, row: U8) -> None:
        if self._table.checksums is None:
            return
        expected, found = int(self._table.checksums[token]), _core.xxh64(row)
        if expected != found:
            raise IntegrityError(
                f"{self._name(token)}: checksum is {found:016x}, expected {expected:016x}: the bytes on disk changed;"
                " pack the model again"
            )

    def _check_unchanged(self) -> None:
        if self._table.checksums is not None:
            return
        try:
            same = _identity(self._table.path.stat()) == self._identity
        except OSError as error:
            raise StorageError(f"embedding: {self._table.path}: {error.strerror}") from error
        if not same:
            raise IntegrityError(f"embedding: {self._table.path} was changed or replaced while the model was open")

    def _name(self, token: int) -> str:
        return f"embedding row {token} of {self._table.path}"


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
