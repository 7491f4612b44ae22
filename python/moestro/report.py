"""What is running and what was refused: said once at load, kept for `LLM.report()`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moestro import knobs
from moestro.config import EngineConfig
from moestro.models.spec import MoeSpec
from moestro.units import format_bytes

if TYPE_CHECKING:
    from moestro.models.load import LoadedModel
    from moestro.text.model_text import ModelText


@dataclass(frozen=True)
class Report:
    """Facts by name, ready for JSON; `lines` and `str` say the same in sentences."""

    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.facts[name]

    def as_dict(self) -> dict[str, Any]:
        return dict(self.facts)

    @property
    def summary(self) -> str:
        facts = self.facts
        return f"{facts['model_type']}, {_formats(facts)}, {format_bytes(facts['host_memory'])}, {facts['device']}"

    def lines(self) -> Iterator[str]:
        facts = self.facts
        yield f"model: {facts['model_type']}, {facts['layers']} layers, {_formats(facts)}: {facts['directory']}"
        yield f"kept as: {facts['kind']}"
        yield f"memory: {facts['memory_source']}; at least {format_bytes(facts['least_memory'])} are needed"
        if facts["experts"]:
            share = min(1.0, facts["expert_slots"] / facts["experts"])
            yield f"experts: {facts['experts']}, room for {facts['expert_slots']} ({share:.0%}) while KV is small"
        yield f"context: {facts['max_model_len']} tokens, KV in {facts['kv_dtype']}"
        yield (
            f"compute: {facts['device']}, {facts['isa']} kernels, {facts['threads']} threads, "
            f"prefill in steps of {facts['prefill_chunk']} rows"
        )
        yield (
            f"reader: {facts['reader']}, {facts['file_mode']}, {facts['depth']} reads in flight, "
            f"{format_bytes(facts['registered_bytes'])} registered, checksums: {facts['verify']}"
        )
        for reason in facts["refused"]:
            yield f"not used: {reason}"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def make_report(
    config: EngineConfig, directory: Path, model: LoadedModel, text: ModelText, max_model_len: int
) -> Report:
    """Everything the parts say of themselves, and what they refused, in one place."""
    plan = model.plan
    refused = [*model.facts["refused"], *_text_gaps(text, directory), *_unknown_knobs()]
    return Report(
        {
            **model.facts,
            "device": config.device,
            "policy": config.policy,
            "verify": config.verify,
            "host_memory": plan.budget,
            "memory_source": plan.source,
            "least_memory": plan.least,
            "memory_plan": {line.name: line.nbytes for line in plan.lines},
            "max_model_len": max_model_len,
            "experts": sum(layer.mlp.num_experts for layer in model.spec.layers if isinstance(layer.mlp, MoeSpec)),
            "expert_slots": plan.expert_slots,
            "refused": refused,
        }
    )


def _formats(facts: Mapping[str, Any]) -> str:
    if facts["expert_format"] in (None, facts["trunk_format"]):
        return str(facts["trunk_format"])
    return f"experts {facts['expert_format']}, the rest {facts['trunk_format']}"


def _text_gaps(text: ModelText, directory: Path) -> list[str]:
    if text.tokenizer is None:
        return [f"text: {directory} has no tokenizer.json; prompts must be token ids"]
    return []


def _unknown_knobs() -> list[str]:
    return [f"{name}: no such variable is read" for name in knobs.unknown()]
