"""A model's name to the directory that is opened: found, downloaded, or packed into the cache."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from moestro.cache_dir import packed_path
from moestro.checkpoint.resolve import resolve_model
from moestro.checkpoint.store_format import is_store
from moestro.config import EngineConfig

Say = Callable[[str], None]
LoadProgress = Callable[[str, int, int], None]  # (stage, bytes done, bytes in all)

# Formats that a checkpoint can only be packed into; the others are used in place.
PACKED_FORMATS = ("q8", "q4")


def prepare_model(config: EngineConfig, say: Say, progress: LoadProgress) -> Path:
    """The directory to load. A quantised run of a Hugging Face checkpoint packs it once and finds it again later.

    Raises UsageError, CheckpointError, StorageError.
    """
    directory = resolve_model(config.model, say)
    if is_store(directory) or not {config.format, config.trunk_format} & set(PACKED_FORMATS):
        return directory
    packed = packed_path(config.model, directory, config.format, config.trunk_format)
    if is_store(packed):
        say(f"packed copy: {packed}")
        return packed
    from moestro.pack import pack_checkpoint

    say(f"packing {directory} once, into {packed}")
    return pack_checkpoint(
        directory,
        packed,
        config.format,
        trunk_format=config.trunk_format,
        threads=config.threads,
        progress=lambda done, total: progress("packing", done, total),
        say=say,
    )


def say_on_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
