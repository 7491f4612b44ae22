"""Stop strings over text that arrives in pieces.

The answer ends just before the first stop string to be completed, reading character by character, so the result does
not depend on where tokens cut the text. Text that may still become a stop string is held back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Passed:
    text: str  # certainly part of the answer
    stop: str | None = None  # the stop string found; the answer is over


class StopTexts:
    """Filters one answer's text. Used by one thread."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""  # a proper prefix of some stop string, not yet decided

    def feed(self, text: str) -> Passed:
        if not self._stops:
            return Passed(text)
        pending = self._held + text
        found = self._first_match(pending)
        if found is not None:
            self._held = ""
            end, stop = found
            return Passed(pending[: end - len(stop)], stop)
        keep = self._undecided(pending)
        self._held = pending[len(pending) - keep :]
        return Passed(pending[: len(pending) - keep])

    def flush(self) -> str:
        """The answer ended otherwise: what was held back belongs to it."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, str] | None:
        """End and text of the match that ends first; of several the longest."""
        matches = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if not matches:
            return None
        end, _, stop = min(matches)
        return end, stop

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
