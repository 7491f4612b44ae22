"""moestro runs Mixture-of-Experts language models larger than memory: experts are streamed from SSD under a budget.

Importing this package starts nothing and loads nothing heavy; names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moestro import errors
    from moestro.config import EngineConfig, SamplingParams
    from moestro.llm import LLM

    __version__: str

_HOMES = {"LLM": "moestro.llm", "SamplingParams": "moestro.config", "EngineConfig": "moestro.config"}

__all__ = ["LLM", "EngineConfig", "SamplingParams", "__version__", "errors"]


def __getattr__(name: str) -> Any:
    import importlib

    value: Any
    if name == "__version__":
        value = _version()
    elif name == "errors":
        value = importlib.import_module("moestro.errors")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'moestro' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The installed version; the package metadata is its one source."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("moestro")
    except PackageNotFoundError:  # run from a source tree
        return "0+uninstalled"
