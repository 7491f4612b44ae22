"""Fixtures that several folders use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name of tiny_models.CONFIGS -> its directory, written once per session. Do not change what is in it."""
    made: dict[str, Path] = {}

    def checkpoint(name: str) -> Path:
        if name not in made:
            made[name] = tiny_models.write(name, tmp_path_factory.mktemp("tiny") / name)
        return made[name]

    return checkpoint
