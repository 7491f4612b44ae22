"""The file of the predictor "path"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moestro.errors import CheckpointError, StorageError
from moestro.trace.path_weights import ARRAYS, read_path_weights, write_path_weights

EXPERTS = (4, 4, 6)


def weights(**changed: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    shapes = {
        "embedding": (9, 3),
        "hidden": (3, 6),
        "hidden_bias": (3,),
        "output": (14, 3),
        "output_bias": (14,),
        "correction": (14, 3),
    }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} | changed


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path, made = tmp_path / "path.npz", weights()
    write_path_weights(path, made, EXPERTS)
    read = read_path_weights(path, EXPERTS)
    assert tuple(read) == ARRAYS
    assert all(np.array_equal(read[name], made[name]) for name in ARRAYS)


def test_a_name_without_its_suffix_is_kept(tmp_path: Path) -> None:
    write_path_weights(tmp_path / "path", weights(), EXPERTS)
    assert [one.name for one in tmp_path.iterdir()] == ["path"]


def test_another_models_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "path.npz"
    write_path_weights(path, weights(), EXPERTS)
    with pytest.raises(CheckpointError, match=r"layers of \[4, 4, 6\] experts; the model's have 2 x 8"):
        read_path_weights(path, (8, 8))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": np.zeros((3, 5), np.float32)}, r"`hidden` has float32 \[3, 5\]; expected float32 \[3, 6\]"),
        ({"output": np.zeros((14, 3), np.float64)}, r"`output` has float64 \[14, 3\]; expected float32 \[14, 3\]"),
        ({"output_bias": np.full(14, np.nan, np.float32)}, "`output_bias` is not finite"),
        ({"embedding": np.zeros(9, np.float32)}, r"expected `embedding` \[vocabulary, width\]"),
        ({"hidden_bias": np.zeros(0, np.float32)}, r"and `hidden_bias` \[width\]"),
    ],
)
def test_arrays_must_fit_together(changed: dict[str, NDArray[np.float32]], message: str, tmp_path: Path) -> None:
    path = tmp_path / "path.npz"
    with pytest.raises(CheckpointError, match=message):
        write_path_weights(path, weights(**changed), EXPERTS)
    assert not path.exists()
    np.savez(path, experts=np.array(EXPERTS), **weights(**changed))
    with pytest.raises(CheckpointError, match=message):
        read_path_weights(path, EXPERTS)


def test_files_that_are_something_else_are_named(tmp_path: Path) -> None:
    path = tmp_path / "path.npz"
    with pytest.raises(StorageError, match="cannot read the path weights: No such file"):
        read_path_weights(path, EXPERTS)
    with pytest.raises(StorageError, match="cannot write the path weights"):
        write_path_weights(tmp_path / "no" / "path.npz", weights(), EXPERTS)
    path.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"expected an \.npz file with embedding"):
        read_path_weights(path, EXPERTS)
    with path.open("wb") as file:
        np.save(file, np.zeros(3, np.float32))
    with pytest.raises(CheckpointError, match=r"expected an \.npz file with embedding"):
        read_path_weights(path, EXPERTS)
    np.savez(path, **weights())
    with pytest.raises(CheckpointError, match="expected integers `experts`"):
        read_path_weights(path, EXPERTS)
    np.savez(path, experts=np.array(EXPERTS), **{name: array for name, array in weights().items() if name != "output"})
    with pytest.raises(CheckpointError, match="`output` is missing"):
        read_path_weights(path, EXPERTS)
