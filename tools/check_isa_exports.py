"""Refuses a kernel object that gives the linker more than its table.

    python tools/check_isa_exports.py BUILD_DIR | OBJECT...

Objects named isa_<name>*.o are compiled for one instruction set each. A weak symbol in one (an inline function that
was not inlined, a template of a shared header) may be the copy that the linker keeps for the whole program, and then
code for AVX-512 runs on a CPU without it. So every such object must define exactly one global symbol, the accessor of
its table, and nothing weak. Exits 1 naming each surplus symbol, 2 when there is no object to look at.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# nm's letters: a lower-case one is local unless it is one of these: weak (W w V v), unique (u), common (C).
SHARED_LETTERS = "WwVvuC"
# Not code: a pointer to the C++ exception personality, the same in every object.
HARMLESS_PREFIX = "DW.ref."


def find_objects(arguments: list[str]) -> list[Path]:
    objects: list[Path] = []
    for path in map(Path, arguments):
        objects += sorted(path.rglob("isa_*.o")) if path.is_dir() else [path]
    return objects


def defined_symbols(path: Path) -> list[tuple[str, str]]:
    """(letter, demangled name) of every symbol that the object defines."""
    listing = subprocess.run(
        ["nm", "--demangle", "--defined-only", str(path)], check=True, capture_output=True, text=True
    ).stdout
    symbols = []
    for line in listing.splitlines():
        _, letter, name = line.split(maxsplit=2)
        symbols.append((letter, name))
    return symbols


def complaints(symbols: list[tuple[str, str]]) -> list[str]:
    """What is wrong with one object's symbols; empty when it exports its table alone."""
    shared = [name for letter, name in symbols if letter in SHARED_LETTERS and not name.startswith(HARMLESS_PREFIX)]
    strong = [name for letter, name in symbols if letter.isupper() and letter not in SHARED_LETTERS]
    found = [f"weak symbol, may replace every other copy in the program: {name}" for name in shared]
    if len(strong) != 1:
        found.append(f"must define one global symbol, its table, but defines {len(strong)}: {', '.join(strong)}")
    return found


def main(arguments: list[str]) -> int:
    objects = find_objects(arguments)
    if not objects:
        print("check_isa_exports: no isa_*.o found; build first (cmake --preset dev && cmake --build --preset dev)")
        return 2
    bad = 0
    for path in objects:
        for complaint in complaints(defined_symbols(path)):
            print(f"{path.name}: {complaint}")
            bad += 1
    print(f"check_isa_exports: {len(objects)} object(s), {bad} complaint(s)")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
