"""Matches tensors with what a model expects and remembers who took what, so that nothing is missing or left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from moestro.checkpoint.safetensors_index import TensorInfo
from moestro.checkpoint.weights import ELEMENT_BYTES, Columns, Stack, TensorSlice
from moestro.errors import CheckpointError

_SHOWN = 8
_NOWHERE = Path("missing")


class TensorClaims:
    """Hands out tensors by name, shape and type. Problems are collected: one error names them all."""

    def __init__(self, tensors: Mapping[str, TensorInfo], where: str) -> None:
        self._tensors = tensors
        self._where = where
        self._claimed: set[str] = set()
        self._missing: list[str] = []
        self._wrong: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def vector(self, name: str, size: int) -> TensorSlice:
        """One dimension, or a matrix of one row."""
        info = self._tensors.get(name)
        if info is not None and info.shape == (1, size):
            return self.matrix(name, 1, size)
        return self._slice(name, (size,), 0, 1, size)

    def matrix(self, name: str, rows: int, cols: int) -> TensorSlice:
        return self._slice(name, (rows, cols), 0, rows, cols)

    def rows(self, name: str, shape: tuple[int, int], first_row: int, rows: int) -> TensorSlice:
        """Rows [first_row, first_row + rows) of a matrix."""
        return self._slice(name, shape, first_row, rows, shape[1])

    def plane(self, name: str, shape: tuple[int, int, int], index: int, first_row: int, rows: int) -> TensorSlice:
        """Rows [first_row, first_row + rows) of plane `index` of a three-dimensional tensor."""
        return self._slice(name, shape, index * shape[1] + first_row, rows, shape[2])

    def table(
        self,
        name: str,
        shape: tuple[int, int, int],
        index: int,
        first: int,
        columns: int,
        *,
        step: int = 1,
        flat: bool = False,
    ) -> TensorSlice:
        """Columns first, first + step, ... of plane `index`, as the rows of a matrix [columns, shape[1]].

        flat: the tensor has two dimensions, planes one below the other.
        """
        stored = (shape[0] * shape[1], shape[2]) if flat else shape
        found = self._slice(name, stored, index * shape[1], shape[1], shape[2])
        offset = found.offset + first * found.element_bytes
        return replace(found, offset=offset, rows=columns, cols=shape[1], columns=Columns(shape[2], step))

    def stack(
        self,
        name: str,
        shape: tuple[int, int],
        count: int,
        first_row: int,
        rows: int,
        stacked_rows: int,
        *,
        transposed: bool = False,
    ) -> TensorSlice:
        """`count` runs of `rows` rows, one from first_row on in each of as many equal parts of a matrix, one below the
        other, each transposed where asked for: `stacked_rows` in all, padding included."""
        found = self._slice(name, shape, first_row, rows, shape[1])
        stride = shape[0] // count * shape[1] * found.element_bytes
        block = replace(found, rows=shape[1], cols=rows, columns=Columns(shape[1], 1)) if transposed else found
        return replace(block, rows=stacked_rows, stack=Stack(count, block.rows, stride))

    def finish(self, ignorable: frozenset[str] = frozenset()) -> None:
        """Raises CheckpointError naming what is missing, has another shape or type, or is left over."""
        leftover = sorted(self._tensors.keys() - self._claimed - ignorable)
        problems = [
            f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
            for what, names in (
                ("missing", self._missing),
                ("with another shape or type", self._wrong),
                ("not part of this model", leftover),
            )
            if names
        ]
        if problems:
            raise CheckpointError(f"{self._where}: the tensors do not match config.json; {'; '.join(problems)}")

    def _slice(self, name: str, shape: tuple[int, ...], first_row: int, rows: int, cols: int) -> TensorSlice:
        info = self._tensors.get(name)
        first_time = name not in self._claimed
        self._claimed.add(name)
        fits = info is not None and info.shape == shape and info.dtype in ELEMENT_BYTES
        if not fits and first_time:
            self._note(name, info, shape)
        if info is None or not fits:
            # A stand-in, so that the remaining tensors are looked at too: finish() raises.
            return TensorSlice(_NOWHERE, 0, "F32", rows, cols)
        skipped = first_row * cols * ELEMENT_BYTES[info.dtype]
        return TensorSlice(info.file, info.offset + skipped, info.dtype, rows, cols)

    def _note(self, name: str, info: TensorInfo | None, shape: tuple[int, ...]) -> None:
        if info is None:
            self._missing.append(name)
        else:
            types = "/".join(ELEMENT_BYTES)
            self._wrong.append(f"{name} is {info.dtype} {list(info.shape)}, expected {types} {list(shape)}")
