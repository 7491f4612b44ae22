"""Somebody's own torch layer, its experts in a file: moestro.core reads, caches and computes them.

python examples/torch_moe.py
"""

import tempfile

import torch

from moestro import core


class StreamedExperts(torch.nn.Module):
    """A Mixtral-like block that holds its router and nothing else; `experts` is a list of (gate, up, down) weights."""

    def __init__(self, router: torch.nn.Linear, experts, top_k: int, path: str, host_memory: int, format: str = "bf16"):
        super().__init__()
        self.router, self.top_k = router, top_k
        self.runtime = core.Runtime(threads=2, host_memory=host_memory)
        weights = ([w.detach().float() for w in expert] for expert in experts)
        core.add_experts(self.runtime, 0, core.write_records(self.runtime.compute, path, weights, format))
        self.runtime.set_experts()  # what is left of the budget caches experts

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.float().contiguous()
        scores, ids = self.router(rows).softmax(-1).topk(self.top_k)
        scores = (scores / scores.sum(-1, keepdim=True)).contiguous()
        y = torch.empty_like(rows)
        self.runtime.begin_step(len(rows))
        ticket = self.runtime.submit_experts(0, rows, ids.int().contiguous(), scores)  # reads what is not there
        self.runtime.wait(ticket, y)  # computes what is, and the others as they come
        self.runtime.end_step()
        return y


if __name__ == "__main__":
    torch.manual_seed(0)
    hidden, width, count = 256, 512, 16
    shapes = [(width, hidden), (width, hidden), (hidden, width)]
    experts = [[torch.randn(shape) / shape[1] ** 0.5 for shape in shapes] for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        layer = StreamedExperts(
            torch.nn.Linear(hidden, count, bias=False), experts, 2, f"{folder}/experts.bin", 12 << 20
        )
        for step in range(4):
            layer(torch.randn(8, hidden))
            print(f"step {step}:", {name: layer.runtime.counters()[name] for name in ("hits", "misses", "evictions")})
        layer.runtime.close()
