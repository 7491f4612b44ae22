"""Model directories: shards, links and what must stop a load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from moestro.checkpoint.index import CheckpointIndex, read_config, read_index
from moestro.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def write_shards(directory: Path, shards: dict[str, list[str]], weight_map: dict[str, object] | None = None) -> Path:
    """Shard name -> tensor names; the weight_map is theirs unless given."""
    directory.mkdir(exist_ok=True)
    for shard, names in shards.items():
        save_file({name: np.arange(4, dtype=np.float32) for name in names}, directory / shard)
    mapping = weight_map or {name: shard for shard, names in shards.items() for name in names}
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": mapping}))
    return directory


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_index(directory)
    return str(caught.value)


def test_all_tensors_of_a_sharded_checkpoint(tiny_checkpoint: Callable[[str], Path]) -> None:
    directory = tiny_checkpoint("qwen3_moe")
    index = read_index(directory)
    assert len(index.files) > 2
    seen = 0
    for file in index.files:
        with safe_open(file, "np") as handle:
            for name in handle.keys():  # noqa: SIM118
                assert index.tensors[name].file == file
                assert list(index.tensors[name].shape) == handle.get_slice(name).get_shape()
                seen += 1
    assert seen == len(index.tensors)


def test_links_of_a_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    blobs = write_shards(tmp_path / "blobs", {"model-1.safetensors": ["a"], "model-2.safetensors": ["b"]})
    snapshot = tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    index: CheckpointIndex = read_index(snapshot)
    assert set(index.tensors) == {"a", "b"}
    (blobs / "model-2.safetensors").unlink()
    message = refusal(snapshot)
    assert "model-2.safetensors" in message and "missing" in message


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "a/b.safetensors",
        "/etc/x.safetensors",
        "a\\b.safetensors",
        "..",
        "",
        "x\0.safetensors",
        3,
    ],
)
def test_shards_lie_beside_their_index(name: object, tmp_path: Path) -> None:
    outside = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, outside)
    directory = write_shards(tmp_path / "m", {"s.safetensors": ["a"]}, {"a": name})
    message = refusal(directory)
    assert "plain file name" in message and "'a'" in message


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    two = {"one.safetensors": ["a"], "two.safetensors": ["b"]}
    cases: list[tuple[dict[str, list[str]], dict[str, object], list[str]]] = [
        (two, {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}, ["'c'", "does not hold"]),
        (two, {"a": "two.safetensors", "b": "two.safetensors"}, ["'a'", "does not hold"]),
        ({"one.safetensors": ["a", "x"]}, {"a": "one.safetensors"}, ["'x'", "lacks"]),
        (
            {"one.safetensors": ["a"], "two.safetensors": ["a", "b"]},
            {"a": "one.safetensors", "b": "two.safetensors"},
            ["both"],
        ),
        (two, {"a": "two.safetensors", "b": "one.safetensors"}, ["'a'", "not in"]),
        (two, {"a": "one.bin", "b": "two.safetensors"}, ["one.bin"]),
    ]
    for number, (shards, mapping, words) in enumerate(cases):
        message = refusal(write_shards(tmp_path / str(number), shards, mapping))
        assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "text", ["", "[]", '{"weight_map": {}}', '{"weight_map": [1]}', '{"weight_map": {"a": 1, "a": 2}}']
)
def test_broken_index(text: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(text)
    assert INDEX in refusal(tmp_path)


def test_truncated_shard_is_named(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint("mixtral"), directory)
    shard = sorted(directory.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    message = refusal(directory)
    assert shard.name in message and "truncated" in message


@pytest.mark.parametrize("file", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickles_are_refused_with_the_way_out(file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"never opened")
    message = refusal(tmp_path)
    assert file in message and "safetensors" in message and "save_pretrained" in message


def test_directories_without_weights(tmp_path: Path) -> None:
    assert "neither model.safetensors nor" in refusal(tmp_path)
    assert "not a directory" in refusal(tmp_path / "absent")
    (tmp_path / "x.gguf").touch()
    assert "GGUF" in refusal(tmp_path)


def test_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_config(tmp_path)
    for text in ("{", "[]", '{"a": 1, "a": 2}', '{"a": NaN}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert read_config(tmp_path) == {"model_type": "llama"}
