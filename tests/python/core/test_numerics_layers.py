"""Layers with the parts that only some models have, against the numpy model of docs/numerics.md, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core import numpy_model as model
from core import numpy_model_ops as ops

from moestro import _core

HIDDEN, HEADS, KV_HEADS, DIM, WIDTH = 24, 4, 2, 12, 20
QUERIES, KEYS = HEADS * DIM, KV_HEADS * DIM
EPS, SCALE, FACTOR, ROWS = 1e-5, 0.3, 1.25, 70
SEEN = [0, 1, 63, 64, 69]  # the rows that numpy computes; the others are their past

F32 = model.F32
Norm = Any  # a weight, a pair of weight and bias, None


def floats(*shape: int, seed: int = 0, scale: float = 1.0) -> F32:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def matrix(w: F32, bias: F32 | None = None) -> _core.Matrix:
    out = np.empty(_core.matrix_bytes("f32", "none", *w.shape), np.uint8)
    _core.pack_matrix(_core.Compute(), w.view(np.uint8).reshape(-1), "f32", *w.shape, "f32", "none", out)
    return _core.Matrix.from_packed(out, "f32", "none", *w.shape, bias)


def norm(given: Norm, x: F32, eps: float = EPS) -> F32:
    if given is None:
        return x
    return ops.layer_norm(x, *given, eps) if isinstance(given, tuple) else ops.rms_norm(x, given, eps)


def add(x: F32, y: F32, after: Norm = None, residual: float = 1.0) -> F32:
    y = norm(after, y)
    return x + y if residual == 1 else model.fma(np.float32(residual), y, x)


def assert_same_bits(actual: F32, expected: F32) -> None:
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(actual.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


@pytest.fixture
def runtime() -> Iterator[_core.Runtime]:
    made = _core.Runtime(threads=2, host_memory=64 << 20)
    yield made
    made.close()


def workspace(**changes: Any) -> _core.Workspace:
    shape = {"hidden": HIDDEN, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": DIM, "experts": 8, "top_k": 3}
    return _core.Workspace(**(shape | changes), max_rows=ROWS)


def begin(work: _core.Workspace, x: F32, blocks: list[int], half: int, factors: F32 | None = None) -> tuple[F32, F32]:
    """A step over positions 0, 1, ... -> cos, sin."""
    positions, inv_freq = np.arange(len(x), dtype=np.int64), floats(half, seed=90)
    table = np.array(blocks, np.int32)
    rotary = [(inv_freq, FACTOR)]
    work.begin(positions, table, np.zeros(len(x), np.int64), table[positions // _core.KV_BLOCK], rotary, factors)
    work.x[:] = x
    return ops.rope_table(positions, inv_freq, FACTOR)


ATTENTION: dict[str, dict[str, Any]] = {
    "usual": {},
    "layer norm": {"norm": (floats(HIDDEN, seed=1), floats(HIDDEN, seed=2))},
    "sandwich": {"norm_after": floats(HIDDEN, seed=3), "residual": 0.22},
    "post": {"norm": None, "norm_after": (floats(HIDDEN, seed=3), None)},
    "whole norms": {"q_norm": floats(QUERIES, seed=4), "k_norm": floats(KEYS, seed=5), "whole_norm": True},
    "norms last": {"q_norm": floats(DIM, seed=4), "k_norm": floats(DIM, seed=5), "norm_last": True},
    "clip": {"q_norm": floats(DIM, seed=4), "k_norm": floats(DIM, seed=5), "clip": 0.7},
    "neighbours": {"neighbours": True},
    "partial": {"half": 3},
    "partial neighbours": {"half": 4, "neighbours": True},
    "temperature": {"rotary": None, "temperature": True},
    "softcap": {"softcap": 0.5},
    "reach": {"window": 30, "chunk": 66, "sinks": floats(HEADS, seed=6)},
    "gate": {"gate": floats(QUERIES, HIDDEN, seed=7, scale=0.3)},
}


def attention_half(x: F32, w: dict[str, F32], o: dict[str, Any], turn: Any, factors: F32) -> F32:
    read = norm(o["norm"], x)
    q, k, v = (model.linear_float(read, w[name]) for name in "qkv")

    def norms(q: F32, k: F32) -> tuple[F32, F32]:
        if "q_norm" not in o:
            return q, k
        width = -1 if o.get("whole_norm") else DIM
        q, k = (a.reshape(len(x), -1, width if width > 0 else a.shape[-1]) for a in (q, k))
        return ops.rms_norm(q, o["q_norm"], EPS).reshape(len(x), -1), ops.rms_norm(k, o["k_norm"], EPS).reshape(
            len(x), -1
        )

    if not o.get("norm_last"):
        q, k = norms(q, k)
    if "clip" in o:
        clip = np.float32(o["clip"])
        q, k, v = (np.maximum(-clip, np.minimum(clip, a)) for a in (q, k, v))
    if o.get("rotary", 0) is not None:
        q, k = (turn(a.reshape(len(x), -1, DIM)).reshape(len(x), -1) for a in (q, k))
    if o.get("norm_last"):
        q, k = norms(q, k)
    if o.get("temperature"):
        q = q * factors[:, None]
    q, k, v = (a.reshape(len(x), -1, DIM) for a in (q, k, v))
    attended = np.zeros((len(x), QUERIES), np.float32)
    for row in SEEN:
        for head in range(HEADS):
            shared = head // (HEADS // KV_HEADS)
            attended[row, head * DIM : (head + 1) * DIM] = ops.attend(
                q[row, head],
                k[: row + 1, shared],
                v[: row + 1, shared],
                SCALE,
                "bf16",
                o.get("window", 0),
                None if "sinks" not in o else float(o["sinks"][head]),
                chunk=o.get("chunk", 0),
                cap=o.get("softcap", 0.0),
            )
    if "gate" in o:
        attended = attended * ops.sigmoid(model.linear_float(read, o["gate"]))
    y = model.linear_float(attended[SEEN], w["o"])
    return add(x[SEEN], y, o.get("norm_after"), o.get("residual", 1.0))


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(runtime: _core.Runtime, name: str) -> None:
    options = {"norm": floats(HIDDEN, seed=1)} | ATTENTION[name]
    shapes = {"q": (QUERIES, HIDDEN), "k": (KEYS, HIDDEN), "v": (KEYS, HIDDEN), "o": (HIDDEN, QUERIES)}
    weights = {key: floats(*shape, seed=20 + i, scale=0.3) for i, (key, shape) in enumerate(shapes.items())}
    kv = runtime.set_kv("bf16", KV_HEADS, DIM, 1)
    half = options.get("half", DIM // 2)
    bound = {key: value for key, value in options.items() if key not in ("half", "gate")}
    if "gate" in options:
        bound["gate"] = matrix(options["gate"])
    matrices = {key: matrix(w) for key, w in weights.items()}
    layer = _core.AttentionLayer(runtime.compute, kv, 0, eps=EPS, scale=SCALE, **matrices, **bound)
    work = workspace(rotary_halves=[half], wide=QUERIES, query_factors=True)
    x, factors = floats(ROWS, HIDDEN, seed=30), np.abs(floats(ROWS, seed=31)) + np.float32(1)
    cos, sin = begin(work, x, [kv.allocate(), kv.allocate()], half, factors)
    layer.run(work)

    def turn(heads: F32) -> F32:
        return ops.rope(heads, cos, sin, neighbours=options.get("neighbours", False))

    assert_same_bits(work.x[SEEN], attention_half(x, weights, options, turn, factors))


@pytest.mark.parametrize("through_latent", [True, False])
@pytest.mark.parametrize("kv_type", _core.KV_TYPES)
def test_latent_attention(runtime: _core.Runtime, kv_type: str, through_latent: bool) -> None:
    heads, nope, rotated, latent, values, rank = 3, 10, 6, 14, 9, 16
    kv = runtime.set_kv(kv_type, 1, latent + rotated, 1, latent=latent)
    before, q_norm, kv_norm = floats(HIDDEN, seed=1), floats(rank, seed=2), floats(latent, seed=3)
    q_down, kv_down = floats(rank, HIDDEN, seed=4, scale=0.3), floats(latent + rotated, HIDDEN, seed=5, scale=0.3)
    q = floats(heads * (nope + rotated), rank if through_latent else HIDDEN, seed=6, scale=0.3)
    k_up, v_up = floats(heads, latent, nope, seed=7, scale=0.3), floats(heads, values, latent, seed=8, scale=0.3)
    o = floats(HIDDEN, heads * values, seed=9, scale=0.3)

    def stack(each: F32) -> _core.Matrix:
        padded = np.zeros((heads, 32, each.shape[2]), np.float32)
        padded[:, : each.shape[1]] = each
        return matrix(padded.reshape(heads * 32, -1))

    layer = _core.LatentAttentionLayer(
        runtime.compute,
        kv,
        0,
        norm=before,
        q_down=matrix(q_down) if through_latent else None,
        q_down_norm=q_norm if through_latent else None,
        q=matrix(q),
        kv_down=matrix(kv_down),
        kv_down_norm=kv_norm,
        k_up=stack(k_up),
        v_up=stack(v_up),
        o=matrix(o),
        values=values,
        eps=EPS,
        latent_eps=1e-6,
        scale=SCALE,
        neighbours=True,
    )
    shape = {"heads": heads, "kv_heads": 1, "head_dim": latent + rotated, "value_dim": latent}
    rooms = {"wide": heads * (nope + rotated), "narrow": rank, "by_head": heads * max(nope, values)}
    work, x = workspace(rotary_halves=[rotated // 2], **shape, **rooms), floats(ROWS, HIDDEN, seed=30)
    cos, sin = begin(work, x, [kv.allocate(), kv.allocate()], rotated // 2)
    layer.run(work)

    read = ops.rms_norm(x, before, EPS)
    c = ops.rms_norm(model.linear_float(read, q_down), q_norm, 1e-6) if through_latent else read
    queries = model.linear_float(c, q).reshape(ROWS, heads, nope + rotated)
    queries = ops.rope(queries, cos, sin, first=nope, neighbours=True)
    keys = model.linear_float(read, kv_down)
    keys[:, :latent] = ops.rms_norm(np.ascontiguousarray(keys[:, :latent]), kv_norm, 1e-6)
    keys = ops.rope(keys[:, None], cos, sin, first=latent, neighbours=True)[:, 0]
    outputs = np.zeros((ROWS, heads * values), np.float32)
    for row in SEEN:
        for head in range(heads):
            of_head = queries[row, head]
            absorbed = model.linear_float(of_head[None, :nope], k_up[head])[0]
            query = np.concatenate([absorbed, of_head[nope:]])
            seen = keys[: row + 1]
            y = ops.attend(query, seen, seen[:, :latent], SCALE, kv_type)
            outputs[row, head * values : (head + 1) * values] = model.linear_float(y[None], v_up[head])[0]
    assert_same_bits(work.x[SEEN], x[SEEN] + model.linear_float(outputs[SEEN], o))


def mlp(w: list[F32], activation: str, x: F32) -> F32:
    gate, up, down = w
    return model.linear_float(ops.gated(activation, model.linear_float(x, gate), model.linear_float(x, up)), down)


def mlp_weights(width: int, seed: int) -> list[F32]:
    shapes = [(width, HIDDEN), (width, HIDDEN), (HIDDEN, width)]
    return [floats(*shape, seed=seed + i, scale=0.4) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "clamped_swiglu"])
def test_mlp(activation: str) -> None:
    compute, work, x = _core.Compute(2), workspace(), floats(6, HIDDEN, seed=30, scale=5)
    before = (floats(HIDDEN, seed=1, scale=3), None)
    weights = [mlp_weights(WIDTH, 40), mlp_weights(WIDTH, 50)]

    def layer(w: list[F32], **options: Any) -> _core.MlpLayer:
        gate, up, down = (matrix(one) for one in w)
        return _core.MlpLayer(compute, 0, eps=EPS, gate=gate, up=up, down=down, activation=activation, **options)

    first, second = layer(weights[0], norm=before), layer(weights[1], norm=None, reads_last=True, residual=0.5)
    begin(work, x, [0], DIM // 2)
    first.run(work)
    second.run(work)
    read = norm(before, x)
    assert_same_bits(
        work.x, add(add(x, mlp(weights[0], activation, read)), mlp(weights[1], activation, read), residual=0.5)
    )


@pytest.mark.parametrize("cap", [0.0, 0.4, 30.0])
@pytest.mark.parametrize("multiplier", [1.0, 0.0625])
@pytest.mark.parametrize("with_bias", [None, False, True])
def test_head(cap: float, multiplier: float, with_bias: bool | None) -> None:
    given: Norm = floats(HIDDEN, seed=1)
    if with_bias is not None:
        given = (given, floats(HIDDEN, seed=2) if with_bias else None)
    w, x = floats(50, HIDDEN, seed=3), floats(5, HIDDEN, seed=30)
    work = workspace()
    begin(work, x, [0], DIM // 2)
    head = _core.Head(_core.Compute(2), norm=given, eps=EPS, slices=[matrix(w)], multiplier=multiplier, softcap=cap)
    logits = model.linear_float(norm(given, x), w) * np.float32(multiplier)
    assert_same_bits(head.run(work, np.arange(5)), ops.softcap(logits, cap))


EXPERTS = 8
RULES: dict[str, dict[str, Any]] = {
    "softmax": {"top_k": 3, "normalise": False},
    "softmax, normalised": {"top_k": 3, "normalise": True, "norm_min": 0.9, "scale": 2.5},
    "sigmoid": {"top_k": 3, "normalise": True, "score": "sigmoid", "norm_eps": 1e-20, "scale": 16.0},
    "correction": {
        "top_k": 2,
        "normalise": True,
        "score": "sigmoid",
        "correction": floats(EXPERTS, seed=1),
        "groups": 4,
        "kept_groups": 2,
        "group_best": 2,
    },
    "groups": {"top_k": 3, "normalise": False, "groups": 4, "kept_groups": 2},
    "chosen": {"top_k": 3, "normalise": False, "score": "chosen"},
    "sigmoid_of_chosen": {"top_k": 2, "normalise": False, "score": "sigmoid_of_chosen"},
    "sparsemixer": {"top_k": 2, "normalise": False, "score": "sparsemixer", "jitter": 0.2},
}


@pytest.fixture
def experts(runtime: _core.Runtime, tmp_path: Path) -> list[list[F32]]:
    """Of layer 0, each gate, up, down; the runtime streams them."""
    made = [mlp_weights(WIDTH, 100 + 10 * expert) for expert in range(EXPERTS)]
    path = tmp_path / "experts.bin"
    path.write_bytes(b"".join(w.tobytes() for one in made for w in one))
    offsets = 4 * WIDTH * HIDDEN * np.arange(3 * EXPERTS, dtype=np.uint64).reshape(EXPERTS, 3)
    shapes = [(*w.shape, "f32", 0, 1) for w in made[0]]
    file = runtime.open_file(str(path))
    runtime.add_expert_layer_inplace(0, "f32", shapes, np.full((EXPERTS, 3), file, np.int32), offsets)
    runtime.set_experts()
    return made


def run_moe(runtime: _core.Runtime, work: _core.Workspace, layer: _core.MoeLayer, x: F32) -> F32:
    begin(work, x, [0], DIM // 2)
    runtime.begin_step(len(x))
    layer.submit(work)
    layer.wait(work)
    runtime.end_step()
    return work.x.copy()


def routed(experts: list[list[F32]], read: F32, ids: Any, weights: F32, weigh_input: bool = False) -> F32:
    outputs = np.empty((*ids.shape, HIDDEN), np.float32)
    for row, picked in enumerate(ids):
        for j, expert in enumerate(picked):
            x = read[row : row + 1] * weights[row, j] if weigh_input else read[row : row + 1]
            outputs[row, j] = mlp(experts[expert], "silu", x)[0]
    return ops.combine(outputs, np.ones_like(weights) if weigh_input else weights)


@pytest.mark.parametrize("name", RULES)
def test_router_rules(runtime: _core.Runtime, experts: list[list[F32]], name: str) -> None:
    rule, before, router = RULES[name], floats(HIDDEN, seed=1), floats(EXPERTS, HIDDEN, seed=2)
    router[5] = router[2]  # they always tie
    layer = _core.MoeLayer(runtime, 0, norm=before, eps=EPS, router=matrix(router), **rule)
    work, x = workspace(), floats(20, HIDDEN, seed=30)
    got = run_moe(runtime, work, layer, x)
    read = ops.rms_norm(x, before, EPS)
    ids, weights = ops.route(model.linear_float(read, router), **rule)
    np.testing.assert_array_equal(work.ids, ids)
    assert_same_bits(got, x + routed(experts, read, ids, weights))


@pytest.mark.parametrize("weigh_input", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_shared_expert(
    runtime: _core.Runtime, experts: list[list[F32]], weigh_input: bool, gated: bool, average: bool
) -> None:
    before, router = floats(HIDDEN, seed=1), floats(EXPERTS, HIDDEN, seed=2)
    shared, weight = mlp_weights(13, 70), floats(1, HIDDEN, seed=80)
    rule: dict[str, Any] = {"top_k": 1, "normalise": False, "score": "sigmoid"}
    gate, up, down = (matrix(w) for w in shared)
    layer = _core.MoeLayer(
        runtime,
        0,
        norm=before,
        eps=EPS,
        router=matrix(router),
        shared=(gate, up, down),
        shared_weight=matrix(weight) if gated else None,
        average=average,
        weigh_input=weigh_input,
        norm_after=before,
        **rule,
    )
    work, x = workspace(shared=True, weighed=True), floats(4, HIDDEN, seed=30)
    got = run_moe(runtime, work, layer, x)
    read = ops.rms_norm(x, before, EPS)
    y = routed(experts, read, *ops.route(model.linear_float(read, router), **rule), weigh_input=weigh_input)
    s = mlp(shared, "silu", read)
    if gated:
        s = s * ops.sigmoid(model.linear_float(read, weight))
    y = y + s
    if average:
        y = y * np.float32(0.5)
    assert_same_bits(got, add(x, y, after=before))
