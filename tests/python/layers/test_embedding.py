"""Embedding rows against torch's widening of the same tensor, and every way a file can go bad under them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moestro import _core
from moestro.errors import IntegrityError, StorageError
from moestro.layers.embedding import Embedding, EmbeddingTable

ROWS, COLS, LEAD = 50, 37, 123  # LEAD: bytes before the table, so that rows lie unaligned


def table(directory: Path, dtype: str = "bf16", *, checksums: bool = False) -> tuple[EmbeddingTable, Any]:
    """A file with a table in it, and the values it holds as float32 [ROWS, COLS]."""
    import torch

    kinds = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    tensor = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(1)).to(kinds[dtype])
    raw = tensor.view(torch.uint8).numpy().reshape(ROWS, -1)
    path = directory / f"{dtype}.bin"
    path.write_bytes(bytes(LEAD) + raw.tobytes() + b"what follows")
    sums = np.array([_core.xxh64(row.copy()) for row in raw], dtype=np.uint64) if checksums else None
    return EmbeddingTable(path, LEAD, dtype, ROWS, COLS, sums), tensor.float().numpy()


def read(embedding: Embedding, tokens: list[int]) -> Any:
    out = np.full((len(tokens), COLS), np.nan, dtype=np.float32)
    embedding(np.array(tokens, dtype=np.int32), out)
    return out


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("checksums", [False, True])
def test_rows_are_widened_exactly(tmp_path: Path, dtype: str, checksums: bool) -> None:
    place, values = table(tmp_path, dtype, checksums=checksums)
    embedding = Embedding(place)
    tokens = [0, ROWS - 1, 7, 7, *range(ROWS), 3]
    np.testing.assert_array_equal(read(embedding, tokens), values[tokens])
    embedding.close()
    embedding.close()


def test_a_flipped_bit_is_seen_where_there_are_checksums(tmp_path: Path) -> None:
    place, values = table(tmp_path, checksums=True)
    embedding = Embedding(place)
    flip(place.path, LEAD + 5 * place.row_bytes + 3)
    with pytest.raises(IntegrityError, match=r"embedding row 5 of .*bf16\.bin: checksum is [0-9a-f]{16}, expected"):
        read(embedding, [4, 5])
    np.testing.assert_array_equal(read(embedding, [4, 6]), values[[4, 6]])


def test_a_file_that_changes_is_noticed_without_checksums(tmp_path: Path) -> None:
    place, values = table(tmp_path)
    embedding = Embedding(place)
    np.testing.assert_array_equal(read(embedding, [1]), values[[1]])
    os.utime(place.path, ns=(1, 1))
    with pytest.raises(IntegrityError, match=r"bf16\.bin was changed or replaced"):
        read(embedding, [1])


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    place, _ = table(tmp_path)
    embedding = Embedding(place)
    other = tmp_path / "other"
    other.write_bytes(place.path.read_bytes())
    other.replace(place.path)
    with pytest.raises(IntegrityError, match="was changed or replaced"):
        read(embedding, [1])


def test_a_removed_file_is_named(tmp_path: Path) -> None:
    place, _ = table(tmp_path)
    embedding = Embedding(place)
    place.path.unlink()
    with pytest.raises(StorageError, match=r"bf16\.bin: No such file"):
        read(embedding, [1])
    with pytest.raises(StorageError, match=r"embedding: cannot open .*bf16\.bin"):
        Embedding(place)


def test_a_truncated_file_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    place, values = table(tmp_path, checksums=True)
    embedding = Embedding(place)
    os.truncate(place.path, LEAD + 9 * place.row_bytes + 10)
    with pytest.raises(StorageError, match=r"embedding row 9 of .*: the file ends early"):
        read(embedding, [8, 9])
    np.testing.assert_array_equal(read(embedding, [8]), values[[8]])


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, values = table(tmp_path)
    embedding = Embedding(place)
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: whole(file, [views[0][:5]], offset))
    np.testing.assert_array_equal(read(embedding, [3, 4]), values[[3, 4]])


def test_a_failing_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, values = table(tmp_path)
    embedding = Embedding(place)

    def fail(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail)
        with pytest.raises(StorageError, match=r"embedding row 3 of .*bf16\.bin: Input/output error"):
            read(embedding, [3])
    np.testing.assert_array_equal(read(embedding, [3]), values[[3]])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
