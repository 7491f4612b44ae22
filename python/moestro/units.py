"""Byte sizes as people write them ("8GiB", "512MB") and back."""

from __future__ import annotations

import re
from fractions import Fraction

from moestro.errors import UsageError

_UNITS = {"b": 1}
_UNITS.update({f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)})
_UNITS.update({f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)})

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", re.ASCII)


def parse_bytes(value: str | int, what: str = "size") -> int:
    """Bytes in `value`: an int, or a number with B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024).

    `what` names the value in the error. Fractions of a byte are dropped. Raises UsageError.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise UsageError(f"{what}: expected bytes as an int or a text such as '8GiB', got {value!r}")
    if isinstance(value, int):
        if value < 0:
            raise UsageError(f"{what}: a size cannot be negative, got {value}")
        return value
    match = _SIZE.fullmatch(value)
    unit = (match[2].lower() or "b") if match else ""
    if match is None or len(value) > 64 or unit not in _UNITS:
        raise UsageError(f"{what}: cannot read {value!r}; write a number with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    return int(Fraction(match[1]) * _UNITS[unit])


def format_bytes(count: int) -> str:
    """`count` bytes in the largest binary unit that keeps the number at 1 or more: '7.50 GiB', '512 B'."""
    sign, size = ("-", -count) if count < 0 else ("", count)
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{sign}{size / 1024**power:.2f} {unit}"
    return f"{sign}{size} B"
