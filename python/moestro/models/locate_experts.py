"""Experts of a layer in any layout that checkpoints have: one by one, or all of them in two or three tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moestro.checkpoint.weights import Columns, GatedMlpTensors, TensorSlice
from moestro.models.claims import TensorClaims
from moestro.models.family import Family, FusedExperts
from moestro.models.spec import MoeSpec


class ExpertLocator:
    """Of one layer. parts: names of gate, up and down, with {e} for the expert's number where they are stored one by
    one, or without where each holds all experts' rows one below the other (then `down` is transposed)."""

    def __init__(
        self, claims: TensorClaims, prefix: str, parts: Sequence[str], family: Family, moe: MoeSpec, hidden: int
    ) -> None:
        self._claims = claims
        self._prefix = prefix
        self._gate, self._up, self._down = parts
        self._fused = next((layout for layout in family.fused_experts if prefix + layout.gate_up in claims), None)
        if self._fused is None and not family.single_experts:
            self._fused = family.fused_experts[0]  # missing tensors are named as they are published
        self._moe = moe
        self._hidden = hidden

    def experts(self) -> tuple[GatedMlpTensors, ...]:
        if self._fused is not None:
            one = self._of_columns if self._fused.transposed else self._of_planes
            return tuple(one(self._fused, expert) for expert in range(self._moe.num_experts))
        one_by_one = self._single if "{e}" in self._gate else self._of_tables
        return tuple(one_by_one(expert) for expert in range(self._moe.num_experts))

    def biases(self) -> dict[str, TensorSlice]:
        """[experts, width] of gate and up, [experts, hidden] of down, where the model has them."""
        layout, moe, claims = self._fused, self._moe, self._claims
        if not moe.expert_bias or layout is None:
            return {}
        gate_up, shape = self._prefix + layout.gate_up_bias, (moe.num_experts, 2 * moe.intermediate_size)
        both = claims.matrix(gate_up, *shape)
        up_from, step = (1, 2) if layout.interleaved else (moe.intermediate_size, 1)
        gate = replace(both, cols=moe.intermediate_size, columns=Columns(step, shape[1]))
        return {
            "expert_gate_bias": gate,
            "expert_up_bias": replace(gate, offset=gate.offset + up_from * gate.element_bytes),
            "expert_down_bias": claims.matrix(self._prefix + layout.down_bias, moe.num_experts, self._hidden),
        }

    def _single(self, expert: int) -> GatedMlpTensors:
        width, hidden = self._moe.intermediate_size, self._hidden
        return GatedMlpTensors(
            gate=self._claims.matrix(self._gate.format(e=expert), width, hidden),
            up=self._claims.matrix(self._up.format(e=expert), width, hidden),
            down=self._claims.matrix(self._down.format(e=expert), hidden, width),
        )

    def _of_tables(self, expert: int) -> GatedMlpTensors:
        claims, width, hidden = self._claims, self._moe.intermediate_size, self._hidden
        shape, planes = (self._moe.num_experts * width, hidden), (self._moe.num_experts, width, hidden)
        return GatedMlpTensors(
            gate=claims.rows(self._gate, shape, expert * width, width),
            up=claims.rows(self._up, shape, expert * width, width),
            down=claims.table(self._down, planes, expert, 0, hidden, flat=True),
        )

    def _of_planes(self, layout: FusedExperts, expert: int) -> GatedMlpTensors:
        claims, width, hidden = self._claims, self._moe.intermediate_size, self._hidden
        gate_up, gate_up_shape = self._prefix + layout.gate_up, (self._moe.num_experts, 2 * width, hidden)
        down_shape = (self._moe.num_experts, hidden, width)
        return GatedMlpTensors(
            gate=claims.plane(gate_up, gate_up_shape, expert, 0, width),
            up=claims.plane(gate_up, gate_up_shape, expert, width, width),
            down=claims.plane(self._prefix + layout.down, down_shape, expert, 0, hidden),
        )

    def _of_columns(self, layout: FusedExperts, expert: int) -> GatedMlpTensors:
        claims, width, hidden = self._claims, self._moe.intermediate_size, self._hidden
        gate_up, gate_up_shape = self._prefix + layout.gate_up, (self._moe.num_experts, hidden, 2 * width)
        up_from, step = (1, 2) if layout.interleaved else (width, 1)
        down_shape = (self._moe.num_experts, width, hidden)
        return GatedMlpTensors(
            gate=claims.table(gate_up, gate_up_shape, expert, 0, width, step=step),
            up=claims.table(gate_up, gate_up_shape, expert, up_from, width, step=step),
            down=claims.table(self._prefix + layout.down, down_shape, expert, 0, hidden),
        )
