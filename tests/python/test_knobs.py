from __future__ import annotations

from pathlib import Path

import pytest

from moestro import core, knobs
from moestro.errors import UsageError


def test_unset_and_empty_give_the_default() -> None:
    for knob in knobs.KNOBS:
        assert knob.read({}) == knob.read({knob.name: ""}) == knob.default


def test_values_are_parsed() -> None:
    assert knobs.ISA.read({"MOESTRO_ISA": "scalar"}) == "scalar"
    assert knobs.CACHE.read({"MOESTRO_CACHE": "/var/cache/m"}) == Path("/var/cache/m")


@pytest.mark.parametrize(("name", "value"), [("MOESTRO_ISA", "AVX2"), ("MOESTRO_CACHE", "relative/place")])
def test_malformed_values_are_named(name: str, value: str) -> None:
    knob = next(knob for knob in knobs.KNOBS if knob.name == name)
    with pytest.raises(UsageError, match=f"{name}: expected .*{value}"):
        knob.read({name: value})


def test_the_instruction_sets_are_those_of_the_core() -> None:
    assert set(knobs.ISA_NAMES) == {table["name"] for table in core.isa_tables()}


def test_misspelt_variables_are_found() -> None:
    assert knobs.unknown({"MOESTRO_ISA": "avx2", "MOESTRO_IAS": "avx2", "PATH": "/bin"}) == ["MOESTRO_IAS"]


def test_nothing_else_reads_a_variable_of_ours() -> None:
    package = Path(knobs.__file__).parent
    readers = [
        path.name
        for path in package.rglob("*.py")
        if "MOESTRO_" in path.read_text() and ("environ" in path.read_text() or "getenv" in path.read_text())
    ]
    assert set(readers) <= {"knobs.py", "machine.py", "cache_dir.py"}
