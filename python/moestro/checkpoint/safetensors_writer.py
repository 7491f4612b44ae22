"""Writes a safetensors file whose layout is known beforehand: header first, then tensors in order, one at a time.

The header is padded with spaces, which the format allows, so that data starts at a multiple of 4096: a record can then
be read with O_DIRECT, and any safetensors tool still reads the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from moestro.errors import StorageError, UsageError
from moestro.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

DATA_ALIGN = 4096


@dataclass(frozen=True)
class TensorEntry:
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class FileLayout:
    """A file's header and the place of each of its tensors, in order."""

    header: bytes  # length prefix, JSON and padding: everything before the data
    entries: tuple[TensorEntry, ...]
    offsets: tuple[int, ...]  # from the start of the file

    @property
    def nbytes(self) -> int:
        return self.offsets[-1] + self.entries[-1].nbytes if self.entries else len(self.header)


def lay_out(entries: Sequence[TensorEntry]) -> FileLayout:
    """The layout of a file that holds `entries` back to back."""
    table: dict[str, object] = {"__metadata__": {"format": "pt", "producer": "moestro"}}
    starts, end = [], 0
    for entry in entries:
        starts.append(end)
        end += entry.nbytes
        table[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [starts[-1], end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    length = -(-(8 + len(text)) // DATA_ALIGN) * DATA_ALIGN - 8
    header = length.to_bytes(8, "little") + text.ljust(length)
    return FileLayout(header, tuple(entries), tuple(len(header) + start for start in starts))


class SafetensorsWriter:
    """Appends the tensors of a layout to `path`; a context manager. Not thread-safe.

    `written` tensors of an earlier, interrupted run are kept: the file must start with the same header and hold them;
    what lies behind them is cut off. Leaving the block without an error makes the file durable (fsync) and requires it
    to be complete; after an error the file stays as far as it got, for another run. Raises StorageError naming the
    file and the bytes that were needed.
    """

    def __init__(self, path: Path, layout: FileLayout, written: int = 0) -> None:
        self._path = path
        self._layout = layout
        self._next = written
        self._filled = 0  # bytes of the next tensor that are there
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failure(error) from error
        try:
            self._start(written)
        except OSError as error:
            os.close(self._descriptor)
            raise self._failure(error) from error
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def written(self) -> int:
        """How many tensors the file holds."""
        return self._next

    def append(self, name: str, data: Buffer | NDArray[Any]) -> None:
        """Writes the next tensor of the layout, all its bytes at once; `data` is C-contiguous."""
        view = memoryview(cast("Buffer", data)).cast("B")
        entry = self._expected(name, view.nbytes)
        if self._filled or entry.nbytes != view.nbytes:
            raise self._unexpected(name, view.nbytes)
        self._write(view, self._layout.offsets[self._next])
        self._next += 1

    def extend(self, name: str, piece: Buffer | NDArray[Any]) -> None:
        """Writes the next bytes of the next tensor, which may be larger than memory; its last piece completes it."""
        view = memoryview(cast("Buffer", piece)).cast("B")
        entry = self._expected(name, view.nbytes)
        self._write(view, self._layout.offsets[self._next] + self._filled)
        self._filled += view.nbytes
        if self._filled == entry.nbytes:
            self._next, self._filled = self._next + 1, 0

    def flush(self) -> None:
        """Makes what was appended durable."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Closes the file as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._next != len(self._layout.entries):
                    raise UsageError(f"{self._path}: {self._next} of {len(self._layout.entries)} tensors were written")
                self.flush()
        finally:
            self.close()

    def _start(self, written: int) -> None:
        header, layout = self._layout.header, self._layout
        if written == 0:
            os.ftruncate(self._descriptor, 0)
            self._write(memoryview(header), 0)
            return
        end = layout.offsets[written - 1] + layout.entries[written - 1].nbytes
        if os.pread(self._descriptor, len(header), 0) != header or os.fstat(self._descriptor).st_size < end:
            raise StorageError(f"{self._path} is not the file that was interrupted: delete it and start again")
        os.ftruncate(self._descriptor, end)

    def _expected(self, name: str, nbytes: int) -> TensorEntry:
        """The next entry of the layout, if it is `name` and has room for `nbytes` more."""
        entry = self._layout.entries[self._next] if self._next < len(self._layout.entries) else None
        if entry is None or entry.name != name or self._filled + nbytes > entry.nbytes:
            raise self._unexpected(name, nbytes)
        return entry

    def _unexpected(self, name: str, nbytes: int) -> UsageError:
        entry = self._layout.entries[self._next] if self._next < len(self._layout.entries) else None
        return UsageError(
            f"{self._path}: {name} of {nbytes} bytes is not what comes next: {entry}, {self._filled} bytes written"
        )

    def _write(self, view: memoryview, offset: int) -> None:
        try:
            while view:
                count = os.pwrite(self._descriptor, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> StorageError:
        needed = format_bytes(self._layout.nbytes)
        return StorageError(f"cannot write {self._path} ({needed} in all): {error.strerror or error}")
