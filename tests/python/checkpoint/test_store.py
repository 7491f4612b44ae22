"""A packed store: planned, written, read back by us and by the safetensors library, resumed, refused when broken."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from moestro import _core
from moestro.checkpoint.inspect import summarise_checkpoint, summarise_store
from moestro.checkpoint.safetensors_index import read_header
from moestro.checkpoint.safetensors_writer import SafetensorsWriter, TensorEntry, lay_out
from moestro.checkpoint.store_format import (
    EMBED_CHECKSUMS,
    MANIFEST_FILE,
    StoreManifest,
    checksum_value,
    is_store,
    manifest_text,
    parse_manifest,
    read_manifest,
)
from moestro.checkpoint.store_plan import PartFormat, PlannedTensor, StorePlan, plan_store
from moestro.errors import CheckpointError, StorageError, UsageError
from moestro.models.packed import model_of, open_store
from moestro.models.registry import open_checkpoint
from moestro.models.spec_json import spec_to_json
from moestro.pack import pack_checkpoint

Checkpoints = Callable[[str], Path]


def choose(layer: int | None, part: str) -> PartFormat:
    if part.startswith("experts."):
        return PartFormat("q4", "f32" if layer == 1 and part == "experts.up" else "f16")
    return PartFormat("bf16", "none") if part == "head" else PartFormat("q8", "f16")


def planned(directory: Path, **sizes: int) -> StorePlan:
    found = open_checkpoint(directory)
    return plan_store(spec_to_json(found.spec), found.config, found.weights, choose, _core.matrix_bytes, **sizes)


def content(tensor: PlannedTensor) -> bytes:
    """Plain tensors as they are; records and checksums filled with something that tells them apart."""
    if not tensor.parts and tensor.name != EMBED_CHECKSUMS:
        source = tensor.sources[0]
        with source.path.open("rb") as file:
            return os.pread(file.fileno(), source.nbytes, source.offset)
    return np.random.default_rng(list(tensor.name.encode())).bytes(tensor.nbytes)


def checksum(tensor: PlannedTensor) -> int:
    return int.from_bytes(content(tensor)[:8].ljust(8, b"\0"), "little")


def write(plan: StorePlan, directory: Path) -> StoreManifest:
    directory.mkdir(exist_ok=True)
    checksums = {}
    for file in plan.files:
        with SafetensorsWriter(directory / file.name, file.layout) as writer:
            for tensor in file.tensors:
                writer.append(tensor.name, content(tensor))
                checksums[tensor.name] = checksum(tensor)
    manifest = plan.manifest(checksums)
    (directory / MANIFEST_FILE).write_text(manifest_text(manifest))
    return manifest


NAMES = [
    "qwen3_moe-dense-layers-biases",
    "mixtral-window-tied",
    "llama-biases-dynamic",
    "qwen3_moe-fused",
    "qwen3-tied",
]


@pytest.mark.parametrize("name", NAMES)
def test_store_is_what_was_planned(name: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    plan = planned(tiny_checkpoint(name), max_file_bytes=100_000, head_slice_bytes=8_000)
    manifest = write(plan, tmp_path)
    assert is_store(tmp_path)
    assert plan.nbytes == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert sum(file.name.startswith("trunk-") for file in plan.files) > 2
    packed = open_store(tmp_path)
    assert packed.manifest == manifest
    assert packed.spec == open_checkpoint(tiny_checkpoint(name)).spec
    extents = {name: (file, offset, nbytes) for name, file, offset, nbytes in manifest.extents()}
    tensors = [tensor for file in plan.files for tensor in file.tensors]
    assert extents.keys() == {tensor.name for tensor in tensors}
    for tensor in tensors:
        file, offset, nbytes = extents[tensor.name]
        with (tmp_path / manifest.files[file].name).open("rb") as handle:
            assert os.pread(handle.fileno(), nbytes, offset) == content(tensor)
        if tensor.parts:
            assert offset % 4096 == nbytes % 4096 == 0


@pytest.mark.parametrize("name", NAMES)
def test_any_safetensors_tool_reads_it(name: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    plan = planned(tiny_checkpoint(name))
    write(plan, tmp_path)
    for file in plan.files:
        # torch: the library's numpy side has no bfloat16
        with safe_open(tmp_path / file.name, "pt") as handle:
            assert set(handle.keys()) == {tensor.name for tensor in file.tensors}
            for tensor in file.tensors:
                value = handle.get_tensor(tensor.name)
                assert value.flatten().view(torch.uint8).numpy().tobytes() == content(tensor)
                assert tuple(value.shape) == tensor.entry.shape


def test_every_weight_is_packed_once(tiny_checkpoint: Checkpoints) -> None:
    for name in NAMES:
        found = open_checkpoint(tiny_checkpoint(name))
        plan = planned(tiny_checkpoint(name), head_slice_bytes=8_000)
        tensors = [tensor for file in plan.files for tensor in file.tensors if tensor.name != EMBED_CHECKSUMS]
        sources = [source for tensor in tensors for source in tensor.sources]
        covered = sorted((str(s.path), s.offset, s.offset + s.nbytes) for s in sources)
        wanted = [tensor for _, tensor in found.weights.roles()] + ([found.weights.head] if found.weights.tied else [])
        # The head is cut into slices that follow each other; everything else is whole.
        assert sum(end - begin for _, begin, end in covered) == sum(tensor.nbytes for tensor in wanted)
        pieces = {(str(s.path), s.offset) for s in sources}
        assert all((str(tensor.path), tensor.offset) in pieces for tensor in wanted)


def test_parts_describe_their_matrices(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    manifest = write(planned(tiny_checkpoint("qwen3_moe-dense-layers-biases")), tmp_path)
    assert [part.name for part in manifest.layers[1].trunk.parts] == ["q", "k", "v", "o", "gate", "up", "down"]
    experts = manifest.layers[2].experts
    assert manifest.layers[1].experts is None and experts is not None and len(experts.offsets) == 7
    assert [(part.name, part.rows, part.cols) for part in experts.parts] == [
        ("gate", 37, 70),
        ("up", 37, 70),
        ("down", 70, 37),
    ]
    assert all(
        part.nbytes == _core.matrix_bytes(part.format, part.scale, part.rows, part.cols) for part in experts.parts
    )
    assert manifest.tensor("layers.0.q_bias").dtype == "BF16"
    with pytest.raises(CheckpointError, match="nothing"):
        manifest.tensor("nothing")
    heads = [(record.parts[0].rows, record.parts[0].format) for record in manifest.head]
    assert heads == [(131, "bf16")]
    assert checksum_value(experts.checksums[0]) < 2**64


def test_fingerprint_follows_the_formats(tiny_checkpoint: Checkpoints) -> None:
    found = open_checkpoint(tiny_checkpoint("mixtral"))

    def plan(scale: str) -> StorePlan:
        return plan_store(
            spec_to_json(found.spec),
            found.config,
            found.weights,
            lambda *_: PartFormat("q8", scale),
            _core.matrix_bytes,
        )

    assert plan("f16").fingerprint == plan("f16").fingerprint != plan("bf16").fingerprint


def damages(values: dict[str, Any]) -> Iterator[tuple[str, Callable[[dict[str, Any]], Any]]]:
    yield "version", lambda m: m.update(format_version=2)
    yield "unknown key", lambda m: m.update(surprise=1)
    yield "missing key", lambda m: m.pop("head")
    yield "file name", lambda m: m["files"][0].update(name="../x.safetensors")
    yield "beyond the file", lambda m: m["layers"][0]["trunk"].update(offset=1 << 40)
    yield "negative", lambda m: m["layers"][0]["trunk"].update(offset=-4096)
    yield "unaligned", lambda m: m["layers"][0]["trunk"].update(offset=m["layers"][0]["trunk"]["offset"] + 64)
    yield "overlap", lambda m: m["layers"][1]["trunk"].update(offset=m["layers"][0]["trunk"]["offset"])
    yield "file number", lambda m: m["layers"][0]["trunk"].update(file=99)
    yield "mistyped", lambda m: m["layers"][0]["trunk"].update(file=True)
    yield "format", lambda m: m["layers"][0]["trunk"]["parts"][0].update(format="q3")
    yield "scale", lambda m: m["layers"][0]["trunk"]["parts"][0].update(scale="none")
    yield "parts overlap", lambda m: m["layers"][0]["trunk"]["parts"][1].update(offset=0)
    yield "record too small", lambda m: m["layers"][0]["trunk"].update(record_bytes=4096)
    yield "checksum", lambda m: m["layers"][0]["trunk"].update(checksum="XYZ")
    yield "plain type", lambda m: m["plain"][0].update(dtype="I64")
    yield "expert lists", lambda m: m["layers"][0]["experts"]["files"].pop()
    yield "expert parts", lambda m: m["layers"][0]["experts"]["parts"].reverse()
    yield "activation", lambda m: m["layers"][0]["experts"].update(activation="gelu")


def test_broken_manifests_are_refused(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    values = json.loads(manifest_text(write(planned(tiny_checkpoint("mixtral")), tmp_path)))
    assert parse_manifest(values)
    for name, damage in damages(values):
        broken = json.loads(json.dumps(values))
        damage(broken)
        with pytest.raises(CheckpointError, match=r"moestro\.json"):
            parse_manifest(broken)
            pytest.fail(name)


def model_damages() -> Iterator[Callable[[dict[str, Any]], Any]]:
    yield lambda m: m["layers"].pop()
    yield lambda m: m["head"].pop()
    yield lambda m: m["plain"].pop()
    yield lambda m: m["plain"].append(m["plain"][-1] | {"name": "stranger", "offset": 8, "rows": 1, "cols": 1})
    yield lambda m: m["layers"][0]["trunk"]["parts"][0].update(rows=5)
    yield lambda m: m["layers"][0]["experts"]["parts"][0].update(rows=5)
    yield lambda m: m["layers"][0].update(experts=None)
    yield lambda m: m["model"].update(vocab_size=77)
    yield lambda m: m["model"].update(vocab_size="131")
    yield lambda m: m["model"].pop("rope")
    yield lambda m: m["model"]["layers"][0]["mlp"].update(num_experts=9)
    yield lambda m: m["model"]["layers"][0]["mlp"].update(num_experts_per_tok=99)
    yield lambda m: m["model"]["layers"][0].update(sliding_window=-3)
    yield lambda m: m["model"]["rope"].update(type="spiral")
    yield lambda m: m["model"]["rope"].update(theta=-5.0)
    yield lambda m: m["model"].update(dtype="q7")
    yield lambda m: m["model"].update(activation="gelu")
    yield lambda m: m["model"].update(model_type="grok")
    yield lambda m: m["model"].update(num_kv_heads=0)
    yield lambda m: m["model"].update(max_position_embeddings=-1)
    yield lambda m: m["layers"][0]["trunk"]["parts"][0].update(format="q4")
    yield lambda m: m["layers"][0]["experts"]["parts"][2].update(nbytes=64)
    yield lambda m: m["model"]["layers"][0].update(mlp={"intermediate_size": 93})


def test_stores_that_are_not_their_model_are_refused(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    text = manifest_text(write(planned(tiny_checkpoint("mixtral"), head_slice_bytes=8_000), tmp_path))
    for damage in model_damages():
        broken = json.loads(text)
        damage(broken)
        (tmp_path / MANIFEST_FILE).write_text(json.dumps(broken))
        with pytest.raises(CheckpointError, match=r"moestro\.json"):
            open_store(tmp_path)


@functools.cache
def planned_text(directory: Path) -> str:
    plan = planned(directory)
    return manifest_text(plan.manifest({tensor.name: 7 for file in plan.files for tensor in file.tensors}))


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_manifest_crashes_the_reader(data: st.DataObject, tiny_checkpoint: Checkpoints) -> None:
    """Any one value replaced by anything: accepted or CheckpointError."""
    values = json.loads(planned_text(tiny_checkpoint("mixtral")))
    node: Any = values
    while True:
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            break
        key = data.draw(st.sampled_from(list(keys)))
        if isinstance(node[key], (dict, list)) and data.draw(st.booleans()):
            node = node[key]
            continue
        junk = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4))
        node[key] = data.draw(st.one_of(junk, st.lists(junk, max_size=3), st.dictionaries(st.text(max_size=3), junk)))
        break
    try:
        model_of(parse_manifest(values), MANIFEST_FILE)
    except CheckpointError as error:
        assert "moestro.json" in str(error)


def test_store_files_must_be_there_and_whole(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    manifest = write(planned(tiny_checkpoint("llama")), tmp_path)
    path = tmp_path / manifest.files[-1].name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=path.name):
        read_manifest(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        read_manifest(tmp_path)
    with pytest.raises(CheckpointError, match="not a packed store"):
        read_manifest(tmp_path / "absent")


ENTRIES = [TensorEntry(f"t{number}", "U8", (4096 * size,), 4096 * size) for number, size in enumerate((1, 3, 2))]


def data_of(entry: TensorEntry) -> bytes:
    return entry.name.encode()[-1:] * entry.nbytes


def test_interrupted_file_goes_on_where_it_was(tmp_path: Path) -> None:
    layout, whole, resumed = lay_out(ENTRIES), tmp_path / "whole", tmp_path / "resumed"
    with SafetensorsWriter(whole, layout) as writer:
        for entry in ENTRIES:
            writer.append(entry.name, data_of(entry))
    assert whole.stat().st_size == layout.nbytes
    for done in range(len(ENTRIES) + 1):
        with pytest.raises(KeyboardInterrupt), SafetensorsWriter(resumed, layout) as writer:
            for entry in ENTRIES[:done]:
                writer.append(entry.name, data_of(entry))
            raise KeyboardInterrupt
        with resumed.open("ab") as file:
            file.write(b"half a tensor")
        with SafetensorsWriter(resumed, layout, written=done) as writer:
            assert writer.written == done
            for entry in ENTRIES[done:]:
                writer.append(entry.name, data_of(entry))
        assert resumed.read_bytes() == whole.read_bytes()
    assert list(read_header(resumed)) == ["t0", "t1", "t2"]


def test_resuming_another_file_is_refused(tmp_path: Path) -> None:
    layout = lay_out(ENTRIES)
    path = tmp_path / "other"
    path.write_bytes(bytes(layout.nbytes))
    with pytest.raises(StorageError, match="not the file that was interrupted"):
        SafetensorsWriter(path, layout, written=1)
    path.write_bytes(layout.header)
    with pytest.raises(StorageError, match="not the file that was interrupted"):
        SafetensorsWriter(path, layout, written=1)


def test_writer_refuses_what_does_not_come_next(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="t1"), SafetensorsWriter(tmp_path / "a", lay_out(ENTRIES)) as writer:
        writer.append("t1", bytes(4096))
    with pytest.raises(UsageError, match="4095"), SafetensorsWriter(tmp_path / "b", lay_out(ENTRIES)) as writer:
        writer.append("t0", bytes(4095))
    with pytest.raises(UsageError, match="0 of 3"), SafetensorsWriter(tmp_path / "c", lay_out(ENTRIES)):
        pass


def test_tensors_larger_than_memory_come_in_pieces(tmp_path: Path) -> None:
    layout, data = lay_out(ENTRIES), data_of(ENTRIES[1])
    with SafetensorsWriter(tmp_path / "pieces", layout) as writer:
        writer.append("t0", data_of(ENTRIES[0]))
        for begin in range(0, len(data), 1000):
            assert writer.written == 1
            writer.extend("t1", data[begin : begin + 1000])
        with pytest.raises(UsageError, match="t1 of 1 bytes"):
            writer.extend("t1", b"x")
        writer.append("t2", data_of(ENTRIES[2]))
    with safe_open(tmp_path / "pieces", "np") as handle:
        assert all(handle.get_tensor(entry.name).tobytes() == data_of(entry) for entry in ENTRIES)
    with pytest.raises(UsageError, match="4097 bytes"), SafetensorsWriter(tmp_path / "too many", layout) as writer:
        writer.extend("t0", bytes(4097))
    with pytest.raises(UsageError, match="0 of 3"), SafetensorsWriter(tmp_path / "unfinished", layout) as writer:
        writer.extend("t0", bytes(4095))
        with pytest.raises(UsageError, match="4095 bytes written"):
            writer.append("t0", bytes(4096))


def test_full_disk_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    with (
        pytest.raises(StorageError, match=r"x\.safetensors.*No space left"),
        SafetensorsWriter(path, lay_out(ENTRIES)) as writer,
    ):
        writer.append("t0", data_of(ENTRIES[0]))
        real = os.pwrite
        calls = iter([100])  # a short write first, then none at all

        def full(descriptor: int, view: memoryview, offset: int) -> int:
            if (count := next(calls, None)) is None:
                raise OSError(28, "No space left on device")
            return real(descriptor, view[:count], offset)

        monkeypatch.setattr(os, "pwrite", full)
        writer.append("t1", data_of(ENTRIES[1]))
    monkeypatch.undo()
    with SafetensorsWriter(path, lay_out(ENTRIES), written=1) as writer:
        for entry in ENTRIES[1:]:
            writer.append(entry.name, data_of(entry))
    assert len(read_header(path)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_summaries_count_what_transformers_counts(name: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    directory = tiny_checkpoint(name)
    found = open_checkpoint(directory)
    model = tiny_models.reference(directory)
    checkpoint = summarise_checkpoint(found.spec.model_type, found.weights)
    assert checkpoint.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert checkpoint.nbytes == 2 * checkpoint.parameters
    assert checkpoint.layers == found.spec.num_layers
    store = summarise_store(found.spec.model_type, found.weights.tied, write(planned(directory), tmp_path))
    assert (store.parameters, store.experts, store.tied) == (checkpoint.parameters, checkpoint.experts, checkpoint.tied)
    by_class = {entry.kind: entry for entry in checkpoint.classes}
    for entry in store.classes:
        if entry.kind != "head":
            assert entry.parameters == sum(e.parameters for e in checkpoint.classes if e.kind == entry.kind)
    assert by_class["embedding"].format == "bf16"
    assert {entry.format for entry in store.classes if entry.kind == "experts"} <= {"q4"}


def test_stores_of_earlier_versions_stay_readable(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    """What the manifests of version 0.1 had of a rope; fields that came later may be missing, others may not."""
    first = [
        *("theta", "type", "factor", "max_position_embeddings", "original_max_position_embeddings"),
        *("low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ]
    store = pack_checkpoint(tiny_checkpoint("qwen3_moe-yarn"), tmp_path / "store", "q8", threads=1)
    spec = open_store(store).spec
    manifest = json.loads((store / MANIFEST_FILE).read_text())
    rope = manifest["model"]["rope"]
    manifest["model"]["rope"] = {name: rope[name] for name in first}
    (store / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert open_store(store).spec == spec
    del manifest["model"]["rope"]["theta"]
    (store / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"model\.rope: expected an object"):
        open_store(store)
