"""Routing traces: what is written is read, and what is no trace of this model is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_traces

from moestro.errors import CheckpointError, StorageError
from moestro.trace.routing import RoutingTrace, read_routing_trace, write_routing_trace

CHOSEN = np.random.default_rng(3).integers(0, 5, (2, 9, 2))
STEPS = {"rows": (4, 1, 1, 3), "step_costs": np.arange(28).reshape(4, 7)}


def trace(**more: Any) -> RoutingTrace:
    return tiny_traces.routing(CHOSEN, 5, distances=1, **{**STEPS, **more})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = trace(policy=np.array("lfu"))
    write_routing_trace(tmp_path / "t.npz", written)
    read = read_routing_trace(tmp_path / "t.npz")
    assert (read.model, read.complete, str(read.array("policy"))) == ("a model", True, "lfu")
    np.testing.assert_array_equal(read.chosen, written.chosen)
    assert read.arrays.keys() == written.arrays.keys()
    for name, values in written.arrays.items():
        np.testing.assert_array_equal(read.array(name), values, err_msg=name)
    for name, values in read.record().arrays().items():
        if name in written.arrays and name != "step_costs":
            np.testing.assert_array_equal(values, written.arrays[name], err_msg=name)


def test_large_numbers_keep_their_width(tmp_path: Path) -> None:
    wide = tiny_traces.routing(np.array([[[3, 40000]]]), 50000)
    write_routing_trace(tmp_path / "t.npz", wide)
    assert read_routing_trace(tmp_path / "t.npz").chosen.tolist() == [[[3, 40000]]]


def test_a_part_has_the_tokens_of_its_steps() -> None:
    part = trace().part(1, 4)
    np.testing.assert_array_equal(part.chosen, CHOSEN[:, 4:])
    assert part.array("tokens").tolist() == [4, 5, 6, 7, 8]
    assert part.array("step_rows").tolist() == [1, 1, 3]
    assert part.array("step_costs")[:, 0].tolist() == [7, 14, 21]
    assert part.array("ahead_ids").shape == (2, 1, 5, 2)
    assert part.record().rows == 5
    whole = trace()
    del whole.arrays["step_costs"]  # type: ignore[attr-defined]
    assert whole.part(0, 2).record().rows == 5


def test_choices_alone_are_enough_for_frequencies(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", chosen=np.array([[[0, 1], [0, 2]], [[1, 2], [1, 2]]]))
    read = read_routing_trace(tmp_path / "t.npz")
    assert read.frequencies([3, 4], "t.npz") == [2, 1, 1, 0, 2, 2, 0]
    assert not read.complete
    with pytest.raises(CheckpointError, match=r"lacks layers: record one with `moestro trace record`"):
        read.record()


def test_a_trace_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"t\.npz: a trace of 2 layers with experts; the model has 3"):
        trace().frequencies([5, 5, 5], "t.npz")
    with pytest.raises(CheckpointError, match=r"layer 1 of the trace uses experts 0 to 4; the model has 4 there"):
        trace().frequencies([5, 4], "t.npz")


@pytest.mark.parametrize("name", ("tokens", "step_rows", "best_ids", "accepted"))
def test_a_missing_array_is_named(name: str) -> None:
    lacking = trace()
    del lacking.arrays[name]  # type: ignore[attr-defined]
    assert not lacking.complete
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        lacking.record()


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "t.npz"
    write_routing_trace(whole, trace())
    cut, other = tmp_path / "cut.npz", tmp_path / "other.npz"
    cut.write_bytes(whole.read_bytes()[:-200])
    np.savez(other, chosen=np.zeros((2, 3)))
    with pytest.raises(CheckpointError, match=r"cut\.npz: not a routing trace"):
        read_routing_trace(cut)
    with pytest.raises(CheckpointError, match=r"other\.npz: .*expected integers `chosen` \[layers, tokens, top_k\]"):
        read_routing_trace(other)
    with pytest.raises(StorageError, match=r"nowhere\.npz: cannot read the routing trace"):
        read_routing_trace(tmp_path / "nowhere.npz")
    with pytest.raises(StorageError, match="cannot write the routing trace"):
        write_routing_trace(tmp_path / "no" / "t.npz", trace())
