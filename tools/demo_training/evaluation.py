"""What a trained model is worth on text it has not seen: perplexity beside a 3-gram model's, and its routing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from demo_training.ngram import trigram_perplexity
from demo_training.routing import LayerUsage, usage
from demo_training.variants import CONTEXT, VOCAB_SIZE, Variant

Ids = NDArray[np.int64]
_WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class Routing:
    """Choices of every layer for a stream of tokens, in router order."""

    tokens: Ids  # [tokens]
    chosen: Ids  # [layers, tokens, top_k]
    weights: NDArray[np.float32]  # [layers, tokens, top_k]


@dataclass(frozen=True)
class Report:
    variant: str
    parameters: int
    train_tokens: int
    held_out_tokens: int
    perplexity: float
    trigram_perplexity: float
    layers: tuple[LayerUsage, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def run(model: Any, held_out: Ids, variant: Variant) -> tuple[float, Routing | None]:
    """(perplexity over windows of CONTEXT tokens, routing of MoE models)."""
    count = (len(held_out) - 1) // CONTEXT
    windows = np.stack([held_out[i * CONTEXT : (i + 1) * CONTEXT + 1] for i in range(count)])
    losses, routes = [], []
    for chunk in torch.split(torch.from_numpy(windows), _WINDOWS_AT_ONCE):
        output = model(input_ids=chunk[:, :-1], **({"output_router_logits": True} if variant.is_moe else {}))
        logits = output.logits.reshape(-1, output.logits.shape[-1])
        losses.append(torch.nn.functional.cross_entropy(logits, chunk[:, 1:].reshape(-1), reduction="none"))
        if variant.is_moe:
            routes.append(torch.stack([torch.softmax(layer, -1) for layer in output.router_logits]))
    perplexity = float(torch.cat(losses).mean().exp())
    if not routes:
        return perplexity, None
    weights, chosen = torch.cat(routes, dim=1).topk(variant.config["num_experts_per_tok"], dim=-1)
    if variant.config["norm_topk_prob"]:
        weights = weights / weights.sum(-1, keepdim=True)
    return perplexity, Routing(windows[:, :-1].reshape(-1), chosen.numpy(), weights.numpy())


def evaluate(model: Any, train: Ids, held_out: Ids, variant: Variant) -> tuple[Report, Routing | None]:
    perplexity, routing = run(model, held_out, variant)
    layers = () if routing is None else usage(routing.tokens, routing.chosen, VOCAB_SIZE, variant.config["num_experts"])
    report = Report(
        variant=variant.name,
        parameters=sum(p.numel() for p in model.parameters()),
        train_tokens=len(train),
        held_out_tokens=len(held_out),
        perplexity=perplexity,
        trigram_perplexity=trigram_perplexity(train, held_out, VOCAB_SIZE),
        layers=layers,
    )
    return report, routing


def table(report: Report) -> str:
    lines = [
        f"{report.variant}: {report.parameters:,} parameters, held-out perplexity {report.perplexity:.2f};"
        f" 3-gram model {report.trigram_perplexity:.2f} ({report.held_out_tokens:,} tokens)"
    ]
    if report.layers:
        lines.append("layer  busiest  idlest  H(expert)  I(token; expert)   shares: 1.00 is even; bits")
    lines += [
        f"{row.layer:5d}  {row.busiest_share:7.2f}  {row.idlest_share:6.2f}  {row.expert_entropy_bits:9.2f}"
        f"  {row.mutual_information_bits:16.2f}"
        for row in report.layers
    ]
    return "\n".join(lines)
