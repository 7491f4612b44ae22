"""A random model is a checkpoint that transformers itself reads."""

from dataclasses import replace

import pytest
import tiny_talker

from moestro.checkpoint import disk_space
from moestro.demo.random_model import write_random_checkpoint
from moestro.errors import StorageError
from moestro.models.registry import open_checkpoint
from moestro.text.model_text import read_model_text


@pytest.mark.parametrize("experts", (tiny_talker.SHAPE.experts, 0))
def test_transformers_and_moestro_read_it(experts, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory, seen = tmp_path / "model", []
    shape = replace(tiny_talker.SHAPE, experts=experts)
    write_random_checkpoint(directory, shape, lambda done, total: seen.append((done, total)))
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


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"the random model needs .* are missing"):
        write_random_checkpoint(tmp_path / "model", tiny_talker.SHAPE, lambda done, total: None)
    assert not (tmp_path / "model").exists()
