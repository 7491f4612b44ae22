"""What moestro keeps on disk of its own accord: packed copies of models.

<root>/packed/<name>    each entry one directory; unfinished ones end in ".partial"
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moestro import knobs
from moestro.errors import StorageError, UsageError

KINDS = ("packed",)
PARTIAL = ".partial"


@dataclass(frozen=True)
class CacheEntry:
    name: str  # "packed/...": what `remove` takes
    path: Path
    nbytes: int  # on disk
    finished: bool


def cache_root() -> Path:
    """MOESTRO_CACHE, else moestro below XDG_CACHE_HOME, else ~/.cache/moestro. It need not exist."""
    chosen = knobs.CACHE.read()
    if chosen is not None:
        return chosen
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if xdg.startswith("/") else Path.home() / ".cache") / "moestro"


def packed_path(model: str, directory: Path, format: str, trunk_format: str | None) -> Path:
    """Where the packed copy of a checkpoint belongs. Another version of the same files gets another path."""
    known_as = directory.resolve().name if Path(model).expanduser().is_dir() else model
    name = re.sub(r"[^A-Za-z0-9._-]+", "--", known_as)
    formats = format if trunk_format in (None, format) else f"{format}-{trunk_format}"
    return cache_root() / "packed" / f"{name[-80:].strip('-.')}-{formats}-{_identity(directory)}"


def entries() -> list[CacheEntry]:
    """Everything in the cache, by name."""
    return [
        CacheEntry(f"{kind}/{path.name}", path, _disk_bytes(path), not path.name.endswith(PARTIAL))
        for kind in KINDS
        for path in _directories(cache_root() / kind)
    ]


def remove(name: str) -> CacheEntry:
    """Deletes one entry. Raises UsageError for a name that is not there, StorageError when it cannot be deleted."""
    entry = next((entry for entry in entries() if entry.name == name), None)
    if entry is None:
        raise UsageError(f"{name!r} is not in the cache {cache_root()}; `moestro cache ls` shows what is")
    try:
        shutil.rmtree(entry.path)
    except OSError as error:
        raise StorageError(f"cannot delete {entry.path}: {error.strerror or error}") from error
    return entry


def _identity(directory: Path) -> str:
    """Changes when any file that shapes the weights does."""
    digest = hashlib.sha256(str(directory.resolve()).encode())
    for path in sorted((*directory.glob("*.safetensors"), *directory.glob("*.json"))):
        status = path.stat(follow_symlinks=path.exists())  # a dangling link is no reason to stop
        digest.update(f"\0{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:12]


def _directories(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from sorted(path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())


def _disk_bytes(directory: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*") if not path.is_dir())
