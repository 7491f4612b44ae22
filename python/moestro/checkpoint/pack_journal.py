"""The journal of a pack at work: what is being packed, and which tensors are finished. Also its lock.

One line per entry, "crc32 json", appended and made durable; a torn last line is dropped on opening. The last head
counts, and the tensors after it.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from moestro.checkpoint.pack_formats import MatrixClass
from moestro.errors import StorageError

JOURNAL_FILE = "pack.journal"


@dataclass(frozen=True)
class JournalHead:
    """What is packed. A run goes on only under an equal head."""

    producer: str  # version of moestro
    plan: str  # StorePlan.fingerprint
    sources: tuple[tuple[str, int, int], ...]  # path, bytes, mtime in ns
    wide: tuple[MatrixClass, ...]  # classes with f32 scales


class PackJournal:
    """Holds the exclusive lock on its file while it is open; a context manager. Not thread-safe.

    Raises StorageError: another pack is at work, or the operating system refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = _open_locked(path)
        except OSError as error:
            raise self._failure(error) from error
        try:
            self.head, self.finished, end = _replay(self._read())
            os.ftruncate(self._descriptor, end)
        except BaseException as error:
            os.close(self._descriptor)
            raise (self._failure(error) if isinstance(error, OSError) else error) from error

    def start(self, head: JournalHead) -> None:
        """Forgets what was finished: from here on `head` is packed."""
        self._append([{"producer": head.producer, "plan": head.plan, "sources": head.sources, "wide": head.wide}])
        self.head, self.finished = head, {}

    def add(self, finished: Iterable[tuple[str, int]]) -> None:
        """Tensors and their checksums, whose bytes are durable already."""
        entries = list(finished)
        self._append([{"name": name, "checksum": f"{checksum:016x}"} for name, checksum in entries])
        self.finished.update(entries)

    def __enter__(self) -> PackJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def _read(self) -> bytes:
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        with open(os.dup(self._descriptor), "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            return file.read()

    def _append(self, entries: list[dict[str, Any]]) -> None:
        try:
            view = memoryview(b"".join(map(_line, entries)))
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> StorageError:
        if isinstance(error, StorageError):
            return error
        return StorageError(f"cannot write {self.path}: {error.strerror or error}")


def _open_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise StorageError(f"{path.parent}: another pack into it is at work; wait for it or stop it") from None
        except BaseException:
            os.close(descriptor)
            raise
        # Its owner finished and removed it between opening and locking.
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _line(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _replay(content: bytes) -> tuple[JournalHead | None, dict[str, int], int]:
    """The last head, what was finished under it, and where the sound part of the file ends."""
    head, finished, end = None, dict[str, int](), 0
    for entry, end in _entries(content):  # noqa: B007 - the last end is the result
        if "plan" in entry:
            sources = tuple((str(path), int(size), int(mtime)) for path, size, mtime in entry["sources"])
            wide = tuple((layer, str(part)) for layer, part in entry["wide"])
            head, finished = JournalHead(entry["producer"], entry["plan"], sources, wide), {}
        else:
            finished[entry["name"]] = int(entry["checksum"], 16)
    return head, finished, end


def _entries(content: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    end = 0
    for line in content.splitlines(keepends=True):
        checksum, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
            return
        end += len(line)
        yield json.loads(text), end
