"""What layers, workspaces and loading refuse: what is wrong is named, nothing crashes later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moestro import _core, errors

HIDDEN, EXPERTS, WIDTH = 40, 8, 24
HEADS, NOPE, ROPE, LATENT, VALUES = 2, 6, 4, 32, 10


@pytest.fixture
def runtime() -> Iterator[_core.Runtime]:
    made = _core.Runtime(threads=1, host_memory=64 << 20)
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(1 << 16))
    return path


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def matrix(rows: int, cols: int) -> _core.Matrix:
    packed = np.zeros(_core.matrix_bytes("f32", "none", rows, cols), np.uint8)
    return _core.Matrix.from_packed(packed, "f32", "none", rows, cols)


def refused(said: str, make: Callable[[], object]) -> None:
    with pytest.raises(errors.UsageError, match=said):
        make()


def workspace(**changes: Any) -> _core.Workspace:
    sizes = {"hidden": HIDDEN, "heads": HEADS, "kv_heads": 1, "head_dim": 16, "experts": EXPERTS, "top_k": 2}
    return _core.Workspace(**{**sizes, "max_rows": 8, **changes})


def begin(work: _core.Workspace, **changes: Any) -> None:
    ids = np.zeros(2, np.int32)
    places = {"positions": np.arange(2), "tables": ids[:1], "table_begin": np.zeros(2, np.int64), "blocks": ids}
    work.begin(**places | {"rotary": [(np.ones(8, np.float32), 1.0)]} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"wdie": 3}, "there is no size wdie"),
        ({"head_dim": 15}, "argument head_dim: expected an even number; got 15"),
        ({"hidden": 0}, "hidden 0"),
        ({"top_k": 9}, "argument top_k: expected 0 to 8"),
        ({"top_k": -1}, "argument top_k: expected 0 to 8"),
        ({"rotary_halves": [9]}, "argument rotary_halves: expected 1 to 8; got 9"),
        ({"rotary_halves": [4, 0]}, "argument rotary_halves: expected 1 to 8; got 0"),
        ({"wide": -5}, "sizes of at least 0; got -5"),
        ({"value_dim": -500}, "sizes of at least 0; got -500"),
        ({"hidden": "many"}, "argument hidden: expected a number; got 'many'"),
        ({"shared": "no"}, "argument shared: expected a flag; got 'no'"),
        ({"rotary_halves": 8}, "argument rotary_halves: expected a list of numbers; got 8"),
    ],
)
def test_sizes_of_a_workspace(changes: dict[str, Any], said: str) -> None:
    refused(said, lambda: workspace(**changes))


@pytest.mark.parametrize("size", ["hidden", "heads", "kv_heads", "head_dim", "experts", "top_k"])
def test_a_size_that_is_missing(size: str) -> None:
    sizes = {"hidden": 8, "heads": 1, "kv_heads": 1, "head_dim": 4, "experts": 0, "top_k": 0}
    del sizes[size]
    refused(f"argument {size} is missing", lambda: _core.Workspace(max_rows=1, **sizes))


def test_as_many_embeddings_as_the_workspace_has() -> None:
    refused("argument rotary: expected 1 pairs .*got 0", lambda: begin(workspace(), rotary=[]))
    refused("argument rotary: expected 2 pairs .*got 1", lambda: begin(workspace(rotary_halves=[8, 4])))
    half = (zeros(4), 1.0)
    refused(r"argument inv_freq: .*\[\.\.\., 8\]", lambda: begin(workspace(rotary_halves=[8, 4]), rotary=[half, half]))
    begin(workspace(rotary_halves=[8, 4]), rotary=[(zeros(8), 1.0), half])


def test_query_factors_are_one_per_row_where_they_are_needed() -> None:
    refused("argument query_factors: this workspace needs", lambda: begin(workspace(query_factors=True)))
    refused(r"query_factors: .*\[2\]", lambda: begin(workspace(query_factors=True), query_factors=zeros(3)))
    refused(r"query_factors: .*\[2\]", lambda: begin(workspace(), query_factors=zeros(3)))
    begin(workspace(query_factors=True), query_factors=zeros(2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm": (zeros(HIDDEN), zeros(HIDDEN + 1))}, r"argument norm: .*\[40\]"),
        ({"norm": (None, None)}, "argument norm: .*NoneType"),
        (
            {"norm": (zeros(HIDDEN),)},
            r"argument norm: .*the pair \(weight, bias or None\) of a layer norm; got 1 values",
        ),
        ({"norm_after": zeros(HIDDEN - 1)}, r"argument norm_after: .*\[40\]"),
        ({"gate": matrix(31, HIDDEN)}, r"argument gate: .*\[32, 40\]"),
        ({"q_norm": zeros(16), "whole_norm": True}, r"argument q_norm: .*\[32\]"),
        ({"k_norm": (zeros(16), zeros(15))}, r"argument k_norm: .*\[16\]"),
        ({"sinks": zeros(3)}, r"argument sinks: .*\[2\]"),
        ({"chunk": -1}, "argument chunk: .*-1"),
    ],
)
def test_attention(runtime: _core.Runtime, changes: dict[str, Any], said: str) -> None:
    kv = runtime.set_kv("f32", 1, 16, 1)
    weights = {"q": matrix(32, HIDDEN), "k": matrix(16, HIDDEN), "v": matrix(16, HIDDEN), "o": matrix(HIDDEN, 32)}
    given = {**weights, "norm": zeros(HIDDEN), "eps": 1e-5, "scale": 1.0}
    _core.AttentionLayer(runtime.compute, kv, 0, **given)
    refused(said, lambda: _core.AttentionLayer(runtime.compute, kv, 0, **(given | changes)))


def run_attention(runtime: _core.Runtime, **changes: Any) -> None:
    """One step through a layer of one's own."""
    kv = runtime.set_kv("f32", 1, 16, 1)
    weights = {"q": matrix(32, HIDDEN), "k": matrix(16, HIDDEN), "v": matrix(16, HIDDEN), "o": matrix(HIDDEN, 32)}
    given = {**weights, "norm": np.ones(HIDDEN, np.float32), "eps": 1e-5, "scale": 1.0, **changes}
    work, block = workspace(), kv.allocate()
    begin(work, tables=np.array([block], np.int32), blocks=np.array([block, block], np.int32))
    work.x[:] = 1
    _core.AttentionLayer(runtime.compute, kv, 0, **given).run(work)


