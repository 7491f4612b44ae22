"""How weights that do not stay in memory pass through it: a ring of slots, its settings, and the names these have.

All of the systems below read the layers of a model in order into a few buffers and reuse them; they differ in how many
buffers there are and how many are exchanged at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moestro.errors import UsageError


@dataclass(frozen=True)
class StreamShape:
    """`window` slots, refilled when `batch` of them are free. keep: units stay as far as memory goes, evenly spread."""

    window: int = 2
    batch: int = 1
    keep: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.window:
            raise UsageError(
                f"stream: expected a window of at least 1 and a batch of 1 to the window, got window {self.window},"
                f" batch {self.batch}"
            )


# name -> (arguments and what they are without being given, shape)
_PRESETS: dict[str, tuple[tuple[int, ...], Callable[..., StreamShape]]] = {
    # As many layers as fit stay: reads of the others hide behind them (EnergonAI's offload interval, 2209.02341).
    "interleave": ((2,), lambda window: StreamShape(window)),
    # ZeRO-Inference (2207.00032): nothing stays; one layer computes while the next is read.
    "zero-inference": ((), lambda: StreamShape(2, keep=False)),
    # Superpipeline (2410.08791): k layers in memory, k' of them exchanged at a time.
    "superpipeline": ((4, 1), lambda k, exchanged: StreamShape(k, exchanged, keep=False)),
    # TPI-LLM (2410.00531): a memory window that slides over the layers and wraps to the next token.
    "tpi-llm": ((2,), lambda window: StreamShape(window, keep=False)),
    # SE-MoE (2205.10034): layer i in slot i mod K of a ring; a slot is refilled as soon as it was computed.
    "se-moe": ((2,), lambda slots: StreamShape(slots, keep=False)),
}
STREAM_NAMES = tuple(_PRESETS)


def parse_stream(text: str) -> StreamShape | None:
    """The shape that "interleave", "superpipeline:4,2", ... name; None for "auto" and "off". Raises UsageError."""
    if text in ("auto", "off"):
        return None
    name, colon, rest = text.partition(":")
    if name not in _PRESETS:
        raise UsageError(f"stream: expected auto, off or one of {', '.join(STREAM_NAMES)}; got {text!r}")
    defaults, shape = _PRESETS[name]
    words = rest.split(",") if colon else []
    if len(words) > len(defaults) or not all(word.strip().isdecimal() for word in words):
        raise UsageError(
            f"stream: {name} takes up to {len(defaults)} numbers after a colon, such as {_example(name)}; got {text!r}"
        )
    return shape(*(int(word) for word in words), *defaults[len(words) :])


def _example(name: str) -> str:
    defaults = _PRESETS[name][0]
    return f"{name}:{','.join(map(str, defaults))}" if defaults else name
