"""What a family is: how its config becomes a ModelSpec, and where it keeps its experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moestro.models.config_reader import ConfigReader
from moestro.models.spec import ModelSpec


@dataclass(frozen=True)
class ExpertNames:
    """Tensor names below `model.layers.{l}.` of a mixture that stores its experts one by one."""

    router: str
    gate: str  # with {e} for the expert's number
    up: str
    down: str


@dataclass(frozen=True)
class Family:
    model_type: str
    architectures: tuple[str, ...]  # class names config.json may give
    read_spec: Callable[[ConfigReader], ModelSpec]
    about: str  # what is special about it, for `moestro models`
    experts: ExpertNames | None = None  # None: the family has dense layers only
    fused: bool = False  # attention.qkv_proj holds q, k, v; mlp.gate_up_proj gate and up; neither has biases
