"""Models that come with the package: "moestro:<name>" names them wherever a model can be named.

tools/train_demo_model.py makes them; each folder's README.md says what it is.
"""

from __future__ import annotations

from pathlib import Path

from moestro.errors import UsageError

PREFIX = "moestro:"
_FOLDER = Path(__file__).resolve().parent.parent / "demo" / "models"


def built_in_models() -> tuple[str, ...]:
    """Their full names, sorted."""
    return tuple(sorted(PREFIX + path.name for path in _FOLDER.iterdir() if path.is_dir()))


def built_in_directory(model: str) -> Path:
    """The directory of "moestro:<name>". Raises UsageError listing the names there are."""
    if model not in built_in_models():
        raise UsageError(f"{model!r} does not come with moestro; these do: {', '.join(built_in_models())}")
    return _FOLDER / model.removeprefix(PREFIX)
