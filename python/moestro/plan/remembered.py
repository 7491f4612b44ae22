"""What was measured on this machine and need not be measured again: a JSON file of the cache folder, by key."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from moestro.cache_dir import cache_root


def read_remembered(file: str) -> dict[str, Any]:
    """Empty where there is nothing, or it is damaged."""
    with suppress(OSError, ValueError):
        known = json.loads((cache_root() / file).read_text())
        if isinstance(known, dict):
            return known
    return {}


def remember(file: str, key: str, value: Any) -> None:
    """As far as the cache folder can be written: without it the next load measures again."""
    path = cache_root() / file
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**read_remembered(file), key: value}, indent=1) + "\n")
        partial.replace(path)
