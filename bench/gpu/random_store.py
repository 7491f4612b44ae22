"""A packed store of a random model, written at the speed of the disk: no checkpoint is made and nothing is quantised.

Matrices are packed once per kind and written again and again with their panels turned, so every expert computes
something else; routers and embeddings are drawn anew. A real store in every respect, checksums included.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moestro import core
from moestro.cache_dir import PARTIAL
from moestro.checkpoint.disk_space import require_space
from moestro.checkpoint.index import CONFIG_FILE, INDEX_FILE
from moestro.checkpoint.model_texts import model_texts
from moestro.checkpoint.pack_formats import PackFormats
from moestro.checkpoint.record_packer import pieces_of, row_checksums
from moestro.checkpoint.safetensors_writer import SafetensorsWriter, lay_out
from moestro.checkpoint.store_format import EMBED_CHECKSUMS, MANIFEST_FILE, PartSpec, manifest_text
from moestro.checkpoint.store_packer import planned_tensors
from moestro.checkpoint.store_plan import PlannedTensor, StorePlan, plan_store
from moestro.checkpoint.weights import TensorSlice
from moestro.demo import random_model
from moestro.demo.random_model import Shape
from moestro.demo.tokenizer import END_TOKEN, train_tokenizer
from moestro.models.registry import open_checkpoint
from moestro.models.spec_json import spec_to_json
from moestro.threads import default_threads

U8 = NDArray[np.uint8]

# Qwen3-30B-A3B's.
QWEN3_30B = Shape(
    hidden=2048,
    layers=48,
    heads=32,
    kv_heads=4,
    head_dim=128,
    experts=128,
    experts_per_token=8,
    expert_width=768,
    context=40960,
    vocab=151936,
)
_DISTINCT = 8  # matrices of a kind that are packed
_PANEL_ROWS = {"q4": 16, "q8": 16, "bf16": 32, "f32": 32}


def random_store(directory: Path, shape: Shape, format: str) -> Path:
    """Written unless it is there. Raises StorageError where the disk has no room."""
    if directory.exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f"{directory.name}.{os.getpid()}{PARTIAL}")
    try:
        with tempfile.TemporaryDirectory() as empty:
            _write_store(partial, _hollow_checkpoint(Path(empty) / "checkpoint", shape), format)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _hollow_checkpoint(directory: Path, shape: Shape) -> Path:
    """A checkpoint whose tensors are holes in sparse files: it can be planned with, not read."""
    directory.mkdir()
    tokenizer = train_tokenizer()
    vocab = shape.vocab or tokenizer.get_vocab_size()
    weight_map = {}
    for number, entries in enumerate(random_model._shards(shape, vocab)):
        layout, name = lay_out(entries), f"model-{number:05}.safetensors"
        with (directory / name).open("wb") as file:
            file.write(layout.header)
            file.truncate(layout.nbytes)
        weight_map.update({entry.name: name for entry in entries})
    (directory / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    config = random_model._config(shape, vocab, tokenizer.token_to_id(END_TOKEN))
    (directory / CONFIG_FILE).write_text(json.dumps(config))
    random_model._write_tokenizer(directory, tokenizer)
    return directory


def _write_store(directory: Path, hollow: Path, format: str) -> None:
    checkpoint = open_checkpoint(hollow)
    choose = PackFormats(checkpoint.weights, trunk=format, experts=format)
    plan = plan_store(spec_to_json(checkpoint.spec), checkpoint.config, checkpoint.weights, choose, core.matrix_bytes)
    require_space(directory.parent, plan.nbytes, "the random store")
    directory.mkdir()
    checksums = _write_weights(directory, plan)
    for name, content in model_texts(hollow):
        (directory / name).write_bytes(content)
    (directory / MANIFEST_FILE).write_text(manifest_text(plan.manifest(checksums)))


def _write_weights(directory: Path, plan: StorePlan) -> dict[str, int]:
    """The checksum of every tensor."""
    records, plain = _Records(), _Plain()
    checksums: dict[str, int] = {}
    embed = next(tensor for tensor in planned_tensors(plan) if tensor.name == "embed")
    rows = np.concatenate(list(_row_checksums(plain, embed)))
    for file in plan.files:
        with SafetensorsWriter(directory / file.name, file.layout) as writer:
            for tensor in file.tensors:
                if tensor.parts:
                    data = records.make(tensor)
                elif tensor.name == EMBED_CHECKSUMS:
                    data = rows.view(np.uint8)
                else:
                    data = plain.make(tensor.name, tensor.sources[0])
                checksums[tensor.name] = core.xxh64(rows if tensor.name == "embed" else data)
                writer.append(tensor.name, data)
    return checksums


def _row_checksums(plain: _Plain, embed: PlannedTensor) -> Iterator[NDArray[np.uint64]]:
    data, begin = plain.make(embed.name, embed.sources[0]), 0
    for piece in pieces_of(embed):
        yield row_checksums(piece, data[begin : begin + piece.nbytes])
        begin += piece.nbytes


class _Plain:
    """Tensors that are not packed, in bf16: ones for norms, else normal with the size of what passes through kept."""

    def make(self, name: str, source: TensorSlice) -> U8:
        shape = (source.rows, source.cols)
        if source.rows == 1:
            bits = np.full(shape, 0x3F80, np.uint16)
        else:
            random = np.random.default_rng([source.rows, source.cols, *name.encode()])
            bits = _bf16(random.standard_normal(shape, np.float32) * np.float32(_deviation(name, source.cols)))
        return bits.reshape(-1).view(np.uint8)


class _Records:
    def __init__(self) -> None:
        self._compute = core.make_compute(default_threads())
        self._packed: dict[tuple[object, ...], list[U8]] = {}
        self._numbers = count()

    def make(self, tensor: PlannedTensor) -> U8:
        number = next(self._numbers)
        out = np.zeros(tensor.nbytes, np.uint8)
        for part in tensor.parts:
            out[part.offset : part.offset + part.nbytes] = self._turned(part, number)
        return out

    def _turned(self, part: PartSpec, number: int) -> U8:
        """One of the packed matrices, which one and where it begins by `number`."""
        packed = self._matrices(part)[number % _DISTINCT]
        if part.rows % _PANEL_ROWS[part.format]:  # the last panel is padded: it must stay the last
            return packed
        panels = part.rows // _PANEL_ROWS[part.format]
        return np.roll(packed.reshape(panels, -1), number // _DISTINCT % panels, axis=0).reshape(-1)

    def _matrices(self, part: PartSpec) -> list[U8]:
        kind = (part.name, part.rows, part.cols, part.format, part.scale)
        if kind not in self._packed:
            self._packed[kind] = [self._pack(part, seed) for seed in range(_DISTINCT)]
        return self._packed[kind]

    def _pack(self, part: PartSpec, seed: int) -> U8:
        random = np.random.default_rng([seed, part.rows, part.cols, *part.name.encode()])
        weights = random.standard_normal((part.rows, part.cols), np.float32) * np.float32(1 / math.sqrt(part.cols))
        out = np.zeros(part.nbytes, np.uint8)
        raw = weights.reshape(-1).view(np.uint8)
        core.pack_matrix(self._compute, raw, "f32", part.rows, part.cols, part.format, part.scale, out)
        return out


def _deviation(name: str, cols: int) -> float:
    """As demo.random_model has it: embeddings are as large as what the layers add to them."""
    return 1.0 if name == "embed" else 1 / math.sqrt(cols)


def _bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (values.view(np.uint32) >> 16).astype(np.uint16)
