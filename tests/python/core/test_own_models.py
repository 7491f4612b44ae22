"""moestro.core for people who wrap their own models: records, experts one by one, the layer stream, reading, and the
example that the guide shows."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moestro import core
from moestro.errors import IntegrityError, StorageError, UsageError

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "torch_moe.py"
HIDDEN, WIDTH, EXPERTS = 70, 45, 6
SHAPES = [(WIDTH, HIDDEN), (WIDTH, HIDDEN), (HIDDEN, WIDTH)]
BUDGET = core.Runtime.staging_bytes() + (1 << 20)


@pytest.fixture(scope="module")
def weights() -> list[list[Any]]:
    rng = np.random.default_rng(3)
    return [[rng.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(EXPERTS)]


@pytest.fixture
def records(weights: list[list[Any]], tmp_path: Path) -> list[core.PackedRecord]:
    return core.write_records(core.make_compute(2), tmp_path / "records.bin", weights, "f32")


@pytest.fixture
def runtime(records: list[core.PackedRecord]) -> Iterator[core.Runtime]:
    made = core.Runtime(threads=2, host_memory=BUDGET, expert_slots=3)
    core.add_experts(made, 4, records)
    made.set_experts()
    yield made
    made.check_integrity()
    made.close()


def mlp(x: Any, gate: Any, up: Any, down: Any) -> Any:
    g = x.astype(np.float64) @ gate.T
    return (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T


def test_experts_are_held_one_by_one(runtime: core.Runtime, weights: list[list[Any]]) -> None:
    x = np.random.default_rng(0).standard_normal((3, HIDDEN)).astype(np.float32)
    out = np.empty_like(x)
    for expert in (0, 5, 2, 3, 0, 1):
        with core.held(runtime, 4, expert) as (gate, up, down):
            assert (gate.rows, gate.cols, down.rows) == (WIDTH, HIDDEN, HIDDEN)
            core.gated_mlp(runtime.compute, x, gate, up, down, out)
        np.testing.assert_allclose(out, mlp(x, *weights[expert]), rtol=1e-4, atol=1e-4)
        with pytest.raises(UsageError, match="not in memory now"):
            core.linear(runtime.compute, x, [gate], [np.empty((3, WIDTH), np.float32)])
        with pytest.raises(UsageError, match="not in memory now"):
            core.gated_mlp(runtime.compute, x, gate, up, down, out)


def test_held_experts_stay_and_room_is_refused_when_there_is_none(runtime: core.Runtime) -> None:
    for expert in (0, 1, 2, 1):
        runtime.acquire(4, expert)
    with pytest.raises(UsageError, match="every expert slot is held"):
        runtime.acquire(4, 3)
    runtime.release(4, 1)
    with pytest.raises(UsageError, match="every expert slot is held"):
        runtime.acquire(4, 3)  # 1 was acquired twice
    runtime.release(4, 1)
    runtime.acquire(4, 3)
    with pytest.raises(UsageError, match="expert 1 is not held"):
        runtime.release(4, 1)
    with pytest.raises(UsageError, match="experts 0 to 5, not 6"):
        runtime.acquire(4, 6)
    with pytest.raises(UsageError, match="layer 3 has no experts"):
        runtime.acquire(3, 0)


def test_prefetched_experts_are_there(runtime: core.Runtime) -> None:
    assert runtime.prefetch(4, [0, 1, 1]) == 2
    assert runtime.prefetch(4, [1, 2]) == 1
    assert runtime.prefetch(4, [3, 4]) >= 0
    before = runtime.counters()["reads"]
    with core.held(runtime, 4, 2):
        pass
    assert runtime.counters()["reads"] >= before


def test_matrices_outlive_their_runtime_as_refusals(records: list[core.PackedRecord]) -> None:
    runtime = core.Runtime(threads=1, host_memory=BUDGET)
    core.add_experts(runtime, 0, records)
    runtime.set_experts()
    gate, _, _ = runtime.acquire(0, 0)
    compute = runtime.compute
    runtime.close()
    with pytest.raises(UsageError, match="not in memory now"):
        core.linear(compute, np.zeros((1, HIDDEN), np.float32), [gate], [np.zeros((1, WIDTH), np.float32)])


@pytest.mark.parametrize("window", (1, 2, 4))
def test_a_stack_of_layers_streams(window: int, weights: list[list[Any]], records: list[core.PackedRecord]) -> None:
    runtime = core.Runtime(threads=2, host_memory=BUDGET)
    units = [core.add_unit(runtime, f"layer {number}", record) for number, record in enumerate(records)]
    runtime.set_stream(window=window, batch=1, keep_bytes=2 * records[0].nbytes)
    x = np.random.default_rng(1).standard_normal((2, HIDDEN)).astype(np.float32)
    for _ in range(3):
        runtime.begin_step(2)
        for unit, (gate, up, down) in enumerate(units):
            out = np.empty_like(x)
            with core.held_unit(runtime, unit):
                core.gated_mlp(runtime.compute, x, gate, up, down, out)
            np.testing.assert_allclose(out, mlp(x, *weights[unit]), rtol=1e-4, atol=1e-4)
        runtime.end_step()
    assert runtime.residency()["units_kept"] == 2
    runtime.check_integrity()
    runtime.close()


def test_a_changed_record_is_named(records: list[core.PackedRecord]) -> None:
    record = records[1]
    with record.path.open("r+b") as file:
        file.seek(record.offset + 100)
        file.write(b"\xa5")
    runtime = core.Runtime(threads=1, host_memory=BUDGET)
    core.add_experts(runtime, 0, records)
    runtime.set_experts()
    with pytest.raises(IntegrityError, match=r"expert 1.*records\.bin.*checksum"):
        runtime.acquire(0, 1)
    with core.held(runtime, 0, 0):
        pass
    runtime.close()


def test_records_refuse_what_they_cannot_hold(tmp_path: Path, weights: list[list[Any]]) -> None:
    compute = core.make_compute()
    path = tmp_path / "records.bin"
    with pytest.raises(UsageError, match=r"float32 or float16 \[rows, cols\], got float64"):
        core.write_records(compute, path, [[np.zeros((3, 3))]])
    assert not path.exists()
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        core.write_records(compute, path, weights)
    assert path.read_bytes() == b"mine"
    with pytest.raises(StorageError, match="cannot write"):
        core.write_records(compute, tmp_path / "nowhere" / "records.bin", weights)
    uneven = core.write_records(compute, tmp_path / "uneven.bin", [weights[0], [w[:, :32] for w in weights[0]]])
    with pytest.raises(UsageError, match="expert 1 is"):
        core.add_experts(core.Runtime(threads=1, host_memory=BUDGET), 0, uneven)


@pytest.mark.parametrize("engine", core.READERS)
@pytest.mark.parametrize("cache", ("direct", "buffered"))
def test_files_are_read_into_arrays(engine: str, cache: str, tmp_path: Path) -> None:
    data = np.random.default_rng(2).integers(0, 256, 40 * 4096, np.uint8)
    path = str(tmp_path / "data.bin")
    data.tofile(path)
    reader = core.Reader(engine, 4, cache=cache, read_bytes=8192)
    unit = reader.alignment(path)
    assert 4096 % unit == 0
    arrays = {}
    for block in range(0, 40, 5):
        out = core.page_array(5 * 4096)
        arrays[reader.submit(path, block * 4096, out, urgent=block == 35)] = (block, out)
    seen: list[int] = []
    while reader.in_flight:
        seen += reader.wait()
    assert sorted(seen) == sorted(arrays)
    assert reader.wait() == []
    for block, out in arrays.values():
        np.testing.assert_array_equal(out, data[block * 4096 :][: out.size])
    with pytest.raises(UsageError, match="the file ends at"):
        reader.submit(path, 40 * 4096, core.page_array(4096))
    with pytest.raises(StorageError, match="nowhere"):
        reader.submit(str(tmp_path / "nowhere"), 0, core.page_array(4096))
    if unit > 1:
        with pytest.raises(UsageError, match="multiples of"):
            reader.submit(path, 7, core.page_array(4096))


def test_a_reader_may_go_while_it_reads(tmp_path: Path) -> None:
    path = str(tmp_path / "data.bin")
    np.zeros(64 << 20, np.uint8).tofile(path)
    for _ in range(5):
        reader = core.Reader(cache="buffered")
        for block in range(16):
            reader.submit(path, block << 22, core.page_array(4 << 20))
        del reader


def _open_files_and_memory() -> tuple[int, int]:
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))
    return len(list(Path("/proc/self/fd").iterdir())), resident * 1024


def test_a_thousand_runtimes_leave_nothing(records: list[core.PackedRecord]) -> None:
    """Rings, threads, files and memory, with reads under way when they are closed."""

    def cycle(number: int) -> None:
        runtime = core.Runtime(threads=1, host_memory=BUDGET, expert_slots=2)
        for unit, record in enumerate(records):
            core.add_unit(runtime, f"layer {unit}", record)
        runtime.set_stream(window=2, batch=1, keep_bytes=records[0].nbytes)
        core.add_experts(runtime, 0, records)
        runtime.set_experts()
        runtime.begin_step(1)
        for unit in range(number % 3):
            with core.held_unit(runtime, unit):
                runtime.prefetch(0, [unit])
        runtime.close()

    for number in range(50):
        cycle(number)
    files, memory = _open_files_and_memory()
    for number in range(1000):
        cycle(number)
    files_after, memory_after = _open_files_and_memory()
    assert files_after == files
    assert memory_after < memory + (16 << 20)


def test_the_example_answers_as_torch_does(tmp_path: Path) -> None:
    import torch

    spec = importlib.util.spec_from_file_location("torch_moe", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(1)
    router = torch.nn.Linear(HIDDEN, EXPERTS, bias=False)
    experts = [[torch.randn(shape, dtype=torch.bfloat16) / 8 for shape in SHAPES] for _ in range(EXPERTS)]
    layer = example.StreamedExperts(router, experts, 2, str(tmp_path / "experts.bin"), BUDGET - (1 << 20) + (112 << 10))
    for _ in range(3):
        x = torch.randn(9, HIDDEN)
        scores, ids = router(x).softmax(-1).topk(2)
        scores = scores / scores.sum(-1, keepdim=True)
        expected = torch.zeros(9, HIDDEN, dtype=torch.float64)
        for row in range(9):
            for score, expert in zip(scores[row], ids[row], strict=True):
                gate, up, down = (weight.double() for weight in experts[expert])
                hidden = torch.nn.functional.silu(gate @ x[row].double()) * (up @ x[row].double())
                expected[row] += score.double() * (down @ hidden)
        y = layer(x)
        assert ((y - expected) ** 2).sum() / (expected**2).sum() < 1e-10
    counters = layer.runtime.counters()
    assert counters["evictions"] > 0 and counters["misses"] > EXPERTS
    layer.runtime.close()


def test_the_example_runs() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step ") == 4
    assert len([line for line in EXAMPLE.read_text().split("if __name__")[0].splitlines() if line.strip()]) <= 40
