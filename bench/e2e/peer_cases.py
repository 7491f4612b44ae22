"""Who is compared: every case that can run here, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path

from active_weights import bf16_bytes, gguf_bytes, moestro_bytes
from moestro import EngineConfig, core
from moestro.demo.random_model import Shape
from peer_models import PeerModels

_LLAMA = 'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python'
_REPACKED = {"Q4_0", "Q4_K_M"}  # formats that llama.cpp may hold in a second layout
_BITS = {"BF16": "bf16", "Q8_0": "q8", "Q4_0": "q4", "Q4_K_M": "q4"}


@dataclass(frozen=True)
class Case:
    """One peer with one form of the weights."""

    name: str
    family: str  # "moestro" | "llama.cpp" | "transformers"
    bits: str  # "bf16" | "q8" | "q4": only equal ones are compared
    script: str
    model: Path
    active_bytes: int  # weights read per token
    unit: str  # the arithmetic that its prefill could use: "f32" | "bf16" | "int8"
    isa: str | None = None  # moestro's instruction set; None: the best
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"MOESTRO_ISA": self.isa} if self.isa else {}


@dataclass(frozen=True)
class Absent:
    name: str
    reason: str  # with what to do about it


def find_cases(
    models: PeerModels, shape: Shape, vocab: int, isas: Sequence[str | None], only: Sequence[str]
) -> Iterator[Case | Absent]:
    """only: parts of names; empty takes all. Models are made on the way, for the cases that will run."""

    def wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    for isa in isas:
        for format, math in (("bf16", "exact"), ("bf16", "fast"), ("q8", "exact"), ("q4", "exact")):
            name = " ".join(["moestro", format, *([math] if math != "exact" else []), *([isa] if isa else [])])
            confined = math == "fast" and isa in ("scalar", "avx2")  # tables that compute fast as exact
            if wanted(name) and not confined:
                yield _moestro(name, format, math, isa, models, shape, vocab)
    for format in _BITS:
        for repack in (True, False) if format in _REPACKED else (True,):
            name = f"llama.cpp {format}" + ("" if repack else " no repack")
            if wanted(name):
                yield _llama(name, format, repack, models, shape)
    if wanted("transformers bf16"):
        yield _transformers(models, shape, vocab)


def _moestro(
    name: str, format: str, math: str, isa: str | None, models: PeerModels, shape: Shape, vocab: int
) -> Case | Absent:
    if math != "exact" and "math" not in {field.name for field in fields(EngineConfig)}:
        return Absent(name, f"this moestro has no math={math!r} setting")
    if math == "fast" and "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        return Absent(name, "this CPU has no AVX512_BF16, without which fast is exact")
    usable = {table["name"] for table in core.isa_tables() if table["usable"]}
    if isa is not None and isa not in usable:
        return Absent(name, f"this CPU has no {isa}; usable here: {', '.join(sorted(usable))}")
    unit = "int8" if format != "bf16" else "f32" if math == "exact" else "bf16"
    options = {} if math == "exact" else {"math": math}
    active = moestro_bytes(shape, vocab, format)
    return Case(name, "moestro", format, "run_moestro.py", models.packed(format), active, unit, isa, options)


def _llama(name: str, format: str, repack: bool, models: PeerModels, shape: Shape) -> Case | Absent:
    for module, command in (("llama_cpp", _LLAMA), ("gguf", "pip install gguf")):
        if find_spec(module) is None:
            return Absent(name, f"{module} is not installed: {command}")
    try:
        model = models.gguf(format)
    except RuntimeError as error:
        return Absent(name, str(error))
    unit = "bf16" if format == "BF16" else "int8"
    active, options = gguf_bytes(model, shape), {"repack": repack}
    return Case(name, "llama.cpp", _BITS[format], "run_llama.py", model, active, unit, None, options)


def _transformers(models: PeerModels, shape: Shape, vocab: int) -> Case | Absent:
    name = "transformers bf16"
    for module in ("transformers", "torch"):
        if find_spec(module) is None:
            return Absent(name, f"{module} is not installed: pip install {module}")
    active = bf16_bytes(shape, vocab)
    return Case(name, "transformers", "bf16", "run_transformers.py", models.checkpoint(), active, "bf16")
