"""Routing traces: which experts tokens used, in a file.

An .npz file with `chosen`, integers [layers with experts, tokens, experts per token]: the experts of each token in each
layer, in the order of the model's layers. Other arrays in it are not read here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moestro._core import I32
from moestro.errors import CheckpointError, StorageError


@dataclass(frozen=True)
class RoutingTrace:
    chosen: I32  # [layers, tokens, top_k]

    def frequencies(self, experts: Sequence[int], where: str) -> list[float]:
        """How many tokens used each expert, layer after layer. experts: how many each layer of the model has.

        Raises CheckpointError where the trace is of another model.
        """
        if len(experts) != len(self.chosen):
            raise CheckpointError(
                f"{where}: a trace of {len(self.chosen)} layers with experts; the model has {len(experts)}"
            )
        counts: list[float] = []
        for layer, (count, used) in enumerate(zip(experts, self.chosen, strict=True)):
            if used.size and not 0 <= used.min() <= used.max() < count:
                raise CheckpointError(
                    f"{where}: layer {layer} of the trace uses experts {used.min()} to {used.max()}; the model has"
                    f" {count} there"
                )
            counts += np.bincount(used.reshape(-1), minlength=count).astype(float).tolist()
        return counts


def read_routing_trace(path: Path) -> RoutingTrace:
    """Raises StorageError, CheckpointError naming the file and what was expected."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            chosen = arrays.get("chosen")
    except OSError as error:
        raise StorageError(f"{path}: cannot read the routing trace: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{path}: not a routing trace: expected an .npz file with `chosen`") from error
    if not isinstance(chosen, np.ndarray) or chosen.ndim != 3 or chosen.dtype.kind not in "iu":
        raise CheckpointError(f"{path}: not a routing trace: expected integers `chosen` [layers, tokens, top_k]")
    return RoutingTrace(chosen.astype(np.int32))
