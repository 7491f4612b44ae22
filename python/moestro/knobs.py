"""Every MOESTRO_* environment variable. Nothing else in the package reads one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from moestro.errors import UsageError

T = TypeVar("T")

ISA_NAMES = ("scalar", "avx2", "avx512")


@dataclass(frozen=True)
class Knob(Generic[T]):
    """One variable. An empty value counts as unset."""

    name: str
    type: str  # as shown to people
    default: T
    meaning: str  # one sentence
    parse: Callable[[str], T | None]  # None: malformed

    def read(self, environment: Mapping[str, str] | None = None) -> T:
        """The variable's value, or the default. Raises UsageError naming variable, value and type when malformed."""
        text = (os.environ if environment is None else environment).get(self.name, "")
        if not text:
            return self.default
        value = self.parse(text)
        if value is None:
            raise UsageError(f"{self.name}: expected {self.type}, got {text!r}; correct it or unset it")
        return value


def _isa(text: str) -> str | None:
    return text if text in ISA_NAMES else None


def _directory(text: str) -> Path | None:
    path = Path(text).expanduser()
    return path if path.is_absolute() else None


ISA: Knob[str] = Knob(
    "MOESTRO_ISA",
    f"one of {', '.join(ISA_NAMES)}",
    "",
    "Forces an instruction set; unset takes the best one that the CPU has.",
    _isa,
)
CACHE: Knob[Path | None] = Knob(
    "MOESTRO_CACHE",
    "an absolute directory",
    None,
    "Where packed models are kept; unset takes ~/.cache/moestro, or moestro below XDG_CACHE_HOME.",
    _directory,
)

KNOBS: tuple[Knob[str] | Knob[Path | None], ...] = (ISA, CACHE)


def unknown(environment: Mapping[str, str] | None = None) -> list[str]:
    """MOESTRO_* variables that are set and that nothing reads: misspelt ones."""
    names = os.environ if environment is None else environment
    return sorted(name for name in names if name.startswith("MOESTRO_") and name not in {knob.name for knob in KNOBS})
