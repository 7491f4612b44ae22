"""Headers against the safetensors library: what we accept it accepts and reads alike; everything else is one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from moestro.checkpoint.safetensors_index import MAX_HEADER_BYTES, element_bits, parse_header, read_header
from moestro.errors import CheckpointError, StorageError

HERE = Path("model.safetensors")


def packed(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refusal(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert "x.safetensors" in str(caught.value)
    return str(caught.value)


TENSORS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.arange(5, dtype=np.float16),
    "empty": np.zeros((0, 7), np.float32),
    "scalar": np.array(3, np.int64),
    "größe": np.arange(3, dtype=np.uint8),
}


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(save(TENSORS, {"format": "np"}))
    found = read_header(path)
    assert found.keys() == TENSORS.keys()
    content = path.read_bytes()
    for name, array in TENSORS.items():
        info = found[name]
        assert (info.name, info.file, info.shape) == (name, path, array.shape)
        assert content[info.offset : info.offset + info.nbytes] == array.tobytes()
        assert info.nbytes * 8 == array.size * element_bits(info.dtype)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', 8, "'a' appears twice"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, "appears twice"),
        (b"[]", 0, "starts with"),
        (b'{"a"', 0, "not valid JSON"),
        (b'{"a\xff":1}', 0, "not valid JSON"),
        (b'{"a":NaN}', 0, "NaN"),
        (b'{"a":' + b"[" * 100_000, 0, "not valid JSON"),
        (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', 8, "not valid JSON"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
        ({"__metadata__": []}, 0, "__metadata__"),
        ({"a": 3}, 0, "dtype, shape and data_offsets"),
        ({"a": entry() | {"extra": 1}}, 8, "exactly"),
        ({"a": entry(dtype="F31")}, 8, "F31"),
        ({"a": entry(dtype=["F32"])}, 8, "F32"),
        ({"a": entry(shape=[-2])}, 8, "shape"),
        ({"a": entry(shape=[2.0])}, 8, "shape"),
        ({"a": entry(shape=[True, 2])}, 8, "shape"),
        ({"a": entry(shape="2")}, 8, "shape"),
        ({"a": entry(shape=[2**40, 2**40, 0], offsets=[0, 0])}, 0, "larger than any file"),
        ({"a": entry(offsets=[8, 0])}, 8, "data_offsets"),
        ({"a": entry(offsets=[0])}, 8, "data_offsets"),
        ({"a": entry(offsets=[0, 4])}, 8, "takes 8 bytes"),
        ({"a": entry(dtype="F4", shape=[3], offsets=[0, 1])}, 1, "whole bytes"),
        ({"a": entry(), "b": entry(offsets=[4, 12])}, 12, "'b' overlaps"),
        ({"a": entry(), "b": entry(offsets=[12, 20])}, 20, "hole before"),
        ({"a": entry(offsets=[4, 12])}, 12, "hole before"),
        ({"a": entry()}, 7, "truncated"),
        ({"a": entry()}, 9, "belong to nothing"),
    ],
)
def test_refuses(header: Any, data: int, words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, packed(header, bytes(data)))


def test_refuses_what_is_no_safetensors_file(tmp_path: Path) -> None:
    assert "too few" in refusal(tmp_path, b"1234567")
    assert "does not fit" in refusal(tmp_path, (100).to_bytes(8, "little") + b"{}")
    assert str(MAX_HEADER_BYTES) in refusal(tmp_path, (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}")
    with pytest.raises(StorageError, match="absent"):
        read_header(tmp_path / "absent")


def agrees_with_the_library(content: bytes) -> None:
    """Never anything but CheckpointError or what the library says."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    try:
        found = parse_header(header, len(content), HERE)
    except CheckpointError:
        return
    library = dict(safetensors.deserialize(content))
    assert found.keys() == library.keys()
    for name, info in found.items():
        assert list(info.shape) == library[name]["shape"]
        assert info.dtype == library[name]["dtype"]
        assert content[info.offset : info.offset + info.nbytes] == bytes(library[name]["data"])


VALID = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int8)})


@given(st.lists(st.tuples(st.integers(8, len(VALID) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 40))
@settings(max_examples=400, deadline=None)
@example([], 0)
def test_damaged_files(changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(VALID)
    for place, value in changes:
        content[place] = value
    agrees_with_the_library(bytes(content[: len(content) - cut]))


SIZES = st.one_of(st.integers(-1, 5), st.integers(), st.booleans(), st.floats(), st.none())
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "BOOL", "nope", None]),
        "shape": st.one_of(st.lists(SIZES, max_size=3), st.none()),
        "data_offsets": st.one_of(st.lists(st.integers(0, 40), min_size=2, max_size=2), st.lists(SIZES, max_size=3)),
    }
)


@given(
    st.dictionaries(st.text(max_size=3), st.one_of(ENTRIES, SIZES, st.text(max_size=3)), max_size=3), st.integers(0, 40)
)
@settings(max_examples=400, deadline=None)
def test_invented_headers(header: dict[str, Any], size: int) -> None:
    agrees_with_the_library(packed(header, bytes(size)))


@given(st.lists(st.tuples(st.sampled_from(["F32", "BF16", "I8"]), st.lists(st.integers(0, 4), max_size=3)), max_size=5))
@settings(deadline=None)
def test_every_well_formed_header_is_accepted(tensors: list[tuple[str, list[int]]]) -> None:
    header, end = {}, 0
    for number, (dtype, shape) in enumerate(tensors):
        size = int(np.prod(shape, dtype=np.int64)) * element_bits(dtype) // 8
        header[f"t{number}"] = entry(dtype, shape, [end, end + size])
        end += size
    content = packed(header, bytes(range(256))[:1] * end)
    assert len(parse_header(content[8 : len(content) - end], len(content), HERE)) == len(tensors)
    agrees_with_the_library(content)
