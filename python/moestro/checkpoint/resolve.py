"""LLM("...") -> a local directory: itself, a model of the package, the local Hugging Face cache, or a download."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from moestro.checkpoint.built_in import PREFIX, built_in_directory
from moestro.checkpoint.disk_space import require_space
from moestro.checkpoint.index import CONFIG_FILE, INDEX_FILE, SINGLE_FILE
from moestro.checkpoint.store_format import is_store
from moestro.errors import CheckpointError, StorageError, UsageError

# What a model needs; never pickles, scripts or the same weights in other shapes.
_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model")
# Side folders hold other variants (original/, onnx/, ...); consolidated files hold the same weights a second time.
_IGNORED = ("*/*", "consolidated*")

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def resolve_model(model: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """The local directory of `model`: a directory, "moestro:<name>" for one that comes with the package, or a Hugging
    Face name, downloaded when it is not in the cache.

    `say` receives one sentence before a download starts. Raises UsageError for neither, CheckpointError for a
    repository without safetensors, StorageError when it cannot be had (offline: with the command to run).
    """
    if model.startswith(PREFIX):
        return built_in_directory(model)
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path
    if path.is_file():
        raise UsageError(f"{model} is a file: give the model's directory")
    if not _REPOSITORY.fullmatch(model) or ".." in model or model.endswith((".safetensors", ".gguf")):
        raise UsageError(
            f"{model!r} is neither an existing directory nor a Hugging Face name like 'org/name'; to try moestro, name"
            " moestro:demo"
        )
    return _cached(model) or _download(model, say)


def is_complete(directory: Path) -> bool:
    """Whether a config and every weight file it needs are there."""
    if is_store(directory):
        return True
    if not (directory / CONFIG_FILE).exists():
        return False
    if (directory / SINGLE_FILE).exists():
        return True
    try:
        shards = set(json.loads((directory / INDEX_FILE).read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all(isinstance(shard, str) and (directory / shard).exists() for shard in shards)


def _cached(model: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UsageError(f"{model!r} is neither an existing directory nor a Hugging Face name: {error}") from error
    return directory if is_complete(directory) else None


def _download(model: str, say: Callable[[str], None]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        files = _remote_files(model)
        missing = sum(size for name, size in files if not _in_cache(model, name))
        require_space(Path(constants.HF_HUB_CACHE), missing, f"downloading {model}")
        say(f"downloading {model} into {constants.HF_HUB_CACHE}")
        return Path(snapshot_download(model, allow_patterns=list(_PATTERNS), ignore_patterns=list(_IGNORED)))
    except RepositoryNotFoundError as error:
        raise StorageError(
            f"{model!r} is no directory here and no model on the Hugging Face hub that you may read; for a private one"
            " log in with: hf auth login"
        ) from error
    except (OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(_offline(model, error)) from error
    except Exception as error:
        if not _is_network(error):
            raise
        raise StorageError(_offline(model, error)) from error


def _remote_files(model: str) -> list[tuple[str, int]]:
    """(name, bytes) of the files that would be downloaded."""
    from huggingface_hub import HfApi

    siblings: Sequence[Any] = HfApi().model_info(model, files_metadata=True).siblings or ()
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in siblings if _is_wanted(sibling.rfilename)}
    if not any(name.endswith(".safetensors") for name in sizes):
        raise CheckpointError(
            f"{model} has no safetensors weights: moestro does not open pickles; look for a converted copy of the model"
        )
    return list(sizes.items())


def _is_wanted(name: str) -> bool:
    wanted, ignored = (any(fnmatch(name, pattern) for pattern in patterns) for patterns in (_PATTERNS, _IGNORED))
    return wanted and not ignored


def _in_cache(model: str, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, name), str)


def _is_network(error: Exception) -> bool:
    """The HTTP library's own errors; which library that is depends on huggingface_hub's version."""
    return any(kind.__module__.split(".")[0] in ("httpx", "httpcore", "requests") for kind in type(error).__mro__)


def _offline(model: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"{model} is not in the local Hugging Face cache ({_cache_folder()}) and cannot be downloaded: {reason}."
        f" On a machine with a connection run: hf download {model}"
    )


def _cache_folder() -> str:
    from huggingface_hub import constants

    return os.fspath(constants.HF_HUB_CACHE)
