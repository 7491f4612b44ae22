"""Names -> directories: local, cached, downloaded, offline. The hub is a stand-in; the cache is a real one on disk."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from moestro.checkpoint import disk_space
from moestro.checkpoint.resolve import is_complete, resolve_model
from moestro.errors import CheckpointError, StorageError, UsageError

FILES = {
    "config.json": 10,
    "model.safetensors": 1000,
    "pytorch_model.bin": 9999,
    "original/model.safetensors": 9999,
    "consolidated.safetensors": 9999,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def cached(cache: Path, model: str, files: dict[str, str]) -> Path:
    """A repository as huggingface_hub lays it out: blobs, a snapshot of links, refs."""
    repository = cache / f"models--{model.replace('/', '--')}"
    snapshot = repository / "snapshots" / "abc123"
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    for number, (name, text) in enumerate(files.items()):
        (repository / "blobs" / str(number)).write_text(text)
        (snapshot / name).symlink_to(Path("../../blobs") / str(number))
    return snapshot


def hub(monkeypatch: pytest.MonkeyPatch, files: dict[str, int], error: Exception | None = None) -> list[dict[str, Any]]:
    """Replaces the hub's API; returns the downloads asked for."""
    downloads: list[dict[str, Any]] = []
    real = huggingface_hub.snapshot_download

    def model_info(self: object, name: str, **_: Any) -> Any:
        if error is not None:
            raise error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in files.items()])

    def snapshot_download(name: str, **settings: Any) -> str:
        if settings.get("local_files_only"):
            return real(name, cache_dir=constants.HF_HUB_CACHE, **settings)
        downloads.append(settings)
        names = huggingface_hub.utils.filter_repo_objects(files, **settings)
        return str(cached(Path(constants.HF_HUB_CACHE), name, dict.fromkeys(names, "{}")))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return downloads


def test_a_directory_is_itself(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "name", ["", "a b", "/no/such/dir", "org/name/more", "../x", "org/..", "x.safetensors", "a//b"]
)
def test_neither_directory_nor_name(name: str) -> None:
    with pytest.raises(UsageError):
        resolve_model(name)


def test_a_model_of_the_package_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, {}, error=AssertionError("the hub was asked"))
    assert is_complete(resolve_model("moestro:demo"))
    with pytest.raises(UsageError, match="moestro:demo"):
        resolve_model("moestro:unknown")


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError, match="directory"):
        resolve_model(str(tmp_path / "model.safetensors"))


def test_cached_model_is_found_without_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = hub(monkeypatch, {}, error=AssertionError("the hub was asked"))
    snapshot = cached(cache, "org/name", {"config.json": "{}", "model.safetensors": ""})
    assert resolve_model("org/name") == snapshot
    assert downloads == []


def test_incomplete_cache_is_completed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    snapshot = cached(
        cache, "org/half", {"config.json": "{}", "model.safetensors.index.json": index, "1.safetensors": ""}
    )
    assert not is_complete(snapshot)
    hub(monkeypatch, FILES, error=OSError("no route to host"))
    with pytest.raises(StorageError, match="hf download org/half"):
        resolve_model("org/half")
    (snapshot / "2.safetensors").touch()
    assert resolve_model("org/half") == snapshot


def test_downloads_only_what_is_needed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads, said = hub(monkeypatch, FILES), []
    directory = resolve_model("org/new", said.append)
    assert is_complete(directory)
    assert len(downloads) == 1
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]
    assert len(said) == 1 and "org/new" in said[0]


def test_disk_is_checked_before_downloading(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = hub(monkeypatch, FILES | {"model.safetensors": 5 << 30})
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    with pytest.raises(StorageError, match=r"needs 5\.00 GiB.*4\.25 GiB are missing"):
        resolve_model("org/large")
    assert downloads == []


def test_what_is_not_downloaded_needs_no_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, FILES | {"consolidated.safetensors": 5 << 30, "original/model.safetensors": 5 << 30})
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    assert is_complete(resolve_model("org/twice"))


def test_pickle_only_repository_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = hub(monkeypatch, {"config.json": 5, "pytorch_model.bin": 50, "original/x.safetensors": 5})
    with pytest.raises(CheckpointError, match="no safetensors"):
        resolve_model("org/old")
    assert downloads == []


def test_offline_says_the_command(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, {}, error=huggingface_hub.errors.OfflineModeIsEnabled("offline mode"))
    with pytest.raises(StorageError, match="hf download org/far") as caught:
        resolve_model("org/far")
    assert str(cache) in str(caught.value)