@pytest.mark.parametrize("table", [-1, 1, 5])
def test_an_embedding_that_the_workspace_lacks(runtime: _core.Runtime, table: int) -> None:
    refused(f"1 rotary embeddings; layer 0 wants number {table}", lambda: run_attention(runtime, rotary=table))


def test_query_factors_that_the_workspace_lacks(runtime: _core.Runtime) -> None:
    refused("no query factors", lambda: run_attention(runtime, temperature=True))


def test_one_step_of_what_is_right(runtime: _core.Runtime) -> None:
    run_attention(runtime)
    with pytest.raises(errors.UsageError, match="at least one row"):
        _core.Workspace.nbytes(max_rows=-4, hidden=8, heads=1, kv_heads=1, head_dim=4, experts=0, top_k=0)


def latent_layer(runtime: _core.Runtime, kv: _core.KvPool, **changes: Any) -> _core.LatentAttentionLayer:
    given = {
        "norm": zeros(HIDDEN),
        "q_down": None,
        "q_down_norm": None,
        "q": matrix(HEADS * (NOPE + ROPE), HIDDEN),
        "kv_down": matrix(LATENT + ROPE, HIDDEN),
        "kv_down_norm": zeros(LATENT),
        "k_up": matrix(HEADS * LATENT, NOPE),
        "v_up": matrix(HEADS * 32, LATENT),
        "o": matrix(HIDDEN, HEADS * VALUES),
        "values": VALUES,
        "eps": 1e-5,
        "latent_eps": 1e-6,
        "scale": 1.0,
    }
    return _core.LatentAttentionLayer(runtime.compute, kv, 0, **(given | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kv_down": matrix(LATENT, HIDDEN)}, r"argument kv_down: .*\[36, any\]"),
        ({"kv_down_norm": zeros(LATENT + ROPE)}, r"argument kv_down_norm: .*\[32\]"),
        ({"q": matrix(HEADS * (NOPE + ROPE) + 1, HIDDEN)}, "argument q: expected a multiple of 10 rows"),
        ({"q": matrix(NOPE, HIDDEN)}, "argument q: expected a multiple of 10 rows"),
        ({"q": matrix(HEADS * (NOPE + ROPE), HIDDEN - 1)}, r"argument q: .*\[any, 40\]"),
        ({"values": 0}, "values above 0"),
        ({"k_up": matrix(LATENT, NOPE)}, "argument k_up: expected a stack of 2 matrices of 32 rows"),
        ({"v_up": matrix(HEADS * 32 + 1, LATENT)}, "argument v_up: expected a stack of 2 matrices of 10 rows"),
        ({"v_up": matrix(HEADS * 32, LATENT - 1)}, r"argument v_up: .*\[any, 32\]"),
        ({"o": matrix(HIDDEN, HEADS * 32)}, r"argument o: .*\[40, 20\]"),
        ({"q_down": matrix(12, HIDDEN)}, r"argument q: .*\[any, 12\]"),
        (
            {"q_down": matrix(12, HIDDEN), "q": matrix(HEADS * (NOPE + ROPE), 12), "q_down_norm": zeros(13)},
            r"argument q_down_norm: .*\[12\]",
        ),
    ],
)
def test_latent_attention(runtime: _core.Runtime, changes: dict[str, Any], said: str) -> None:
    kv = runtime.set_kv("f32", 1, LATENT + ROPE, 1, LATENT)
    latent_layer(runtime, kv)
    refused(said, lambda: latent_layer(runtime, kv, **changes))


