"""Promise 1 for every family: in place or packed, whole or streamed, with all experts or two slots, the same bits. And
what `moestro inspect` says of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from typer.testing import CliRunner

from moestro import LLM
from moestro.cli.main import app
from moestro.pack import pack_checkpoint

TOKENS = tiny_models.prompt(44)


FAMILIES = tiny_models.by_family()


def logits(directory: Path, **settings: Any) -> Any:
    given = {"host_memory": "256MiB", "threads": 1, "kv_dtype": "f32", "say": None, **settings}
    with LLM(directory, **given) as llm:
        return llm.logits(TOKENS)


@pytest.mark.parametrize("family", FAMILIES)
def test_placement_does_not_change_a_bit(family: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = tiny_checkpoint(FAMILIES[family])
    placements: tuple[dict[str, Any], ...] = (
        {"threads": 2, "expert_slots": 2},
        {"threads": 3, "stream": "interleave", "prefill_chunk": 9},
        {"host_memory": "min"},
    )
    plain = logits(source)
    for settings in placements:
        np.testing.assert_array_equal(logits(source, **settings), plain)
    for format in ("bf16", "q8", "q4"):
        store = pack_checkpoint(source, tmp_path / format, format, threads=2)
        packed = logits(store)
        if format == "bf16":
            np.testing.assert_array_equal(packed, logits(source, format="bf16"))
        for settings in placements:
            np.testing.assert_array_equal(logits(store, **settings), packed)


@pytest.mark.parametrize("family", FAMILIES)
def test_inspect_shows_it(family: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = tiny_checkpoint(FAMILIES[family])
    store = pack_checkpoint(source, tmp_path / "store", "q8", threads=2)
    for directory in (source, store):
        text = CliRunner().invoke(app, ["inspect", str(directory)]).output
        shown = json.loads(CliRunner().invoke(app, ["inspect", str(directory), "--json"]).output)
        assert f": {family}, {shown['layers']} layers, " in text.replace("\n", "")
        experts = sum(shown["experts"])
        assert f"{experts} experts (" in text if experts else "dense" in text
        kinds = {entry["kind"] for entry in shown["classes"]}
        own_head = set() if shown["tied"] and directory == source else {"head"}
        assert {"attention", "embedding", "norm"} | own_head <= kinds
        assert ("experts" in kinds) == ("router" in kinds) == (experts > 0)
        assert "memory" in text and "SSD" in text
        assert sum(entry["nbytes"] for entry in shown["classes"]) == shown["nbytes"]
        formats = {entry["format"] for entry in shown["classes"] if entry["kind"] in ("experts", "attention")}
        assert formats & ({"bf16", "f32"} if directory == source else {"q8"})
        # A store has its head apart, also where it is tied.
        assert shown["parameters"] == used_parameters(source)


def used_parameters(source: Path) -> int:
    """Of transformers' model, without what sparse attention would choose by."""
    model = tiny_models.reference(source)
    saved = {name for name in model.state_dict() if "indexer" not in name}
    tensors = {name: value for name, value in (*model.named_parameters(), *model.named_buffers()) if name in saved}
    return sum(value.numel() for value in tensors.values())
