"""The demo's model is a checkpoint that transformers itself reads; it appears whole or not at all."""

import pytest
import small_demo

from moestro.checkpoint import disk_space
from moestro.demo import model
from moestro.errors import StorageError
from moestro.models.registry import open_checkpoint
from moestro.text.model_text import read_model_text


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("MOESTRO_CACHE", str(tmp_path))
    small_demo.shrink(monkeypatch, experts=4, hidden=32, expert_width=24)
    return tmp_path


def test_transformers_and_moestro_read_it(small):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    seen = []
    directory = model.make_demo_model(lambda done, total: seen.append((done, total)))
    assert directory == model.demo_directory()
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    checkpoint = open_checkpoint(directory)
    assert checkpoint.spec.num_layers == 3
    theirs, loading = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    text = read_model_text(directory)
    ids = text.encode("Hello, wörld 🙂")
    assert AutoTokenizer.from_pretrained(directory)("Hello, wörld 🙂").input_ids == list(ids)
    assert text.tokenizer is not None
    assert text.tokenizer.decode(ids) == "Hello, wörld 🙂"
    assert text.eos_ids == {text.tokenizer.token_id("<|im_end|>")}
    logits = theirs(torch.tensor([list(ids)])).logits
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.1


def test_it_is_made_once(small):
    directory = model.make_demo_model(lambda *_: None)
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert model.make_demo_model(lambda *_: pytest.fail("written again")) == directory
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_a_cancelled_one_leaves_nothing(small):
    def cancel(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.make_demo_model(cancel)
    assert not any((small / "demo").iterdir())


def test_no_room_is_said_before_anything_is_written(small, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"the demo model needs .* are missing"):
        model.make_demo_model(lambda *_: None)
    assert not (small / "demo").exists()
