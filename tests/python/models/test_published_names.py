"""Repositories whose tensors and config are not quite what transformers writes of the text model alone: a text tower
among others, layers after the last, old buffers, a head that a tied model does without. The fixtures are tiny
checkpoints with other names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moestro.checkpoint.weights import TensorSlice
from moestro.errors import CheckpointError
from moestro.models.registry import open_checkpoint

Checkpoints = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]

GEMMA_VISION = {
    "vision_tower.vision_model.embeddings.patch_embedding.weight": torch.ones(4, 3, 2, 2),
    "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(4, 4),
    "multi_modal_projector.mm_input_projection_weight": torch.ones(4, 72),
    "multi_modal_projector.mm_soft_emb_norm.weight": torch.ones(4),
}
LLAMA_VISION = {
    "vision_model.class_embedding": torch.ones(4),
    "vision_model.patch_embedding.linear.weight": torch.ones(4, 12),
    "vision_model.model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4),
    "multi_modal_projector.linear_1.weight": torch.ones(72, 4),
}
MISTRAL_VISION = {
    "vision_tower.patch_conv.weight": torch.ones(4, 3, 2, 2),
    "vision_tower.transformer.layers.0.attention.q_proj.weight": torch.ones(4, 4),
    "multi_modal_projector.patch_merger.merging_layer.weight": torch.ones(4, 16),
    "multi_modal_projector.linear_1.weight": torch.ones(70, 4),
}
# A model_type of several towers -> the tiny text models it may hold, its class, its other tensors.
TOWERS: dict[str, tuple[tuple[str, ...], str, Tensors]] = {
    "gemma3": (
        ("gemma3_text", "gemma3_text-untied-biases-linear-cap"),
        "Gemma3ForConditionalGeneration",
        GEMMA_VISION,
    ),
    "llama4": (("llama4_text", "llama4_text-dense-tied"), "Llama4ForConditionalGeneration", LLAMA_VISION),
    "mistral3": (("mistral", "mistral-window-tied"), "Mistral3ForConditionalGeneration", MISTRAL_VISION),
}
TEXTS = [(kind, text) for kind, (texts, _, _) in TOWERS.items() for text in texts]
# As the hub has it: names of the text model inside, and of what is beside it; then as transformers 5 holds them.
LAYOUTS: dict[str, tuple[str, str, str]] = {
    "published": ("language_model.model.", "language_model.", ""),
    "in memory": ("model.language_model.", "", "model."),
}
FURTHER = ("deepseek_v3", "glm4_moe_lite", "deepseek_v32", "glm_moe_dsa", "glm4_moe", "hy_v3")


def config_of(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return config


def tensors_of(directory: Path) -> Tensors:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def publish(directory: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def tower_tensors(text: Tensors, others: Tensors, layout: str) -> Tensors:
    model, head, beside = LAYOUTS[layout]
    inside = {
        model + name.removeprefix("model.") if name.startswith("model.") else head + name: tensor
        for name, tensor in text.items()
    }
    return inside | {beside + name: tensor for name, tensor in others.items()}


def tower_config(kind: str, text: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What both towers need to know stands outside; the text's own settings do not say who reads them."""
    inner = {key: value for key, value in text.items() if key not in ("architectures", "dtype", "transformers_version")}
    return {
        "architectures": [TOWERS[kind][1]],
        "model_type": kind,
        "text_config": inner,
        "vision_config": {"hidden_size": 4, "surprise": 7},
        "image_token_index": 9,
        "torch_dtype": text["dtype"],
        **changes,
    }


def content(tensor: TensorSlice) -> tuple[Any, ...]:
    """What a slice holds, wherever it lies."""
    shape = (tensor.dtype, tensor.rows, tensor.cols, tensor.columns, tensor.stack)
    data = tensor.path.read_bytes()
    return (*shape, *(data[block.offset : block.offset + block.span] for block in tensor.blocks()))


def contents(directory: Path) -> dict[str, tuple[Any, ...]]:
    return {role: content(tensor) for role, tensor in open_checkpoint(directory).weights.roles()}


