"""Fixtures that several folders use."""

from __future__ import annotations

import signal
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


def pytest_configure(config: pytest.Config) -> None:
    """A test run started in the background ignores SIGINT, and so would every process it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
