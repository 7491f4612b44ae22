"""Tokens to text, one at a time, never a broken character.

A token may hold part of a character's bytes, and some decoders treat the first token of a text specially. So a window
of tokens is decoded twice, without and with the newest ones, and only the difference is passed on; text that ends in
a replacement character may still become a real one and waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TextDecoder(Protocol):
    def decode(self, token_ids: Sequence[int]) -> str: ...


class Detokenizer:
    """The text of one answer. Used by one thread."""

    def __init__(self, decoder: TextDecoder, before: Sequence[int] = ()) -> None:
        """before: the last tokens of the prompt, so that the answer's first token is not taken for a text's first."""
        self._decoder = decoder
        self._window = list(before)
        self._passed = len(self._window)  # tokens of the window whose text is out

    def feed(self, token: int) -> str:
        """Text that is now certain; "" while a character is incomplete."""
        self._window.append(token)
        fresh = self._fresh()
        if not fresh or fresh.endswith("\ufffd"):
            return ""
        self._window = self._window[self._passed :]
        self._passed = len(self._window)
        return fresh

    def flush(self) -> str:
        """What still waits, broken characters as the decoder shows them."""
        fresh = self._fresh()
        self._passed = len(self._window)
        return fresh

    def _fresh(self) -> str:
        known = self._decoder.decode(self._window[: self._passed])
        return self._decoder.decode(self._window)[len(known) :]
