"""Weights of the predictor "path", in a file.

An .npz file with float32 arrays: `embedding` [vocabulary, width], `hidden` [width, 2 width], `hidden_bias` [width],
`output` [experts of all layers, width], `output_bias` [experts of all layers], `correction` [experts of all layers,
width]; and with integers `experts` [layers with experts], how many each layer has. csrc/policy/path_model.h says what
they mean.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from moestro._core import F32
from moestro.errors import CheckpointError, StorageError

ARRAYS = ("embedding", "hidden", "hidden_bias", "output", "output_bias", "correction")
CONTEXT_DECAY = 0.8  # of what went before, from one token to the next; as in csrc/policy/path_model.h
HORIZON = 3  # layers ahead; as in csrc/policy/upcoming.h


def write_path_weights(path: Path, weights: Mapping[str, F32], experts: Sequence[int]) -> None:
    """Raises StorageError; CheckpointError where the weights are not what the file must hold."""
    arrays = {name: weights[name] for name in ARRAYS if name in weights}
    _check(arrays, experts, str(path))
    try:
        with path.open("wb") as file:
            np.savez(file, experts=np.asarray(experts, np.int32), **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise StorageError(f"{path}: cannot write the path weights: {error.strerror or error}") from error


def read_path_weights(path: Path, experts: Sequence[int]) -> dict[str, F32]:
    """experts: how many each layer of the model has. Raises StorageError, CheckpointError naming the file and what was
    expected."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*ARRAYS, "experts") if name in file}
    except OSError as error:
        raise StorageError(f"{path}: cannot read the path weights: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: no path weights: expected an .npz file with {', '.join(ARRAYS)}") from error
    of = arrays.pop("experts", None)
    if of is None or of.ndim != 1 or of.dtype.kind not in "iu":
        raise CheckpointError(f"{path}: no path weights: expected integers `experts` [layers]")
    if of.tolist() != list(experts):
        raise CheckpointError(
            f"{path}: weights for layers of {_briefly(of.tolist())} experts; the model's have {_briefly(experts)}"
        )
    _check(arrays, experts, str(path))
    return arrays


def _check(arrays: Mapping[str, F32], experts: Sequence[int], where: str) -> None:
    for name in ARRAYS:
        if name not in arrays:
            raise CheckpointError(f"{where}: `{name}` is missing")
    width = arrays["hidden_bias"].shape[0] if arrays["hidden_bias"].ndim == 1 else 0
    vocabulary = arrays["embedding"].shape[0] if arrays["embedding"].ndim == 2 else 0
    if not width or not vocabulary:
        raise CheckpointError(f"{where}: expected `embedding` [vocabulary, width] and `hidden_bias` [width]")
    count = sum(experts)
    shapes = {
        "embedding": (vocabulary, width),
        "hidden": (width, 2 * width),
        "hidden_bias": (width,),
        "output": (count, width),
        "output_bias": (count,),
        "correction": (count, width),
    }
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            raise CheckpointError(
                f"{where}: `{name}` has {array.dtype} {list(array.shape)}; expected float32 {list(shape)}"
            )
        if not np.isfinite(array).all():
            raise CheckpointError(f"{where}: `{name}` is not finite")


def _briefly(experts: Sequence[int]) -> str:
    """[32, 32, 32] as "3 x 32"."""
    if len(set(experts)) == 1:
        return f"{len(experts)} x {experts[0]}"
    return str(list(experts))
