"""Whatever breaks: exact output or a named error, and the object stays usable or closes. Never different text."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from moestro import LLM, SamplingParams
from moestro._core import Runtime
from moestro.checkpoint.store_format import read_manifest
from moestro.errors import CheckpointError, IntegrityError, MoestroError, NumericError, StorageError, UsageError
from moestro.models.decoder import DecoderLayer
from moestro.pack import pack_checkpoint

TOKENS = tiny_models.prompt(40)
KINDS = ("in place", "q8")


@pytest.fixture
def model(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the model that a test may break, in place or packed."""

    def directory(kind: str) -> Path:
        copy = tmp_path / "model"
        if kind == "in place":
            shutil.copytree(tiny_checkpoint("qwen3_moe"), copy)
            return copy
        return pack_checkpoint(tiny_checkpoint("qwen3_moe"), copy, kind, threads=1)

    return directory


def load(directory: Path, **settings: Any) -> LLM:
    return LLM(directory, **{"host_memory": "64MiB", "threads": 2, "expert_slots": 3, "say": None, **settings})


def shards(directory: Path, pattern: str = "*.safetensors") -> list[Path]:
    return sorted(directory.glob(pattern))


@pytest.mark.parametrize("engine", ("io_uring", "threads"))
@pytest.mark.parametrize("fault", ("eio@1", "eio@8", "enxio@30", "short@12"))
@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_read_is_named_and_survived(
    kind: str, fault: str, engine: str, model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = model(kind)
    with load(directory) as llm:
        right = llm.logits(TOKENS)
    word, at = fault.split("@")
    for count in (at, "60"):  # while loading, and later while running
        monkeypatch.setattr("moestro.models.load.Runtime", functools.partial(Runtime, faults=f"{word}@{count}"))
        try:
            llm = load(directory, io_engine=engine)
        except StorageError as error:
            assert directory.name in str(error)
            continue
        with llm:
            refused = 0
            for _ in range(8):
                try:
                    np.testing.assert_array_equal(llm.logits(TOKENS), right)
                except StorageError as error:
                    assert "expert" in str(error)
                    assert "safetensors" in str(error)
                    refused += 1
            assert refused == 1, f"read {count} went wrong once"


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_shard_is_refused(kind: str, model: Callable[[str], Path]) -> None:
    directory = model(kind)
    victim = shards(directory)[-1]
    os.truncate(victim, victim.stat().st_size - 5000)
    with pytest.raises(MoestroError, match=victim.name):
        load(directory)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", (b"\xff" * 8, b"\x00" * 8, b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all!"))
def test_a_corrupt_header_is_refused_or_not_needed(kind: str, damage: bytes, model: Callable[[str], Path]) -> None:
    directory = model(kind)
    victim = shards(directory)[0]
    with load(directory) as llm:
        right = llm.logits(TOKENS)
    with victim.open("r+b") as file:
        file.write(damage)
    if kind == "in place":
        with pytest.raises(MoestroError, match=victim.name):
            load(directory)
    else:  # a store's manifest knows where records lie: the header is for other readers
        with load(directory) as llm:
            np.testing.assert_array_equal(llm.logits(TOKENS), right)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def test_a_flipped_bit_is_found_wherever_it_is_stored(model: Callable[[str], Path]) -> None:
    """One byte of every record and tensor of a store, padding of records included."""
    directory = model("q8")
    manifest, random = read_manifest(directory), np.random.default_rng(5)
    for name, file, offset, nbytes in manifest.extents():
        victim = directory / manifest.files[file].name
        at = offset + int(random.integers(nbytes))
        flip(victim, at)
        with pytest.raises(IntegrityError) as caught, load(directory, expert_slots=None) as llm:
            for seed in range(6):  # every expert and embedding row is touched
                llm.logits(tiny_models.prompt(131, seed=seed))
        assert victim.name in str(caught.value), name
        flip(victim, at)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_replaced_while_running_is_noticed(kind: str, model: Callable[[str], Path]) -> None:
    directory = model(kind)
    with load(directory) as llm:
        right = llm.logits(TOKENS)
        for victim in shards(directory):
            copy = victim.with_suffix(".copy")
            shutil.copyfile(victim, copy)
            flip(copy, copy.stat().st_size // 2)
            copy.rename(victim)
        try:
            np.testing.assert_array_equal(llm.logits(TOKENS), right)  # from the files that were opened
        except IntegrityError as error:
            assert "replaced" in str(error)


def test_a_file_overwritten_while_running_is_noticed(model: Callable[[str], Path]) -> None:
    directory = model("in place")
    with load(directory) as llm:
        llm.logits(TOKENS)
        for victim in shards(directory):
            flip(victim, victim.stat().st_size - 100)
        with pytest.raises(IntegrityError, match=r"changed|modified"):
            llm.logits(TOKENS)


def test_without_a_tokenizer_token_ids_still_work(model: Callable[[str], Path]) -> None:
    with load(model("in place")) as llm:
        assert len(llm.generate([[1, 2, 3]], SamplingParams(max_tokens=4, ignore_eos=True))[0].token_ids) == 4
        with pytest.raises(UsageError, match="tokenizer"):
            llm.generate(["text"])


def test_without_a_config_it_is_refused(model: Callable[[str], Path]) -> None:
    directory = model("in place")
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(directory)


def test_an_unknown_family_is_refused_with_the_known_ones(model: Callable[[str], Path]) -> None:
    directory = model("in place")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "grok"}))
    with pytest.raises(CheckpointError, match=r"(?s)grok.*qwen3_moe"):
        load(directory)


@pytest.mark.parametrize("value", (np.inf, np.nan))
@pytest.mark.parametrize("part", ("mlp.experts.0.up_proj", "self_attn.q_proj", "mlp.gate", "embed_tokens"))
def test_a_non_finite_weight_is_a_numeric_error(part: str, value: float, model: Callable[[str], Path]) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    directory = model("in place")
    for shard in shards(directory):
        with safe_open(shard, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            if part in name:
                tensor.view(-1)[::3] = torch.tensor(value)
        save_file(tensors, shard, metadata={"format": "pt"})
    with load(directory) as llm, pytest.raises(NumericError):
        for seed in range(3):
            llm.logits(tiny_models.prompt(131, seed=seed))


def test_an_interrupt_leaves_the_object_usable(model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with load(model("in place")) as llm:
        right = llm.logits(TOKENS)
        original, calls = DecoderLayer.feed, 0

        def interrupted(self: Any, work: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 5:
                raise KeyboardInterrupt
            original(self, work)

        monkeypatch.setattr(DecoderLayer, "feed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate([TOKENS.tolist()], SamplingParams(max_tokens=20, ignore_eos=True))
        np.testing.assert_array_equal(llm.logits(TOKENS), right)
