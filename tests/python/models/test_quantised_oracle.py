"""q8 and q4 models against transformers in float32 on the dequantised weights of the same store.

What differs is the rounding of activations to int8 alone. It moves every logit a little, and a router that nearly ties
may choose another expert; rows are therefore judged by their median, and tokens where the margins are clear.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tiny_models import prompt
from tiny_runtime import logits_of, opened

from moestro import _core
from moestro.checkpoint.store_format import PartSpec, StoreManifest, read_manifest
from moestro.models.decoder import DecoderLayer
from moestro.pack import pack_checkpoint

NAMES = ("qwen3_moe-dense-layers-biases", "mixtral-window-tied", "qwen3-tied", "llama-biases-dynamic")
LENGTH = 200


@pytest.mark.parametrize("format", ["q8", "q4"])
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_that_of_its_dequantised_weights(
    name: str, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_models.CONFIGS[name]()
    config.initializer_range = 0.1  # attention that is not so sharp that every rounding decides
    checkpoint = tiny_models.write(name, tmp_path / "checkpoint", config=config)
    store = pack_checkpoint(checkpoint, tmp_path / "store", format, threads=2)
    ids = prompt(LENGTH)
    want, their_experts, margins = dequantised_run(checkpoint, store, ids)
    with opened(store, prefill_chunk=LENGTH) as model:
        our_experts = record_routes(monkeypatch)
        got = logits_of(model, ids).astype(np.float64)
    errors = ((got - want) ** 2).sum(axis=1) / (want**2).sum(axis=1)
    assert np.median(errors) <= 1e-3

    same = np.ones(LENGTH, dtype=bool)
    for ours, theirs, margin in zip(our_experts, their_experts, margins, strict=True):
        differs = (np.sort(ours, axis=1) != np.sort(theirs, axis=1)).any(axis=1)
        assert (margin[same & differs] < 0.1).all()  # probability; only near a tie is another expert chosen
        same &= ~differs
    best = np.sort(want, axis=1)
    spread = np.sqrt(np.median(((got - want) ** 2).mean(axis=1)))
    clear = same & (best[:, -1] - best[:, -2] > 8 * spread)
    assert clear.sum() >= LENGTH // 4
    np.testing.assert_array_equal(got[clear].argmax(axis=1), want[clear].argmax(axis=1))


def record_routes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The experts [rows, k] of every routing call from now on."""
    seen: list[Any] = []
    run = DecoderLayer.feed

    def recording(layer: DecoderLayer, work: Any) -> None:
        run(layer, work)
        if isinstance(layer.feed_forward, _core.MoeLayer):
            seen.append(work.ids.copy())

    monkeypatch.setattr(DecoderLayer, "feed", recording)
    return seen


def dequantised_run(checkpoint: Path, store: Path, ids: Any) -> tuple[Any, list[Any], list[Any]]:
    """HF with the store's weights in the checkpoint's model: logits [T, vocab] and, for every MoE layer, the experts
    [T, k] and the gap in probability [T] between the last expert chosen and the first one left out.
    """
    import torch

    model = tiny_models.reference.__wrapped__(checkpoint)
    put_weights(model, store, read_manifest(store))
    experts: list[Any] = []
    margins: list[Any] = []

    def watch(module: Any, inputs: Any, _: Any) -> None:
        x = inputs[0].reshape(-1, inputs[0].shape[-1])
        ranked = torch.softmax(x @ module.weight.T, dim=-1).sort(dim=-1, descending=True)
        k = module.top_k
        experts.append(ranked.indices[:, :k].numpy())
        margins.append((ranked.values[:, k - 1] - ranked.values[:, k]).numpy())

    for layer in model.model.layers:
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(watch)
    with torch.no_grad():
        logits = model(torch.tensor(ids[None].astype(np.int64))).logits[0].numpy().astype(np.float64)
    return logits, experts, margins


def put_weights(model: Any, store: Path, manifest: StoreManifest) -> None:
    import torch

    def matrix(part: PartSpec, file: int, offset: int) -> Any:
        with (store / manifest.files[file].name).open("rb") as data:
            data.seek(offset + part.offset)
            packed = np.frombuffer(data.read(part.nbytes), dtype=np.uint8)
        return torch.from_numpy(_core.unpack_matrix(packed, part.format, part.scale, part.rows, part.cols))

    with torch.no_grad():
        slices = [matrix(record.parts[0], record.file, record.offset) for record in manifest.head]
        model.lm_head.weight = torch.nn.Parameter(torch.cat(slices))  # no longer the embedding, which is not rounded
        for layer, stored in zip(model.model.layers, manifest.layers, strict=True):
            for part in stored.trunk.parts:
                owner = layer.self_attn if part.name in "qkvo" else layer.mlp
                weight = getattr(owner, f"{part.name}_proj").weight
                weight.copy_(matrix(part, stored.trunk.file, stored.trunk.offset))
            if stored.experts is not None:
                gate, up, down = stored.experts.parts
                for expert, place in enumerate(zip(stored.experts.files, stored.experts.offsets, strict=True)):
                    fused = torch.cat([matrix(gate, *place), matrix(up, *place)])
                    layer.mlp.experts.gate_up_proj[expert].copy_(fused)
                    layer.mlp.experts.down_proj[expert].copy_(matrix(down, *place))