def same(directory: Path, plain: Path, **changes: Any) -> None:
    """The same model but for what `changes` of its spec."""
    found, expected = contents(directory), contents(plain)
    assert found.keys() == expected.keys()
    assert all(found[role] == expected[role] for role in expected)
    assert open_checkpoint(directory).spec == replace(open_checkpoint(plain).spec, **changes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kind", "text"), TEXTS)
def test_a_text_tower_is_the_text_model(
    kind: str, text: str, layout: str, tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    plain = tiny_checkpoint(text)
    tensors = tower_tensors(tensors_of(plain), TOWERS[kind][2], layout)
    same(publish(tmp_path / "towers", tensors, tower_config(kind, config_of(plain))), plain)


@pytest.mark.parametrize("kind", TOWERS)
def test_a_text_tower_may_not_say_its_type(kind: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    plain = tiny_checkpoint(TOWERS[kind][0][0])
    config = tower_config(kind, config_of(plain))
    del config["text_config"]["model_type"]
    tensors = tower_tensors(tensors_of(plain), TOWERS[kind][2], "published")
    same(publish(tmp_path / "towers", tensors, config), plain)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_whole_model_says_whether_its_head_is_tied(
    layout: str, tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    """transformers writes both and goes by the outer one."""
    plain = tiny_checkpoint("mistral-window-tied")
    config = tower_config("mistral3", config_of(plain), tie_word_embeddings=True)
    config["text_config"]["tie_word_embeddings"] = False
    same(publish(tmp_path / "towers", tower_tensors(tensors_of(plain), MISTRAL_VISION, layout), config), plain)


def test_tensors_beside_a_text_model_belong_to_a_tower(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    """Where the config names no towers, or the tower is not one, they are not passed over."""
    plain = tiny_checkpoint("mistral")
    tensors, config = tensors_of(plain), config_of(plain)
    with pytest.raises(CheckpointError, match="not part of this model: multi_modal_projector"):
        open_checkpoint(publish(tmp_path / "plain", tensors | MISTRAL_VISION, config))
    strange = tower_tensors(tensors, {"draft_model.fc.weight": torch.ones(3)}, "published")
    with pytest.raises(CheckpointError, match=r"not part of this model: draft_model\.fc\.weight"):
        open_checkpoint(publish(tmp_path / "towers", strange, tower_config("mistral3", config)))


def further_layer(tensors: Tensors, count: int, hidden: int) -> Tensors:
    """A copy of the last layer behind it, with what joins a guessed token to the state before it."""
    last = re.compile(rf"model\.layers\.{count - 1}\.")
    further = f"model.layers.{count}."
    own = {
        "enorm.weight": torch.ones(hidden),
        "hnorm.weight": torch.ones(hidden),
        "eh_proj.weight": torch.ones(hidden, 2 * hidden),
        "embed_tokens.weight": torch.ones(131, hidden),
        "shared_head.norm.weight": torch.ones(hidden),
        "shared_head.head.weight": torch.ones(131, hidden),
    }
    copy = {last.sub(further, name): tensor.clone() for name, tensor in tensors.items() if last.match(name)}
    return copy | {further + name: tensor for name, tensor in own.items()}


@pytest.mark.parametrize("name", FURTHER)
def test_layers_that_guess_further_tokens_are_passed_over(
    name: str, tiny_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    plain = tiny_checkpoint(name)
    tensors, config = tensors_of(plain), config_of(plain)
    more = further_layer(tensors, config["num_hidden_layers"], config["hidden_size"])
    directory = publish(tmp_path / "further", tensors | more, config | {"num_nextn_predict_layers": 1})
    same(directory, plain, predicts_further=True)


@pytest.mark.parametrize("name", ["deepseek_v3", "exaone_moe"])
def test_such_layers_may_have_names_of_their_own(name: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    plain = tiny_checkpoint(name)
    own = {"mtp.fc.weight": torch.ones(3, 6), "model.mtp.layers.0.input_layernorm.weight": torch.ones(3)}
    config = config_of(plain) | {"num_nextn_predict_layers": 1}
    same(publish(tmp_path / "further", tensors_of(plain) | own, config), plain, predicts_further=True)


@pytest.mark.parametrize("name", ["deepseek_v2", "mistral"])
def test_other_families_have_no_such_layers(name: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    plain = tiny_checkpoint(name)
    tensors, config = tensors_of(plain), config_of(plain)
    more = further_layer(tensors, config["num_hidden_layers"], config["hidden_size"])
    with pytest.raises(CheckpointError, match=r"not part of this model: model\.layers\.3\."):
        open_checkpoint(publish(tmp_path / "further", tensors | more, config))


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3", "llama", "mixtral"])
def test_old_rotary_buffers_are_passed_over(name: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    plain = tiny_checkpoint(name)
    config = config_of(plain)
    layers = [f"model.layers.{layer}.self_attn." for layer in range(config["num_hidden_layers"])]
    buffers = {f"{prefix}rotary_emb.inv_freq": torch.ones(5) for prefix in ("model.", *layers)}
    same(publish(tmp_path / "buffers", tensors_of(plain) | buffers, config), plain)


@pytest.mark.parametrize(
    "name", ["qwen3-tied", "gemma3_text", "deepseek_v3-no-query-latent-tied", "granitemoe-fused-biases-tied"]
)
def test_a_tied_model_may_hold_its_head_twice(name: str, tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    plain = tiny_checkpoint(name)
    tensors = tensors_of(plain)
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    directory = publish(tmp_path / "head", tensors | head, config_of(plain))
    found, expected = contents(directory), contents(plain)
    assert found.pop("head") == found["embed"]
    assert found == expected
    assert open_checkpoint(directory).spec == open_checkpoint(plain).spec
