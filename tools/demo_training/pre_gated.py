"""Pre-gated mixture of experts (Hwang et al., "Pre-gated MoE", ISCA 2024): layer l's gate chooses the experts of layer
l + 1, so they are known one layer early. The first layer has a gate of its own besides; the last has none to give.

As a change to transformers' Qwen3-MoE: tensor `model.layers.{l}.mlp.pre_gate.weight` [experts, hidden] reads the input
of layer l's experts and routes layer l + 1; `mlp.gate.weight` is there in layer 0 only.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

MODEL_TYPE = "pre_gated_qwen3_moe"  # a name of its own: read as qwen3_moe it would give wrong numbers


class _PreGatedBlock(nn.Module):
    """Replaces a Qwen3-MoE block. `handed` is shared by all blocks: the choice on its way to the next layer."""

    def __init__(
        self, experts: nn.Module, gate: nn.Module | None, pre_gate: nn.Module | None, handed: list[Any]
    ) -> None:
        super().__init__()
        self.experts = experts
        if gate is not None:
            self.gate = gate
        if pre_gate is not None:
            self.pre_gate = pre_gate
        self._handed = handed

    def forward(self, hidden_states: Tensor) -> Tensor:
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, weights, chosen = self.gate(rows) if hasattr(self, "gate") else self._handed.pop()
        if hasattr(self, "pre_gate"):
            self._handed.append(self.pre_gate(rows))
        result: Tensor = self.experts(rows, chosen, weights).reshape(hidden_states.shape)
        return result


def make_pre_gated(model: Any) -> Any:
    """Rewires a Qwen3-MoE model in place: the router of layer l + 1 becomes the pre-gate of layer l. Returns it."""
    layers = model.model.layers
    gates = [layer.mlp.gate for layer in layers]
    handed: list[Any] = []
    for index, layer in enumerate(layers):
        pre_gate = gates[index + 1] if index + 1 < len(gates) else None
        layer.mlp = _PreGatedBlock(layer.mlp.experts, gates[0] if index == 0 else None, pre_gate, handed)
    return model
