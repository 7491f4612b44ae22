"""A Hugging Face model directory: its config and all its tensors, across shards, without reading any weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from moestro.checkpoint.safetensors_index import TensorInfo, read_header
from moestro.checkpoint.strict_json import read_object
from moestro.errors import CheckpointError

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt")


@dataclass(frozen=True)
class CheckpointIndex:
    """All tensors of a checkpoint by name, and the files that hold them."""

    directory: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]


def read_config(directory: Path) -> dict[str, Any]:
    """config.json as it is. Raises CheckpointError when it is missing or broken."""
    path = directory / CONFIG_FILE
    try:
        return read_object(path)
    except FileNotFoundError:
        raise CheckpointError(f"{directory} has no {CONFIG_FILE}: it is not a Hugging Face model directory") from None


def read_index(directory: Path) -> CheckpointIndex:
    """The tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.

    Symbolic links, as a Hugging Face cache has them, are followed. Raises CheckpointError, StorageError.
    """
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.exists():
        return CheckpointIndex(directory, (single,), MappingProxyType(read_header(single)))
    if not index.exists():
        raise CheckpointError(_no_weights(directory))
    weight_map = _weight_map(index)
    names = sorted(set(weight_map.values()))
    shards = {name: _read_shard(directory / name, index) for name in names}
    tensors = _merge(shards, weight_map, index)
    return CheckpointIndex(directory, tuple(directory / name for name in names), MappingProxyType(tensors))


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: expected a weight_map that names the shard of every tensor")
    for tensor, shard in weight_map.items():
        # A shard lies beside its index: anything that could name another place is refused.
        if not isinstance(shard, str) or not shard or set(shard) & set("/\\\0") or ".." in shard:
            raise CheckpointError(f"{index}: tensor {tensor!r}: {shard!r} is not a plain file name")
        if not shard.endswith(".safetensors"):
            raise CheckpointError(f"{index}: tensor {tensor!r}: {shard!r} is not a .safetensors file")
    return weight_map


def _read_shard(path: Path, index: Path) -> dict[str, TensorInfo]:
    if not path.is_file():  # also a link whose target is gone
        raise CheckpointError(f"{index} names shard {path.name}, which is missing: finish the download")
    return read_header(path)


def _merge(
    shards: Mapping[str, Mapping[str, TensorInfo]], weight_map: Mapping[str, str], index: Path
) -> dict[str, TensorInfo]:
    merged: dict[str, TensorInfo] = {}
    for shard, tensors in shards.items():
        for name, info in tensors.items():
            if name in merged:
                raise CheckpointError(f"{index}: tensor {name!r} is in both {merged[name].file.name} and {shard}")
            if name not in weight_map:
                raise CheckpointError(f"{index}: shard {shard} holds tensor {name!r}, which the weight_map lacks")
            merged[name] = info
    for name, shard in weight_map.items():
        if name not in merged:
            raise CheckpointError(f"{index}: tensor {name!r} should be in shard {shard}, which does not hold it")
        if merged[name].file.name != shard:
            raise CheckpointError(f"{index}: tensor {name!r} is in {merged[name].file.name}, not in {shard}")
    return merged


def _no_weights(directory: Path) -> str:
    if not directory.is_dir():
        return f"{directory} is not a directory"
    files = sorted(path.name for path in directory.iterdir())
    pickles = [name for name in files if name.endswith(_PICKLE_SUFFIXES)]
    if pickles:
        return (
            f"{directory} holds weights only as {', '.join(pickles[:3])}: such files run code when loaded, so moestro"
            " does not open them. Convert them to safetensors, for example by loading the model with transformers and"
            " calling save_pretrained(), or look for a safetensors revision of it"
        )
    if any(name.endswith(".gguf") for name in files):
        return f"{directory} holds GGUF weights: moestro reads safetensors; get the original Hugging Face checkpoint"
    return f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}: no weights to load"
