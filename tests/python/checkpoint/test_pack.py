"""A checkpoint packed: every matrix is what numpy says, everything else is the source's bytes, nothing is silent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import xxhash
from core import numpy_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from moestro import _core
from moestro.checkpoint import read_ahead
from moestro.checkpoint.store_format import EMBED_CHECKSUMS, PartSpec, is_store, read_manifest
from moestro.checkpoint.verify import verify_store
from moestro.checkpoint.weights import TensorSlice
from moestro.errors import CheckpointError, IntegrityError, NumericError, StorageError, UsageError
from moestro.models.packed import PackedModel, open_store
from moestro.models.registry import open_checkpoint
from moestro.pack import pack_checkpoint

Checkpoints = Callable[[str], Path]

MODELS = ("qwen3_moe-dense-layers-biases", "mixtral-window-tied", "qwen3_moe-fused", "llama-biases-dynamic")


def raw(path: Path, offset: int, nbytes: int) -> np.ndarray:
    with path.open("rb") as file:
        return np.frombuffer(os.pread(file.fileno(), nbytes, offset), dtype=np.uint8)


def values(tensor: TensorSlice) -> np.ndarray:
    """The source's values, widened by torch."""
    kind = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[tensor.dtype]
    data = torch.frombuffer(bytearray(raw(tensor.path, tensor.offset, tensor.nbytes).tobytes()), dtype=kind)
    return data.float().numpy().reshape(tensor.rows, tensor.cols)


def packed_matrices(store: PackedModel, source: Path) -> Iterator[tuple[str, PartSpec, np.ndarray, TensorSlice]]:
    """(name, part, its bytes, its source) of every matrix of a store."""
    weights = open_checkpoint(source).weights
    for number, layer in enumerate(store.manifest.layers):
        record = raw(place(store, layer.trunk.file), layer.trunk.offset, layer.trunk.record_bytes)
        linears = weights.layers[number].linears
        for part in layer.trunk.parts:
            yield f"{number}.{part.name}", part, record[part.offset :][: part.nbytes], linears[part.name]
        for expert, mlp in enumerate(weights.layers[number].experts):
            assert layer.experts is not None
            file, offset = layer.experts.files[expert], layer.experts.offsets[expert]
            record = raw(place(store, file), offset, layer.experts.record_bytes)
            for part in layer.experts.parts:
                yield (
                    f"{number}.{expert}.{part.name}",
                    part,
                    record[part.offset :][: part.nbytes],
                    getattr(mlp, part.name),
                )
    first = 0
    for head in store.manifest.head:
        part, whole = head.parts[0], weights.head
        skipped = first * whole.cols * whole.nbytes // (whole.rows * whole.cols)
        source_rows = TensorSlice(whole.path, whole.offset + skipped, whole.dtype, part.rows, whole.cols)
        yield f"head.{first}", part, raw(place(store, head.file), head.offset, part.nbytes), source_rows
        first += part.rows


def place(store: PackedModel, file: int) -> Path:
    return store.directory / store.manifest.files[file].name