def test_a_pool_is_of_latents_or_not(runtime: _core.Runtime) -> None:
    plain = runtime.set_kv("f32", 1, LATENT + ROPE, 1)
    refused("argument kv: expected a KV pool of latents", lambda: latent_layer(runtime, plain))
    other = _core.Runtime(threads=1, host_memory=64 << 20)
    latents = other.set_kv("f32", 1, LATENT + ROPE, 1, LATENT)
    k = zeros(1, 1, LATENT + ROPE)
    one = np.zeros(1, np.int32)
    refused("holds latents", lambda: _core.kv_append(other.compute, latents, 0, k, k, np.zeros(1, np.int64), one))
    other.close()


@pytest.mark.parametrize("latent", [-1, 17])
def test_a_latent_is_a_part_of_the_key(runtime: _core.Runtime, latent: int) -> None:
    refused(
        f"argument latent: expected 0 to head_dim = 16; got {latent}", lambda: runtime.set_kv("f32", 1, 16, 1, latent)
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"score": "softmix"}, "argument score: .*softmix"),
        ({"activation": "relu"}, "argument activation: .*relu"),
        ({"correction": zeros(EXPERTS - 1)}, r"argument correction: .*\[8\]"),
        ({"groups": 3}, "argument groups"),
        ({"groups": 0}, "argument groups"),
        ({"groups": 4, "kept_groups": 5}, "argument groups"),
        ({"groups": 8, "kept_groups": 1}, "argument groups: 1 of 8 groups .*cannot give 2"),
        ({"groups": 4, "kept_groups": 2, "group_best": 3}, "argument groups"),
        ({"groups": 8, "kept_groups": 4, "group_best": 2}, "argument groups"),
        ({"weigh_input": True}, "argument weigh_input: expected top_k 1; got 2"),
        ({"shared": (matrix(WIDTH, HIDDEN - 1), matrix(WIDTH, HIDDEN), matrix(HIDDEN, WIDTH))}, "argument shared"),
        ({"shared": (matrix(WIDTH, HIDDEN), matrix(WIDTH + 1, HIDDEN), matrix(HIDDEN, WIDTH))}, "argument shared"),
        ({"shared": (matrix(WIDTH, HIDDEN), matrix(WIDTH, HIDDEN), matrix(HIDDEN, HIDDEN))}, "argument shared"),
        ({"shared_weight": matrix(2, HIDDEN)}, r"argument shared_weight: .*\[1, 40\]"),
        ({"norm_after": zeros(1)}, r"argument norm_after: .*\[40\]"),
    ],
)
def test_mixtures(runtime: _core.Runtime, changes: dict[str, Any], said: str) -> None:
    given = {"norm": None, "eps": 1e-5, "router": matrix(EXPERTS, HIDDEN), "top_k": 2, "normalise": True}
    _core.MoeLayer(runtime, 0, **given)
    refused(said, lambda: _core.MoeLayer(runtime, 0, **(given | changes)))


def test_dense_layers_and_heads(runtime: _core.Runtime) -> None:
    gate, down = matrix(WIDTH, HIDDEN), matrix(HIDDEN, WIDTH)
    given = {"norm": None, "eps": 1e-5, "gate": gate, "up": gate, "down": down}
    mlp: list[tuple[dict[str, Any], str]] = [
        ({"activation": "gelu"}, "argument activation: .*gelu"),
        ({"norm_after": (zeros(HIDDEN), zeros(3))}, r"argument norm_after: .*\[40\]"),
        ({"norm": (zeros(3), None)}, r"argument norm: .*\[40\]"),
    ]
    for changes, said in mlp:
        refused(said, lambda changes=changes: _core.MlpLayer(runtime.compute, 0, **(given | changes)))
    norm = (zeros(HIDDEN), zeros(HIDDEN - 1))
    refused(r"argument norm: .*\[40\]", lambda: _core.Head(runtime.compute, norm=norm, eps=1e-5, slices=[gate]))


