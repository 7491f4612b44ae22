"""_core.pyi describes the extension: the same names, and of every function the same parameters and defaults."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import moestro
from moestro import _core

STUB = ast.parse((Path(moestro.__file__).parent / "_core.pyi").read_text())
ARRAYS = {"F32", "I32", "I64", "U8"}

# A parameter: its name, and its default or None where it has none. "*" begins the keyword-only ones.
Parameters = list[tuple[str, str | None]]


def stub_parameters(function: ast.FunctionDef) -> Parameters:
    arguments = function.args
    required: list[ast.expr | None] = [None] * (len(arguments.args) - len(arguments.defaults))
    found = [
        (argument.arg, None if default is None else ast.unparse(default))
        for argument, default in zip(arguments.args, [*required, *arguments.defaults], strict=True)
    ]
    if arguments.kwonlyargs:
        found.append(("*", None))
        found += [
            (argument.arg, None if default is None else ast.unparse(default))
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        ]
    return [(name, default) for name, default in found if name != "self"]


def bound_parameters(name: str, function: Any) -> Parameters:
    """From the signature pybind11 writes into the first line of every docstring."""
    line = (function.__doc__ or "").splitlines()[0]
    match = re.fullmatch(rf"{re.escape(name)}\((.*)\) -> .*", line)
    assert match, f"{name}: {line!r}"
    parsed = ast.parse(f"def f({_without_objects(match[1])}): ...").body[0]
    assert isinstance(parsed, ast.FunctionDef)
    return [(argument, default) for argument, default in stub_parameters(parsed) if argument != "self"]


def _without_objects(signature: str) -> str:
    """Annotations are not compared; some are no Python."""
    plain, depth = "", 0
    skipping = False
    for character in signature:
        depth += character in "[("
        depth -= character in "])"
        if character == ":" and depth == 0:
            skipping = True
        elif skipping and depth == 0 and character in ",=":
            skipping = False
        if not skipping:
            plain += character
    return plain


def functions(body: list[ast.stmt]) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def is_property(node: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list)


CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
VALUES = {node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


def test_the_same_names() -> None:
    bound = {name for name in vars(_core) if not name.startswith("_")} | {"__version__"}
    assert bound == functions(STUB.body).keys() | CLASSES.keys() | VALUES | ARRAYS


@pytest.mark.parametrize("name", functions(STUB.body))
def test_functions_take_the_same(name: str) -> None:
    assert bound_parameters(name, getattr(_core, name)) == stub_parameters(functions(STUB.body)[name])


@pytest.mark.parametrize("name", CLASSES)
def test_classes_offer_the_same(name: str) -> None:
    bound, methods = getattr(_core, name), functions(CLASSES[name].body)
    public = {member for member in vars(bound) if not member.startswith("_")}
    assert public == methods.keys() - {"__init__"}
    for method, node in methods.items():
        if is_property(node):
            assert isinstance(vars(bound)[method], property), method
        else:
            assert bound_parameters(method, getattr(bound, method)) == stub_parameters(node), method
    if "__init__" not in methods:
        with pytest.raises(TypeError, match="No constructor"):
            bound()


def test_constants_have_the_type_they_say() -> None:
    assert (_core.KV_BLOCK, _core.__version__.count(".")) == (64, 2)
    for name in ("FORMATS", "KV_TYPES", "POLICIES", "READERS"):
        value = getattr(_core, name)
        assert isinstance(value, tuple)
        assert all(isinstance(item, str) for item in value)
