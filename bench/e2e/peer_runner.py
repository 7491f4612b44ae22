"""What every peer's process does: load, warm up, answer, print one JSON line. The parent is peers.py."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_WARM_PROMPT, _WARM_TOKENS, _WARM_SEED = 128, 4, 1_000_000


@dataclass(frozen=True)
class Answer:
    """Greedy decoding of one prompt, measured around everything that a caller waits for."""

    ttft_s: float  # until the first token is known
    decode_s: float  # all further tokens
    tokens: list[int]
    decode_read: int | None = None  # bytes read from the disk for these, page faults included
    stats: dict[str, Any] | None = None  # what the peer counted itself


class Peer(Protocol):
    """A loaded model."""

    about: str  # version and settings, as the peer gives them
    vocab: int

    def answer(self, prompt: list[int], count: int) -> Answer: ...


@dataclass(frozen=True)
class Settings:
    model: Path
    threads: int
    prompt: int
    generate: int
    repeats: int
    seed: int
    options: dict[str, object]  # what only this peer knows

    @property
    def context(self) -> int:
        """Positions that the longest answer needs, warming up included."""
        return max(self.prompt, _WARM_PROMPT) + max(self.generate, _WARM_TOKENS)


def serve(load: Callable[[Settings], Peer]) -> None:
    """The whole life of a peer's process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", help="JSON of Settings")
    given = json.loads(parser.parse_args().settings)
    settings = Settings(**{**given, "model": Path(given["model"])})
    peer = load(settings)
    peer.answer(random_prompt(_WARM_PROMPT, peer.vocab, _WARM_SEED), _WARM_TOKENS)
    prompt = random_prompt(settings.prompt, peer.vocab, settings.seed)
    answers = [peer.answer(prompt, settings.generate) for _ in range(settings.repeats)]
    result = {"about": peer.about, "peak_rss": peak_rss(), "answers": [asdict(answer) for answer in answers]}
    print(json.dumps(result), flush=True)


def random_prompt(length: int, vocab: int, seed: int) -> list[int]:
    """The same for every peer."""
    ids: list[int] = np.random.default_rng([seed, length]).integers(0, vocab, length).tolist()
    return ids


def disk_bytes() -> int:
    """What this process has had read from disks so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def peak_rss() -> int:
    """Bytes. VmHWM rather than getrusage, which starts from what the parent held when it forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
