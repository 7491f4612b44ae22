"""A store while it is being written: in TARGET.partial, under a lock, until one rename makes it TARGET."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moestro.checkpoint.pack_journal import JOURNAL_FILE, PackJournal
from moestro.checkpoint.store_format import MANIFEST_FILE
from moestro.errors import StorageError, UsageError

SUFFIX = ".partial"


class PartialStore:
    """The directory being filled and its journal. Raises StorageError when the operating system refuses."""

    def __init__(self, target: Path, directory: Path, journal: PackJournal) -> None:
        self.target = target
        self.directory = directory
        self.journal = journal

    @property
    def published(self) -> bool:
        """The run before this one was stopped after the rename: only its journal is left to remove."""
        return self.directory == self.target

    def write(self, name: str, content: bytes) -> None:
        """A small file, made durable; `name` may be in a folder."""
        path = self.directory / name
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            sync_directory(path.parent)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error

    def link(self, name: str, directory: Path) -> None:
        """Makes `name` a file of another directory, which is made, and linked here: it is still to be written."""
        path, elsewhere = self.directory / name, directory.absolute() / self.target.name / name
        if elsewhere.parent == self.target:
            raise UsageError(f"stripe {directory} is where {self.target} itself will be: name another directory")
        try:
            elsewhere.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() and path.readlink() == elsewhere:
                return
            if elsewhere.exists():
                raise UsageError(f"{elsewhere} exists: name another directory to stripe over, or delete it first")
            path.unlink(missing_ok=True)
            path.symlink_to(elsewhere)
        except OSError as error:
            raise StorageError(f"cannot make {elsewhere}: {error.strerror or error}") from error

    def discard_other_weights(self, names: set[str]) -> None:
        """Removes weight files of an earlier plan that this one does not overwrite."""
        for path in self.directory.glob("*.safetensors"):
            if path.name not in names:
                if path.is_symlink():
                    path.resolve().unlink(missing_ok=True)
                path.unlink()

    def publish(self) -> None:
        """From here on the store is there, whole."""
        try:
            if not self.published:
                sync_directory(self.directory)
                self.directory.rename(self.target)
                sync_directory(self.target.parent)
            # After the rename: were it removed before, another run could put its own into the directory in between.
            # A journal that comes back after a power cut says the same as one that was not removed yet.
            (self.target / JOURNAL_FILE).unlink()
        except OSError as error:
            raise StorageError(f"cannot finish {self.target}: {error.strerror or error}") from error


@contextmanager
def open_partial(target: Path) -> Iterator[PartialStore]:
    """The one who may write `target`. Raises UsageError when something else is there, StorageError when another pack
    is at work or the operating system refuses."""
    partial = target.with_name(target.name + SUFFIX)
    directory = target if (target / JOURNAL_FILE).is_file() else partial
    if directory == partial:
        _require_free(target)
        _make(partial)
    with PackJournal(directory / JOURNAL_FILE) as journal:
        if directory == partial:
            _require_free(target)  # it may have been finished while the lock was waited for
        yield PartialStore(target, directory, journal)


def sync_directory(directory: Path) -> None:
    """Makes the names in it durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_free(target: Path) -> None:
    """An empty directory is free too: the rename replaces it."""
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        what = "already holds a packed model" if (target / MANIFEST_FILE).is_file() else "exists"
        raise UsageError(f"{target} {what}: choose another directory, or delete it first")


def _make(partial: Path) -> None:
    try:
        partial.mkdir(parents=True, exist_ok=True)
        if any(partial.iterdir()) and not (partial / JOURNAL_FILE).is_file():
            raise UsageError(f"{partial} exists and is not an interrupted pack: delete it, or choose another target")
    except OSError as error:
        raise StorageError(f"cannot make {partial}: {error.strerror or error}") from error
