"""What is kept on disk is shown and deleted, and nothing else is."""

import json

import pytest
from typer.testing import CliRunner

from moestro import cache_dir
from moestro.cli.main import app
from moestro.errors import UsageError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MOESTRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(root, name, size=10000):
    (root / name).mkdir(parents=True)
    (root / name / "file").write_bytes(b"x" * size)


def run(*words):
    return CliRunner().invoke(app, ["cache", *words])


def test_an_empty_cache(root):
    assert (run("ls").exit_code, run("ls").stdout.split()) == (0, ["0", "B", "in", str(root)])
    assert not root.exists()


def test_ls_and_rm(root):
    fill(root, "packed/a-q8-123")
    fill(root, "packed/b.7.partial", 5)
    fill(root, "elsewhere/c")
    found = json.loads(run("ls", "--json").stdout)
    assert found["root"] == str(root)
    assert {entry["name"]: entry["finished"] for entry in found["entries"]} == {
        "packed/a-q8-123": True,
        "packed/b.7.partial": False,
    }
    assert 10000 <= found["entries"][0]["nbytes"] < 20000
    assert "(unfinished)" in run("ls").stdout
    assert run("rm", "packed/a-q8-123").exit_code == 0
    assert not (root / "packed/a-q8-123").exists()
    assert (root / "packed/b.7.partial").exists()
    assert run("rm", "--all").exit_code == 0
    assert cache_dir.entries() == []
    assert (root / "elsewhere/c/file").exists()


@pytest.mark.parametrize("name", ["../outside", "packed/..", "packed", "packed/nothing", "elsewhere/c", ""])
def test_only_entries_can_be_deleted(root, tmp_path, name):
    fill(root, "packed/a")
    fill(root, "elsewhere/c")
    fill(tmp_path, "outside")
    with pytest.raises(UsageError, match="not in the cache"):
        cache_dir.remove(name)
    assert (tmp_path / "outside/file").exists()


def test_links_are_not_entries(root, tmp_path):
    fill(tmp_path, "outside")
    (root / "packed").mkdir(parents=True)
    (root / "packed" / "link").symlink_to(tmp_path / "outside")
    assert cache_dir.entries() == []


@pytest.mark.parametrize("words", [("rm",), ("rm", "x", "--all")])
def test_rm_wants_names_or_all(root, words):
    assert run(*words).exit_code == 1


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("MOESTRO_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir.cache_root() == tmp_path / ".cache" / "moestro"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir.cache_root() == tmp_path / "xdg" / "moestro"


def test_a_packed_copy_is_found_again_only_for_the_same_files(root, tmp_path):
    source = tmp_path / "Some Model"
    fill(tmp_path, "Some Model")
    (source / "model.safetensors").write_bytes(b"1")
    first = cache_dir.packed_path(str(source), source, "q8", None)
    assert first.parent == root / "packed"
    assert first.name.startswith("Some--Model-q8-")
    assert cache_dir.packed_path(str(source) + "/", source, "q8", "q8") == first
    assert cache_dir.packed_path(str(source), source, "q8", "bf16").name.startswith("Some--Model-q8-bf16-")
    assert cache_dir.packed_path("org/name", source, "q4", None).name.startswith("org--name-q4-")
    (source / "model.safetensors").write_bytes(b"22")
    assert cache_dir.packed_path(str(source), source, "q8", None) != first
