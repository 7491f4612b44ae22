"""The text every Python installation carries: the standard library's sources and pydoc's topics (PSF licence).

Documents are whole files, in path order. A document is held out when the hash of its path says so: the split does not
depend on the order of the walk or on what else is installed.
"""

from __future__ import annotations

import hashlib
import pydoc_data.topics
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# Not the library itself, or tables rather than programs.
SKIPPED_FOLDERS = {
    "site-packages",
    "test",
    "tests",
    "idle_test",
    "lib2to3",
    "__pycache__",
    "encodings",
    "msilib",
    "turtledemo",
}
HELD_OUT_PERCENT = 4
LICENCE = "Python Software Foundation License"


@dataclass(frozen=True)
class Corpus:
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def characters(self) -> tuple[int, int]:
        return sum(map(len, self.train)), sum(map(len, self.held_out))


def _is_held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def read_corpus() -> Corpus:
    """Raises FileNotFoundError where this Python has no standard library sources."""
    root = Path(sysconfig.get_paths()["stdlib"])
    documents: list[tuple[str, str]] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts) and not name.startswith("pydoc_data/"):
            documents.append((name, path.read_text(encoding="utf-8", errors="replace")))
    if not documents:
        raise FileNotFoundError(f"no standard library sources under {root}: use a Python that has them")
    documents += [(f"topic/{name}", text) for name, text in sorted(pydoc_data.topics.topics.items())]
    return Corpus(
        train=tuple(text for name, text in documents if not _is_held_out(name)),
        held_out=tuple(text for name, text in documents if _is_held_out(name)),
    )
