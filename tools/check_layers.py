"""Refuses an #include or import that points up: lower layers never know higher ones.

    python tools/check_layers.py [ROOT]

Scans csrc/**/*.{h,inl,cpp,cu,cuh} and python/moestro/**/*.py below ROOT (default: this checkout). Prints one line per
violation and exits 1 when there is any. The two tables below are the whole rule; a new folder is one line in them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Lowest first. A folder sees itself and every earlier line, not its neighbours on the same line.
CPP_LEVELS: tuple[tuple[str, ...], ...] = (
    ("base",),
    ("quant", "io", "policy"),
    ("kernels",),
    ("memory",),
    ("device",),
    ("store",),
    ("residency",),
    ("exec",),
    ("engine",),
    ("layers",),
    ("sim",),
    ("bind",),
)

# The same for the files and folders directly below python/moestro.
PYTHON_LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "_core"),
    ("units", "knobs", "stream_shape"),
    ("device_names",),
    ("config", "memory_limits", "cache_dir", "threads"),
    ("core",),
    ("checkpoint", "trace"),
    ("plan", "learn"),
    ("kv",),
    ("layers",),
    ("models",),
    ("spec", "text"),
    ("gen", "pack", "report"),
    ("prepare", "demo"),
    ("llm",),
    ("server", "cli", "integrations"),
)
# They re-export or start the rest.
PYTHON_ROOTS = {"__init__", "__main__"}

# Seconds to import: only inside the functions that need them, and in plan and trace, which work on any laptop, not at
# all: what is trained on traces is trained in learn. integrations/ is loaded by people who have imported them already.
HEAVY = {"torch", "transformers"}
HEAVY_ANYWHERE = {"integrations"}
HEAVY_NEVER = {"plan", "trace"}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def ranks(levels: tuple[tuple[str, ...], ...]) -> dict[str, int]:
    return {name: rank for rank, names in enumerate(levels) for name in names}


def upward(source: str, target: str, rank: dict[str, int]) -> str | None:
    """Why `source` may not see `target`, or None when it may."""
    if source == target:
        return None
    for name in (source, target):
        if name not in rank:
            return f"{name} is in no layer: add it to the table in tools/check_layers.py"
    if rank[target] < rank[source]:
        return None
    relation = "a neighbour of" if rank[target] == rank[source] else "above"
    return f"{target} is {relation} {source}"


def check_cpp(root: Path) -> Iterator[str]:
    rank = ranks(CPP_LEVELS)
    csrc = root / "csrc"
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in {".h", ".inl", ".cpp", ".cu", ".cuh"}):
        source = path.relative_to(csrc).parts[0]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            where = f'{path.relative_to(root)}:{number}: #include "{match[1]}"'
            if not (csrc / match[1]).is_file():
                yield f"{where}: no such file; includes are written from csrc/"
            elif reason := upward(source, match[1].split("/")[0], rank):
                yield f"{where}: {reason}"


def imported_names(node: ast.stmt, package: tuple[str, ...]) -> list[str]:
    """Dotted names that an import statement of a module in `package` may bind; none for any other statement."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else ()
        origin = ".".join((*base, *(node.module.split(".") if node.module else ())))
        return (
            [origin]
            if origin != "moestro"
            else [f"moestro.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
        )
    return []


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk_imports(node: ast.AST, at_import_time: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """Every import statement below `node`, with whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_import_time
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child)
            yield from walk_imports(child, at_import_time and not later)


def refuse_import(source: str, name: str, at_import_time: bool, rank: dict[str, int]) -> str | None:
    """Why the module or folder `source` of moestro may not import `name`, or None when it may."""
    top, *rest = name.split(".")
    if top in HEAVY and source in HEAVY_NEVER:
        return f"{source} does without {top}"
    if top in HEAVY and at_import_time and source not in HEAVY_ANYWHERE:
        return f"{top} takes seconds to import: import it inside the function that needs it"
    if top != "moestro" or source in PYTHON_ROOTS:
        return None
    if not rest:
        return "import the module that defines the name, not the package"
    return upward(source, rest[0], rank)


def check_python(root: Path) -> Iterator[str]:
    rank = ranks(PYTHON_LEVELS)
    python = root / "python"
    for path in sorted((python / "moestro").rglob("*.py")):
        parts = path.relative_to(python).with_suffix("").parts
        source, package = parts[1], parts[:-1]
        for node, at_import_time in walk_imports(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            for name in imported_names(node, package):
                if reason := refuse_import(source, name, at_import_time, rank):
                    yield f"{path.relative_to(root)}:{node.lineno}: import {name}: {reason}"


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    violations = [*check_cpp(root), *check_python(root)]
    for line in violations:
        print(line)
    print(f"check_layers: {len(violations)} violation(s)")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