@pytest.mark.parametrize("kind", ("q8", "q4"))
@pytest.mark.parametrize("name", MODELS)
def test_integer_formats_are_what_numpy_packs(
    name: str, kind: str, tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    source = tiny_checkpoint(name)
    store = open_store(pack_checkpoint(source, tmp_path / "store", kind, threads=2))
    seen = 0
    for role, part, packed, tensor in packed_matrices(store, source):
        weights = values(tensor)
        expected = (numpy_model.pack_q8 if kind == "q8" else numpy_model.pack_q4)(weights, part.scale)
        assert part.format == kind and part.scale == "f16", role
        assert packed.tobytes() == numpy_model.integer_layout(expected, kind, part.scale).tobytes(), role
        groups = expected.codes.reshape(part.rows, -1, 32).astype(np.float32) * expected.scales[..., None]
        found = _core.unpack_matrix(packed, kind, part.scale, part.rows, part.cols)
        assert np.array_equal(found, groups.reshape(part.rows, -1)[:, : part.cols]), role
        seen += 1
    assert seen > 20


@pytest.mark.parametrize("kind", ("bf16", "f32", "auto"))
@pytest.mark.parametrize("name", MODELS[:2])
def test_float_formats_keep_every_value(name: str, kind: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = tiny_checkpoint(name)
    store = open_store(pack_checkpoint(source, tmp_path / "store", kind))
    for role, part, packed, tensor in packed_matrices(store, source):
        assert (part.format, part.scale) == ("bf16" if kind == "auto" else kind, "none"), role
        found = _core.unpack_matrix(packed, part.format, part.scale, part.rows, part.cols)
        assert found.tobytes() == values(tensor).tobytes(), role


@pytest.mark.parametrize("dtype", ("float32", "float16"))
def test_auto_widens_what_is_not_bf16(dtype: str, tmp_path: Path) -> None:
    source = tiny_models.write("mixtral", tmp_path / "source", dtype=dtype)
    store = open_store(pack_checkpoint(source, tmp_path / "store", "auto"))
    for role, part, packed, tensor in packed_matrices(store, source):
        assert part.format == "f32", role
        found = _core.unpack_matrix(packed, part.format, part.scale, part.rows, part.cols)
        assert found.tobytes() == values(tensor).tobytes(), role


@pytest.mark.parametrize("name", MODELS)
def test_small_tensors_keep_their_bytes(name: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = tiny_checkpoint(name)
    weights = open_checkpoint(source).weights
    store = open_store(pack_checkpoint(source, tmp_path / "store", "q4"))
    wanted = {role: tensor for role, tensor in weights.roles() if role == "embed" or role == "final_norm"}
    for number, layer in enumerate(weights.layers):
        wanted |= {f"layers.{number}.{role}": tensor for role, tensor in layer.small.items()}
    found = {tensor.name: tensor for tensor in store.manifest.plain}
    assert found.keys() == {*wanted, EMBED_CHECKSUMS}
    for role, tensor in wanted.items():
        stored = raw(place(store, found[role].file), found[role].offset, found[role].nbytes).tobytes()
        assert stored == raw(tensor.path, tensor.offset, tensor.nbytes).tobytes()
        assert found[role].dtype == tensor.dtype
        if role != "embed":
            assert found[role].checksum == xxhash.xxh64(stored).hexdigest()


def test_every_embedding_row_has_its_checksum(
    tiny_checkpoint: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "PIECE_BYTES", 4096)  # many pieces, the last one short
    source = tiny_checkpoint("qwen3-tied")
    store = open_store(pack_checkpoint(source, tmp_path / "store", "q8"))
    embed, table = store.manifest.tensor("embed"), store.manifest.tensor(EMBED_CHECKSUMS)
    rows = raw(place(store, embed.file), embed.offset, embed.nbytes).reshape(embed.rows, -1)
    expected = np.array([xxhash.xxh64_intdigest(row.tobytes()) for row in rows], dtype=np.uint64)
    stored = raw(place(store, table.file), table.offset, table.nbytes)
    assert np.array_equal(stored.view(np.uint64), expected)
    assert embed.checksum == table.checksum == xxhash.xxh64(stored.tobytes()).hexdigest()
    with safe_open(place(store, table.file), "np") as handle:
        assert np.array_equal(handle.get_tensor(EMBED_CHECKSUMS), expected)


def test_size_of_pieces_changes_nothing(
    tiny_checkpoint: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_checkpoint("qwen3_moe-fused")
    whole = pack_checkpoint(source, tmp_path / "whole", "q4", threads=2)
    monkeypatch.setattr(read_ahead, "PIECE_BYTES", 1)  # 32 rows at a time
    assert contents(pack_checkpoint(source, tmp_path / "pieces", "q4", threads=1)) == contents(whole)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", MODELS)
def test_safetensors_reads_every_file_and_records_are_aligned(
    name: str, tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    store = open_store(pack_checkpoint(tiny_checkpoint(name), tmp_path / "store", "q8", trunk_format="bf16"))
    plain = {tensor.name for tensor in store.manifest.plain}
    stored = {}
    for file in store.manifest.files:
        path = store.directory / file.name
        length = int.from_bytes(path.read_bytes()[:8], "little")
        assert (8 + length) % 4096 == 0
        stored |= load_file(path)
    extents = list(store.manifest.extents())
    assert stored.keys() == {extent[0] for extent in extents}
    for role, file, offset, nbytes in extents:
        tensor = stored[role]
        assert tensor.flatten().view(torch.uint8).numpy().tobytes() == raw(place(store, file), offset, nbytes).tobytes()
        if role not in plain:
            assert offset % 4096 == nbytes % 4096 == 0 and tensor.dtype == torch.uint8
    for layer in store.manifest.layers:
        assert all(part.format == "bf16" for part in layer.trunk.parts)
        assert layer.experts is None or all(part.format == "q8" for part in layer.experts.parts)
        file, offset, nbytes = layer.trunk.file, layer.trunk.offset, layer.trunk.record_bytes
        assert layer.trunk.checksum == xxhash.xxh64(raw(place(store, file), offset, nbytes).tobytes()).hexdigest()


def test_texts_come_along(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in tiny_checkpoint("llama").iterdir():
        (source / path.name).symlink_to(path)  # as in a Hugging Face cache
    texts = {
        "tokenizer.json": b'{"model": {}}',
        "tokenizer_config.json": b"{}",
        "special_tokens_map.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
        "LICENSE": b"free",
    }
    (source / "additional_chat_templates").mkdir()
    for name, content in texts.items():
        (source / name).write_bytes(content)
    (source / "model_code.py").write_text("raise SystemExit")
    made = contents(pack_checkpoint(source, tmp_path / "store", "q8"))
    assert {name: made.get(name) for name in texts} == texts
    weights = {name for name in made if name.endswith(".safetensors")}
    assert made.keys() - texts.keys() - weights == {"config.json", "generation_config.json", "moestro.json"}
    assert json.loads(made["moestro.json"])["config"] == json.loads((source / "config.json").read_bytes())


def test_progress_ends_where_it_should(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pack_checkpoint(
        tiny_checkpoint("mixtral"), tmp_path / "store", "q8", progress=lambda done, total: seen.append((done, total))
    )
    (total,) = {total for _, total in seen}
    done = [done for done, _ in seen]
    assert done[0] == 0 and done[-1] == total and done == sorted(set(done))


def rewrite(source: Path, change: Callable[[str, torch.Tensor], Any]) -> None:
    """Applies `change` in place to every tensor of a checkpoint."""
    for path in source.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            change(name, tensor)
        save_file(tensors, path, metadata={"format": "pt"})


def test_tiny_weights_get_f32_scales(tmp_path: Path) -> None:
    """One group too small for f16 in one expert: that part of all the layer's experts, and nothing else, changes."""

    def shrink(name: str, tensor: torch.Tensor) -> None:
        if name in ("model.layers.1.block_sparse_moe.experts.3.w3.weight", "lm_head.weight"):
            tensor[5, :32] *= 1e-8

    said: list[str] = []
    source = tiny_models.write("mixtral", tmp_path / "source")
    rewrite(source, shrink)
    progress: list[int] = []
    made = pack_checkpoint(
        source, tmp_path / "store", "q8", say=said.append, progress=lambda done, _: progress.append(done)
    )
    store = open_store(made)
    wide = set()
    for role, part, packed, tensor in packed_matrices(store, source):
        expected = numpy_model.pack_q8(values(tensor), part.scale)
        assert packed.tobytes() == numpy_model.integer_layout(expected, "q8", part.scale).tobytes(), role
        if part.scale == "f32":
            wide.add(role)
    assert wide == {*(f"1.{expert}.up" for expert in range(5)), "head.0"}
    assert progress.count(0) == 2, "it starts again once, whatever the number of classes"
    assert len(said) == 2 and "layer 1's experts.up" in said[1] and "head" in said[1]
    assert verify_store(made) > 0


@pytest.mark.parametrize("kind", ("q8", "q4"))
def test_weights_that_are_not_finite_are_named(kind: str, tmp_path: Path) -> None:
    def spoil(name: str, tensor: torch.Tensor) -> None:
        if name.endswith("layers.2.self_attn.k_proj.weight"):
            tensor[1, 2] = float("inf")

    source = tiny_models.write("llama", tmp_path / "source")
    rewrite(source, spoil)
    with pytest.raises(NumericError, match=r"layers\.2\.trunk\.k, from .*safetensors"):
        pack_checkpoint(source, tmp_path / "store", kind)
    assert not (tmp_path / "store").exists()


def test_targets_and_sources_that_do_not_do(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = tiny_checkpoint("mixtral")
    with pytest.raises(UsageError, match=r"format.*q5"):
        pack_checkpoint(source, tmp_path / "store", "q5")
    with pytest.raises(UsageError, match=r"trunk_format.*int8"):
        pack_checkpoint(source, tmp_path / "store", "q8", trunk_format="int8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        pack_checkpoint(tmp_path, tmp_path / "store", "q8")
    assert list(tmp_path.iterdir()) == [], "nothing was made"
    store = pack_checkpoint(source, tmp_path / "deep" / "store", "q8")
    with pytest.raises(UsageError, match="packed store already"):
        pack_checkpoint(store, tmp_path / "again", "q4")
    before = contents(store)
    with pytest.raises(UsageError, match="already holds a packed model"):
        pack_checkpoint(source, store, "q4")
    assert contents(store) == before
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(UsageError, match="taken exists"):
        pack_checkpoint(source, taken, "q8")
    assert taken.read_text() == "mine"
    foreign = tmp_path / "other.partial"
    foreign.mkdir()
    (foreign / "notes").write_text("mine")
    with pytest.raises(UsageError, match="not an interrupted pack"):
        pack_checkpoint(source, tmp_path / "other", "q8")
    assert contents(foreign) == {"notes": b"mine"}
    (tmp_path / "empty").mkdir()
    assert contents(pack_checkpoint(source, tmp_path / "empty", "q8")) == before


def test_truncated_shards_are_named_before_anything_is_made(tmp_path: Path) -> None:
    source = tiny_models.write("mixtral", tmp_path / "source")
    shard = sorted(source.glob("*.safetensors"))[3]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{shard.name}.*truncated"):
        pack_checkpoint(source, tmp_path / "store", "q8")
    assert not (tmp_path / "store").exists() and not (tmp_path / "store.partial").exists()


def test_no_room_is_said_before_a_byte_is_written(
    tiny_checkpoint: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=(256 << 20) + 5000))
    with pytest.raises(StorageError, match=r"packing into .*store needs .* free.*missing"):
        pack_checkpoint(tiny_checkpoint("mixtral"), tmp_path / "store", "q8")
    assert not is_store(tmp_path / "store")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("victim", ("layers.1.trunk", "layers.2.experts.4", "head.0", "embed", "layers.0.router"))
def test_a_flipped_bit_is_found_and_named(victim: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    made = pack_checkpoint(tiny_checkpoint("mixtral"), tmp_path / "store", "q4")
    store = open_store(made)
    assert verify_store(made) == sum(extent[3] for extent in store.manifest.extents())
    ((file, offset, nbytes),) = [extent[1:] for extent in store.manifest.extents() if extent[0] == victim]
    path = place(store, file)
    content = bytearray(path.read_bytes())
    content[offset + nbytes // 3] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"1 damaged: {victim} in {path.name}"):
        verify_store(made)


def test_weights_are_shared_between_drives(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Experts of a layer are dealt out; the same bits come back, and a drive that is gone is named."""
    from moestro import LLM

    source, drives = tiny_checkpoint("qwen3_moe"), [tmp_path / "b", tmp_path / "c"]
    plain = pack_checkpoint(source, tmp_path / "plain", "q8", threads=1)
    striped = pack_checkpoint(source, tmp_path / "a" / "store", "q8", stripe=drives, threads=1)
    manifest = read_manifest(striped)
    homes = [(striped / file.name).resolve().parent for file in manifest.files]
    for layer in manifest.layers:
        assert layer.experts is not None
        assert [homes[file] for file in layer.experts.files[:3]] == [striped, *(drive / "store" for drive in drives)]
    assert len({homes[layer.trunk.file] for layer in manifest.layers}) == 3
    ids = list(range(40))
    answers = []
    for directory in (plain, striped):
        with LLM(directory, host_memory="64MiB", expert_slots=3, stream="tpi-llm", say=None) as llm:
            answers.append(llm.logits(ids))
    np.testing.assert_array_equal(*answers)
    verify_store(striped)
    with pytest.raises(UsageError, match="exists: name another directory"):
        pack_checkpoint(source, tmp_path / "d" / "store", "q8", stripe=drives, threads=1)
    with pytest.raises(UsageError, match="name another directory"):
        pack_checkpoint(source, tmp_path / "e" / "store", "q8", stripe=[tmp_path / "e"], threads=1)
    (drives[1] / "store").rename(tmp_path / "unplugged")
    with pytest.raises(CheckpointError, match=r"c/store/.* is not there: is its drive mounted"):
        read_manifest(striped)


def test_an_interrupted_striped_pack_goes_on(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, drive = tiny_checkpoint("qwen3_moe"), tmp_path / "b"

    def stop(done: int, total: int) -> None:
        if done > total * 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_checkpoint(source, tmp_path / "store", "q4", stripe=[drive], threads=1, progress=stop)
    assert not (tmp_path / "store").exists()
    pack_checkpoint(source, tmp_path / "store", "q4", stripe=[drive], threads=1)
    verify_store(tmp_path / "store")
