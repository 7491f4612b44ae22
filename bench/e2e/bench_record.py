"""What every result under bench/results says of itself: command, date, commit, machine."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from moestro.plan.machine import cpu_name

_ROOT = Path(__file__).resolve().parents[2]


def record(threads: int) -> dict[str, Any]:
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": f"{cpu_name()}, {threads} threads, kernel {platform.release()}",
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def _commit() -> str:
    """The short hash, "+changes" where tracked files differ from it; "unknown" outside a clone."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--exclude=*"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
