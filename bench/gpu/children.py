"""Processes whose lines are results: each has its time, and what it printed before that was up counts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Child:
    """What a process left."""

    lines: list[dict[str, Any]]
    failure: str = ""  # why there are no more; empty: it ended as it should
    said: str = field(default="", repr=False)  # on stderr


def run_child(command: Sequence[str], seconds: float) -> Child:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, seconds), check=False)
    except subprocess.TimeoutExpired as late:
        return Child(_lines(late.stdout), f"it was stopped after {seconds:.0f} s", _text(late.stderr))
    except OSError as error:
        return Child([], f"{command[0]}: {error.strerror or error}")
    if done.returncode == 0:
        return Child(_lines(done.stdout), "", done.stderr)
    last = [line for line in done.stderr.strip().splitlines() if line.strip()][-3:]
    return Child(_lines(done.stdout), " / ".join(last)[-600:] or f"exit status {done.returncode}", done.stderr)


def run_script(script: str, settings: dict[str, Any], seconds: float) -> Child:
    """A script of this folder, which takes its settings as one argument of JSON."""
    path = Path(__file__).with_name(script)
    return run_child([sys.executable, str(path), json.dumps(settings)], seconds)


def _lines(output: str | bytes | None) -> list[dict[str, Any]]:
    """Whole lines: the last one may have been cut."""
    found = []
    for line in _text(output).splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