def test_a_workspace_that_lacks_what_a_layer_needs(runtime: _core.Runtime, file: Path) -> None:
    kv = runtime.set_kv("f32", 1, 16, 1)
    weights = {"q": matrix(32, HIDDEN), "k": matrix(16, HIDDEN), "v": matrix(16, HIDDEN), "o": matrix(HIDDEN, 32)}
    gated = _core.AttentionLayer(
        runtime.compute, kv, 0, **weights, gate=matrix(32, HIDDEN), norm=None, eps=1e-5, scale=1.0
    )
    router = {"norm": None, "eps": 1e-5, "router": matrix(EXPERTS, HIDDEN), "normalise": True}
    halves = (matrix(WIDTH, HIDDEN), matrix(WIDTH, HIDDEN), matrix(HIDDEN, WIDTH))
    shared = _core.MoeLayer(runtime, 0, **router, top_k=2, shared=halves)
    weighed = _core.MoeLayer(runtime, 0, **router, top_k=1, weigh_input=True)
    parts = [(WIDTH, HIDDEN, "f32", 0, 1), (WIDTH, HIDDEN, "f32", 0, 1), (HIDDEN, WIDTH, "f32", 0, 1)]
    files = np.full((EXPERTS, 3), runtime.open_file(str(file)), np.int32)
    runtime.add_expert_layer_inplace(0, "f32", parts, files, np.zeros((EXPERTS, 3), np.uint64))
    runtime.set_experts()
    work = workspace()
    begin(work, tables=np.array([kv.allocate()], np.int32))
    refused("not for the attention of layer 0", lambda: gated.run(work))
    refused("not for shared or weighed experts", lambda: shared.submit(work))
    refused("not for shared or weighed experts", lambda: weighed.submit(work))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": (3, 1)}, "4 columns, every 1, do not fit a table of 3"),
        ({"columns": (4, 0)}, "every 0"),
        ({"columns": (7, 2), "rows": 5}, "do not fit a table of 7"),
        ({"columns": (-4, 1)}, "do not fit a table of -4"),
        ({"stack": (3, 1, 64)}, "4 rows cannot be a stack of 3"),
        ({"stack": (2, 3, 64)}, "cannot be a stack of 2 matrices of 3"),
        ({"stack": (2, 0, 64)}, "cannot be a stack of 2 matrices of 0"),
        ({"stack": (0, 1, 64)}, "cannot be a stack of 0"),
        ({"stack": (2, 1, 1 << 62)}, "strides"),
        ({"columns": (1 << 60, 1)}, "strides"),
        ({"stack": (2, 2, 1 << 20)}, "weights"),
        ({"columns": (1 << 20, 1)}, "weights"),
        ({"bias": zeros(3)}, r"argument bias: .*\[4\]"),
        ({"columns": (4, 1), "format": "q8"}, "used as f32 or bf16, not as q8"),
    ],
)
def test_matrices_in_columns_and_stacks(runtime: _core.Runtime, file: Path, changes: dict[str, Any], said: str) -> None:
    number = runtime.open_file(str(file))
    given = {"offset": 0, "dtype": "f32", "rows": 4, "cols": 4, "format": "f32"}
    runtime.load_matrix("plain", number, **given)
    with pytest.raises(errors.MoestroError, match=said):
        runtime.load_matrix("named", number, **(given | changes))


def test_experts(runtime: _core.Runtime, file: Path) -> None:
    number = runtime.open_file(str(file))
    files, offsets = np.full((2, 3), number, np.int32), np.zeros((2, 3), np.uint64)
    parts = [(6, 8, "f32", 0, 1), (6, 8, "f32", 0, 1), (8, 6, "f32", 0, 1)]
    biases = (zeros(2, 6), zeros(2, 6), zeros(2, 8))

    def add(parts: Any = parts, **more: Any) -> None:
        runtime.add_expert_layer_inplace(0, "f32", parts, files, offsets, **more)

    refused("argument activation: .*relu", lambda: add(activation="relu"))
    refused("argument gate_up_down: .*got 2", lambda: add(parts[:2]))
    refused(r"argument biases: .*\[2, 8\]", lambda: add(biases=(*biases[:2], zeros(2, 6))))
    refused(r"argument biases: .*\[2, 6\]", lambda: add(biases=(zeros(1, 6), *biases[1:])))
    add(biases=biases, activation="clamped_swiglu")


def test_as_many_biases_as_parts(runtime: _core.Runtime, file: Path) -> None:
    number, part = runtime.open_file(str(file)), (4, 4, "f32", "none", 0)
    for load in (runtime.load_record, runtime.stream_record):
        with pytest.raises(errors.UsageError, match="argument biases: expected 1 entries, as many as parts; got 2"):
            load("record", number, 0, 4096, 0, [part], [None, None])
        with pytest.raises(errors.UsageError, match=r"argument bias: .*\[4\]"):
            load("record", number, 0, 4096, 0, [part], [zeros(5)])
