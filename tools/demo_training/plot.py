"""A picture of routing: how even the layers are, and how uneven one layer is for single tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from demo_training.evaluation import Routing
from demo_training.routing import shares

_TOKENS = 24


def plot_routing(routing: Routing, num_experts: int, show: Callable[[int], str], path: Path) -> None:
    """`show` gives the text of a token id."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    image = left.imshow([shares(layer, num_experts) for layer in routing.chosen], aspect="auto", cmap="viridis", vmin=0)
    left.set(title="share of each expert over all tokens (1 = even)", xlabel="expert", ylabel="layer")
    figure.colorbar(image, ax=left)

    middle = len(routing.chosen) // 2
    common = np.argsort(-np.bincount(routing.tokens))[:_TOKENS]
    rows = [shares(routing.chosen[middle][routing.tokens == token], num_experts) for token in common]
    image = right.imshow(rows, aspect="auto", cmap="magma", vmin=0)
    right.set(title=f"layer {middle}: the same for the {_TOKENS} commonest tokens", xlabel="expert", ylabel="token")
    right.set_yticks(range(_TOKENS), [repr(show(int(token))) for token in common], fontsize=7)
    figure.colorbar(image, ax=right)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
